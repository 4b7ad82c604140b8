// SPDX-License-Identifier: Apache-2.0
#include "ngram_log_ratio.h"

#include <stdexcept>
#include <string>

#include "ngrams.h"

namespace moot {
namespace {

constexpr std::size_t kBlock = 256;  // positions; their buckets stay in the first-level cache

[[noreturn]] void refuse(const std::string& message) { throw std::invalid_argument(message); }

/// Hand the buckets of every document of [start, stop) to take, block by block, then call done.
template <class Token, class Take, class Done>
void each_document(std::span<const Token> tokens, std::span<const std::int64_t> cu_seqlens,
                   const NgramRule& rule, std::size_t start, std::size_t stop, Take take,
                   Done done) {
  if (start > stop || stop >= cu_seqlens.size()) refuse("start and stop leave the documents");
  const auto mask = static_cast<std::uint32_t>(rule.num_buckets - 1);
  std::uint32_t buckets[kMaxOrder * kBlock];
  for (std::size_t document = start; document < stop; ++document) {
    const std::int64_t begin = cu_seqlens[document];
    const std::int64_t end = cu_seqlens[document + 1];
    if (begin < 0 || end < begin || end > static_cast<std::int64_t>(tokens.size())) {
      refuse("cu_seqlens leaves the tokens or descends at document " + std::to_string(document));
    }
    const Token* words = tokens.data() + begin;
    const auto length = static_cast<std::size_t>(end - begin);
    for (std::size_t position = 0; position < length; position += kBlock) {
      take(buckets, hash_ngrams<kBlock>(words, length, position, rule.orders, mask, buckets));
    }
    done(document);
  }
}

}  // namespace

template <class Token>
void ngram_log_ratio(std::span<const Token> tokens, std::span<const std::int64_t> cu_seqlens,
                     const NgramRule& rule, const std::int32_t* table, double* out,
                     std::size_t start, std::size_t stop) {
  std::int64_t sum = 0;
  const auto take = [&sum, table](const std::uint32_t* buckets, std::size_t count) {
    std::int64_t even = 0;
    std::int64_t odd = 0;
    std::size_t i = 0;
    for (; i + 2 <= count; i += 2) {
      even += table[buckets[i]];
      odd += table[buckets[i + 1]];
    }
    if (i < count) even += table[buckets[i]];
    sum += even + odd;
  };
  const auto done = [&sum, out](std::size_t document) {
    out[document] = static_cast<double>(sum) * kLogRatioStep;
    sum = 0;
  };
  each_document(tokens, cu_seqlens, rule, start, stop, take, done);
}

template <class Token>
void count_ngrams(std::span<const Token> tokens, std::span<const std::int64_t> cu_seqlens,
                  const NgramRule& rule, std::int64_t* counts, std::size_t start,
                  std::size_t stop) {
  const auto take = [counts](const std::uint32_t* buckets, std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) ++counts[buckets[i]];
  };
  each_document(tokens, cu_seqlens, rule, start, stop, take, [](std::size_t) {});
}

#define MOOT_INSTANTIATE(Token)                                                                  \
  template void ngram_log_ratio<Token>(std::span<const Token>, std::span<const std::int64_t>,    \
                                       const NgramRule&, const std::int32_t*, double*,           \
                                       std::size_t, std::size_t);                                \
  template void count_ngrams<Token>(std::span<const Token>, std::span<const std::int64_t>,       \
                                    const NgramRule&, std::int64_t*, std::size_t, std::size_t);
MOOT_INSTANTIATE(std::uint16_t)
MOOT_INSTANTIATE(std::int32_t)
MOOT_INSTANTIATE(std::int64_t)
#undef MOOT_INSTANTIATE

}  // namespace moot
