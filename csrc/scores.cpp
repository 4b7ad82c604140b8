// SPDX-License-Identifier: Apache-2.0
#include "scores.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "ngrams.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace moot {
namespace {

constexpr std::size_t kBlock = 64;  // positions; 3 * 64 rows of int8 fit an int16 sum (limit 255)
constexpr std::size_t kAhead = 16;  // rows fetched before they are added
constexpr std::size_t kFlush = 1u << 16;  // blocks; 2^16 * 192 * 128 fits an int32 sum

typedef std::int8_t bytes16 __attribute__((vector_size(16)));
typedef std::int16_t shorts16 __attribute__((vector_size(32)));

/// Sixteen columns of a row. GCC 12 makes five instructions of what AVX2 has one for.
inline shorts16 widen(const std::int8_t* source) {
#if defined(__AVX2__)
  const auto* address = reinterpret_cast<const __m128i*>(source);
  return reinterpret_cast<shorts16>(_mm256_cvtepi8_epi16(_mm_loadu_si128(address)));
#else
  bytes16 bytes;
  std::memcpy(&bytes, source, sizeof(bytes));
  return __builtin_convertvector(bytes, shorts16);
#endif
}

/// Add columns [0, 16 * kVectors) of the listed rows to bag; the sums stay in registers.
template <int kVectors>
void add_columns(const std::int8_t* table, std::size_t dim, std::span<const std::uint32_t> rows,
                 std::int32_t* bag) {
  shorts16 sums[kVectors] = {};
  for (std::size_t i = 0; i < rows.size(); ++i) {
    if constexpr (kVectors > 1) {  // a wide table leaves the caches
      const std::size_t ahead = rows[std::min(i + kAhead, rows.size() - 1)];
      __builtin_prefetch(table + ahead * dim);
    }
    const std::int8_t* source = table + static_cast<std::size_t>(rows[i]) * dim;
    for (int v = 0; v < kVectors; ++v) sums[v] += widen(source + 16 * v);
  }
  for (int v = 0; v < kVectors; ++v) {
    for (int lane = 0; lane < 16; ++lane) bag[16 * v + lane] += sums[v][lane];
  }
}

/// The sum of a document's rows: int32 lanes, flushed to int64 before they can overflow.
class Bag {
 public:
  explicit Bag(std::size_t dim) : low_(dim), high_(dim) {}

  void clear() {
    std::fill(low_.begin(), low_.end(), 0);
    if (has_high_) std::fill(high_.begin(), high_.end(), 0);
    has_high_ = false;
    num_blocks_ = 0;
  }

  /// Add at most 255 rows.
  void add(const std::int8_t* table, std::span<const std::uint32_t> rows) {
    if (num_blocks_++ == kFlush) flush();
    const std::size_t dim = low_.size();
    std::size_t column = 0;
    for (; column + 64 <= dim; column += 64) {
      add_columns<4>(table + column, dim, rows, low_.data() + column);
    }
    for (; column < dim; column += 16) {
      add_columns<1>(table + column, dim, rows, low_.data() + column);
    }
  }

  std::int64_t dot(const std::int16_t* head) const {
    std::int64_t sum = 0;
    for (std::size_t d = 0; d < low_.size(); ++d) {
      sum += static_cast<std::int64_t>(low_[d]) * head[d];
    }
    for (std::size_t d = 0; has_high_ && d < high_.size(); ++d) sum += high_[d] * head[d];
    return sum;
  }

 private:
  void flush() {
    for (std::size_t d = 0; d < low_.size(); ++d) high_[d] += low_[d];
    std::fill(low_.begin(), low_.end(), 0);
    has_high_ = true;
    num_blocks_ = 1;
  }

