// SPDX-License-Identifier: Apache-2.0
#include "elements.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <numeric>
#include <utility>

namespace moot {
namespace {

struct DtypeName {
  std::string_view name;
  Dtype dtype;
};
constexpr std::array<DtypeName, 11> kDtypes = {{{"uint8", Dtype::u8}, {"int8", Dtype::i8},
    {"uint16", Dtype::u16}, {"int16", Dtype::i16}, {"float16", Dtype::f16}, {"uint32", Dtype::u32},
    {"int32", Dtype::i32}, {"float32", Dtype::f32}, {"uint64", Dtype::u64}, {"int64", Dtype::i64},
    {"float64", Dtype::f64}}};

// The kind in the low bits of the format's code: 0 unsigned, 1 signed, 2 floating.
int dtype_family(Dtype dtype) { return static_cast<int>(dtype) & 3; }

template <typename From, typename To>
void copy_elements(const std::uint8_t* from, std::uint8_t* to, std::size_t count) {
  if constexpr (std::is_same_v<From, To>) {
    std::memcpy(to, from, count * sizeof(To));
  } else {
    for (std::size_t i = 0; i < count; ++i) {
      From value;
      std::memcpy(&value, from + i * sizeof(From), sizeof(From));
      const To wide = static_cast<To>(value);
      std::memcpy(to + i * sizeof(To), &wide, sizeof(To));
    }
  }
}

using Copy = void (*)(const std::uint8_t*, std::uint8_t*, std::size_t);

template <typename To>
Copy copy_from(Dtype from) {
  switch (from) {
    case Dtype::u8: return copy_elements<std::uint8_t, To>;
    case Dtype::i8: return copy_elements<std::int8_t, To>;
    case Dtype::u16: return copy_elements<std::uint16_t, To>;
    case Dtype::i16: return copy_elements<std::int16_t, To>;
    case Dtype::u32: return copy_elements<std::uint32_t, To>;
    case Dtype::i32: return copy_elements<std::int32_t, To>;
    default: return nullptr;
  }
}

Copy copy_same(std::size_t bytes) {
  switch (bytes) {
    case 1: return copy_elements<std::uint8_t, std::uint8_t>;
    case 2: return copy_elements<std::uint16_t, std::uint16_t>;
    case 4: return copy_elements<std::uint32_t, std::uint32_t>;
    default: return copy_elements<std::uint64_t, std::uint64_t>;
  }
}

// The copy for a pair of types that `widens` allows.
Copy copy_of(Dtype from, Dtype to) {
  if (from == to) return copy_same(dtype_bytes(to));
  switch (to) {
    case Dtype::u16: return copy_from<std::uint16_t>(from);
    case Dtype::i16: return copy_from<std::int16_t>(from);
    case Dtype::u32: return copy_from<std::uint32_t>(from);
    case Dtype::i32: return copy_from<std::int32_t>(from);
    case Dtype::u64: return copy_from<std::uint64_t>(from);
    case Dtype::i64: return copy_from<std::int64_t>(from);
    default: return nullptr;
  }
}

[[noreturn]] void fault(const Elements& table, std::size_t row, const std::string& what) {
  throw ShardFault(table.where() + ", sample " + std::to_string(row) + ": " + what);
}

struct Piece {
  const std::uint8_t* from;
  std::size_t count;
  Dtype dtype;
};

std::vector<Piece> locate(std::span<const Elements* const> tables, const PieceList& pieces) {
  const std::size_t num_pieces = pieces.table.size();
  if (pieces.row.size() != num_pieces || pieces.offset.size() != num_pieces ||
      pieces.length.size() != num_pieces) {
    throw std::invalid_argument("the lists of pieces must be equally long");
  }
  std::vector<Piece> found;
  found.reserve(num_pieces);
  for (std::size_t i = 0; i < num_pieces; ++i) {
    const std::int32_t pos = pieces.table[i];
    if (pos < 0 || static_cast<std::size_t>(pos) >= tables.size()) {
      throw std::invalid_argument("piece " + std::to_string(i) + ": there is no shard at position " +
                                  std::to_string(pos));
    }
    const Elements& table = *tables[static_cast<std::size_t>(pos)];
    const auto row = static_cast<std::size_t>(pieces.row[i]);
    if (pieces.row[i] < 0 || row >= table.num_rows()) {
      throw ShardFault(table.where() + ", sample " + std::to_string(pieces.row[i]) +
                       ": the shard has " + std::to_string(table.num_rows()) + " samples");
    }
    const std::int64_t count = table.count()[row];
    const std::int64_t offset = pieces.offset[i];
    const std::int64_t length = pieces.length[i];
    if (offset < 0 || length < 0 || offset > count || length > count - offset) {
      fault(table, row, "elements " + std::to_string(offset) + " to " +
                            std::to_string(offset + length) + " were asked for, it has " +
                            std::to_string(count));
    }
    const Dtype dtype = table.dtype(row);
    found.push_back({table.data(row) + static_cast<std::size_t>(offset) * dtype_bytes(dtype),
                     static_cast<std::size_t>(length), dtype});
  }
  return found;
}

void check_types(std::span<const Elements* const> tables, const PieceList& pieces,
                 const std::vector<Piece>& found, Dtype out) {
  for (std::size_t i = 0; i < found.size(); ++i) {
    if (widens(found[i].dtype, out)) continue;
    fault(*tables[static_cast<std::size_t>(pieces.table[i])], static_cast<std::size_t>(pieces.row[i]),
          "holds " + std::string(dtype_name(found[i].dtype)) + ", which " +
              std::string(dtype_name(out)) + " cannot hold");
  }
}

void check_targets(const std::vector<Piece>& found, std::span<const std::int64_t> target,
                   std::size_t size) {
  std::int64_t free = 0;
  for (std::size_t i = 0; i < found.size(); ++i) {
    const auto count = static_cast<std::int64_t>(found[i].count);
    if (target[i] < free || count > static_cast<std::int64_t>(size) - target[i]) {
      throw std::out_of_range("piece " + std::to_string(i) + " of " + std::to_string(found.size()) +
                              " overlaps the one before it or leaves the rows");
    }
    free = target[i] + count;
  }
}

// Calls run(begin, end, piece or nullptr) for every stretch between two borders: row ends, the ends of
// pieces, and of the gaps between them.
template <typename Run>
void for_segments(const std::vector<Piece>& found, std::span<const std::int64_t> target,
                  std::size_t size, std::size_t row_tokens, Run run) {
  const auto stretch = [&](std::size_t begin, std::size_t end, bool is_padding) {
    while (begin < end) {
      const std::size_t stop = std::min(end, (begin / row_tokens + 1) * row_tokens);
      run(begin, stop, is_padding);
      begin = stop;
    }
  };
  std::size_t at = 0;
  for (std::size_t i = 0; i < found.size(); ++i) {
    const auto begin = static_cast<std::size_t>(target[i]);
    stretch(at, begin, true);
    at = begin + found[i].count;
    stretch(begin, at, false);
  }
  stretch(at, size, true);
}

void fill_pad(std::span<std::uint8_t> out, Dtype dtype, std::size_t begin, std::size_t end,
              std::int64_t pad) {
  const std::size_t bytes = dtype_bytes(dtype);  // little-endian: the low bytes come first
  for (std::size_t i = begin; i < end; ++i) std::memcpy(out.data() + i * bytes, &pad, bytes);
}

void copy_all(const std::vector<Piece>& found, std::span<const std::int64_t> target, Dtype out_dtype,
              std::uint8_t* out) {
  const std::size_t bytes = dtype_bytes(out_dtype);
  for (std::size_t i = 0; i < found.size(); ++i) {
    copy_of(found[i].dtype, out_dtype)(found[i].from,
                                       out + static_cast<std::size_t>(target[i]) * bytes,
                                       found[i].count);
  }
}

}  // namespace

std::size_t dtype_bytes(Dtype dtype) {
  const auto bits = static_cast<std::size_t>(dtype) & ~std::size_t{7};
  return bits / 8;
}

bool find_dtype(std::string_view name, Dtype& found) {
  for (const DtypeName& known : kDtypes) {
    if (known.name != name) continue;
    found = known.dtype;
    return true;
  }
  return false;
}

bool find_dtype(std::uint8_t code, Dtype& found) {
  for (const DtypeName& known : kDtypes) {
    if (static_cast<std::uint8_t>(known.dtype) != code) continue;
    found = known.dtype;
    return true;
  }
  return false;
}

std::string_view dtype_name(Dtype dtype) {
  for (const DtypeName& known : kDtypes) {
    if (known.dtype == dtype) return known.name;
  }
  return "?";
}

bool widens(Dtype from, Dtype to) {
  if (from == to) return true;
  const bool integers = dtype_family(from) != 2 && dtype_family(to) != 2;
  const bool keeps_sign = dtype_family(from) == 0 || dtype_family(to) == 1;
  return integers && keeps_sign && dtype_bytes(from) < dtype_bytes(to);
}

Elements::Elements(std::span<const std::uint8_t> bytes, std::vector<std::int64_t> begin,
                   std::vector<std::uint32_t> count, Dtype dtype, std::vector<Dtype> dtypes,
                   std::string where)
    : bytes_(bytes),
      begin_(std::move(begin)),
      count_(std::move(count)),
      dtypes_(std::move(dtypes)),
      dtype_(dtype),
      where_(std::move(where)) {
  if (begin_.size() != count_.size() || (!dtypes_.empty() && dtypes_.size() != count_.size())) {
    throw std::invalid_argument("begin, count and dtypes must be equally long");
  }
  for (std::size_t row = 0; row < begin_.size(); ++row) {
    const std::int64_t room = static_cast<std::int64_t>(bytes_.size()) - begin_[row];
    const auto need = static_cast<std::int64_t>(count_[row] * dtype_bytes(this->dtype(row)));
    if (begin_[row] < 0 || need > room) fault(*this, row, "its bytes leave the file");
  }
}

Dtype Elements::dtype() const {
  for (std::size_t row = 1; row < dtypes_.size(); ++row) {
    if (dtypes_[row] != dtypes_[0]) fault(*this, row, "is of another type than the sample before it");
  }
  return dtypes_.empty() ? dtype_ : dtypes_[0];
}

void gather(std::span<const Elements* const> tables, const PieceList& pieces, Dtype out_dtype,
            std::span<std::uint8_t> out) {
  const std::vector<Piece> found = locate(tables, pieces);
  check_types(tables, pieces, found, out_dtype);
  std::size_t total = 0;
  for (const Piece& piece : found) total += piece.count;
  const std::size_t bytes = dtype_bytes(out_dtype);
  if (total != out.size() / bytes) {
    throw std::invalid_argument("the pieces hold " + std::to_string(total) + " elements, out has " +
                                std::to_string(out.size() / bytes));
  }
  std::uint8_t* to = out.data();
  for (const Piece& piece : found) {
    copy_of(piece.dtype, out_dtype)(piece.from, to, piece.count);
    to += piece.count * bytes;
  }
}

void pack(std::span<const Elements* const> tables, const PieceList& pieces,
          std::span<const std::int64_t> target, std::int64_t row_tokens, std::int64_t pad,
          const Rows& rows) {
  if (row_tokens < 1) throw std::invalid_argument("row_tokens must be positive");
  if (target.size() != pieces.row.size()) throw std::invalid_argument("a target for each piece");
  const std::vector<Piece> found = locate(tables, pieces);
  const bool has_ids = !rows.input_ids.empty() || !rows.labels.empty();
  if (!rows.tokens.empty()) check_types(tables, pieces, found, rows.token_dtype);
  if (has_ids) check_types(tables, pieces, found, Dtype::i64);
  check_targets(found, target, rows.size);
  const auto bytes_of = [](std::span<std::int64_t> out) {
    return reinterpret_cast<std::uint8_t*>(out.data());
  };
  if (!rows.tokens.empty()) copy_all(found, target, rows.token_dtype, rows.tokens.data());
  if (!rows.input_ids.empty()) copy_all(found, target, Dtype::i64, bytes_of(rows.input_ids));
  if (!rows.labels.empty()) copy_all(found, target, Dtype::i64, bytes_of(rows.labels));
  const auto segment = [&](std::size_t begin, std::size_t end, bool is_padding) {
    if (!rows.position_ids.empty()) {
      const auto first = rows.position_ids.begin() + static_cast<std::ptrdiff_t>(begin);
      std::iota(first, first + static_cast<std::ptrdiff_t>(end - begin), std::int64_t{0});
    }
    if (!rows.labels.empty()) rows.labels[begin] = -100;
    if (!is_padding) return;
    if (!rows.tokens.empty()) fill_pad(rows.tokens, rows.token_dtype, begin, end, pad);
    for (std::size_t i = begin; i < end; ++i) {
      if (!rows.input_ids.empty()) rows.input_ids[i] = pad;
      if (!rows.labels.empty()) rows.labels[i] = -100;
    }
  };
  for_segments(found, target, rows.size, static_cast<std::size_t>(row_tokens), segment);
}

}  // namespace moot