  std::vector<std::int32_t> low_;
  std::vector<std::int64_t> high_;
  bool has_high_ = true;
  std::size_t num_blocks_ = 0;
};

/// Fill a document's bag; returns its number of n-grams.
template <class Token>
std::int64_t fill(Bag& bag, std::span<const Token> document, const NgramModel& model) {
  const auto mask = static_cast<std::uint32_t>(model.num_buckets - 1);
  std::uint32_t buckets[kMaxOrder * kBlock];
  std::int64_t count = 0;
  bag.clear();
  for (std::size_t position = 0; position < document.size(); position += kBlock) {
    const std::size_t rows = hash_ngrams<kBlock>(document.data(), document.size(), position,
                                                 model.orders, mask, buckets);
    bag.add(model.table, {buckets, rows});
    count += static_cast<std::int64_t>(rows);
  }
  return count;
}

/// One correctly rounded fp32 operation after another; a document without n-grams gets the bias.
void head_values(const Bag& bag, std::int64_t count, const NgramModel& model, float* values) {
  const std::int64_t weighed = std::max<std::int64_t>(count, 1);
  for (std::size_t head = 0; head < model.bias.size(); ++head) {
    const std::int64_t sum = bag.dot(model.heads + head * model.dim) + weighed * model.bias[head];
    values[head] = static_cast<float>(sum) * model.scale[head] / static_cast<float>(weighed);
  }
}

std::int32_t inline_state(const float* values, const AgentTables& agents, std::size_t agent) {
  const float* first = values + agents.first_head[agent];
  const std::int32_t last = agents.num_states[agent] - 1;
  if (agents.kind[agent] == 2) {
    std::int32_t best = 0;
    for (std::int32_t state = 1; state <= last; ++state) {
      if (first[state] > first[best]) best = state;
    }
    return best;
  }
  const float* edges = agents.edges + agent * (agents.max_states - 1);
  std::int32_t above = 0;
  for (std::size_t edge = 0; edge + 1 < agents.max_states; ++edge) above += edges[edge] <= *first;
  return std::min(above, last);
}

[[noreturn]] void refuse(const std::string& message) { throw std::invalid_argument(message); }

/// Refuse agents that read heads or memory which are not there.
void check_agents(const NgramModel& model, const AgentTables& agents, bool has_stored) {
  for (std::size_t agent = 0; agent < agents.kind.size(); ++agent) {
    const auto states = static_cast<std::int64_t>(agents.num_states[agent]);
    const std::int64_t first = agents.first_head[agent];
    const std::int32_t kind = agents.kind[agent];
    const std::string name = "agent " + std::to_string(agent);
    if (kind < 0 || kind > 2) refuse(name + " has an unknown kind; it must be 0, 1 or 2");
    if (states < 1 || states > static_cast<std::int64_t>(agents.max_states)) {
      refuse(name + " has a number of states outside its memory");
    }
    if (kind == 0 && !has_stored) refuse(name + " reads stored states; pass stored_states");
    const std::int64_t needed = kind == 1 ? 1 : states;
    const auto heads = static_cast<std::int64_t>(model.bias.size());
    if (kind != 0 && (first < 0 || first + needed > heads)) {
      refuse(name + " reads heads that the model does not have");
    }
  }
}

void score_agents(const AgentTables& agents, const std::int32_t* stored, const ScoreOutput& out,
                  std::size_t document, const float* values) {
  const std::size_t num_agents = agents.kind.size();
  float total = 0.0f;
  for (std::size_t agent = 0; agent < num_agents; ++agent) {
    const std::size_t place = document * num_agents + agent;
    const bool is_stored = agents.kind[agent] == 0;
    const std::int32_t state = is_stored ? stored[place] : inline_state(values, agents, agent);
    if (state < 0 || state >= agents.num_states[agent]) {
      refuse("stored_states[" + std::to_string(document) + ", " + std::to_string(agent) + "] is " +
             std::to_string(state) + ", not a state of the agent: label the corpus again");
    }
    const float vote = agents.memory[agent * agents.max_states + static_cast<std::size_t>(state)];
    out.states[place] = state;
    out.votes[place] = vote;
    total += agents.theta[agent] * vote;
  }
  out.total[document] = total;
}

}  // namespace

template <class Token>
void document_scores(std::span<const Token> tokens, std::span<const std::int64_t> cu_seqlens,
                     const NgramModel& model, const AgentTables& agents,
                     const std::int32_t* stored_states, const ScoreOutput& out, std::size_t start,
                     std::size_t stop) {
  if (start > stop || stop >= cu_seqlens.size()) refuse("start and stop leave the documents");
  check_agents(model, agents, stored_states != nullptr);
  Bag bag(model.dim);
  for (std::size_t document = start; document < stop; ++document) {
    const std::int64_t begin = cu_seqlens[document];
    const std::int64_t end = cu_seqlens[document + 1];
    if (begin < 0 || end < begin || end > static_cast<std::int64_t>(tokens.size())) {
      refuse("cu_seqlens leaves the tokens or descends at document " + std::to_string(document));
    }
    const auto length = static_cast<std::size_t>(end - begin);
    const auto words = tokens.subspan(static_cast<std::size_t>(begin), length);
    float* values = out.values + document * model.bias.size();
    head_values(bag, fill(bag, words, model), model, values);
    score_agents(agents, stored_states, out, document, values);
  }
}

#define MOOT_INSTANTIATE(Token)                                                                  \
  template void document_scores<Token>(std::span<const Token>, std::span<const std::int64_t>,    \
                                       const NgramModel&, const AgentTables&,                    \
                                       const std::int32_t*, const ScoreOutput&, std::size_t,     \
                                       std::size_t);
MOOT_INSTANTIATE(std::uint16_t)
MOOT_INSTANTIATE(std::int32_t)
MOOT_INSTANTIATE(std::int64_t)
#undef MOOT_INSTANTIATE

}  // namespace moot
