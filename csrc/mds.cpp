// SPDX-License-Identifier: Apache-2.0
#include "mds.h"

#include <array>
#include <bit>
#include <cstring>
#include <utility>

namespace moot {

static_assert(std::endian::native == std::endian::little, "MDS is read in place: little-endian only");

namespace {

constexpr std::uint64_t kWord = sizeof(std::uint32_t);

struct DtypeName {
  std::string_view name;
  Dtype dtype;
};
constexpr std::array<DtypeName, 11> kDtypes = {{{"uint8", Dtype::u8}, {"int8", Dtype::i8},
    {"uint16", Dtype::u16}, {"int16", Dtype::i16}, {"float16", Dtype::f16}, {"uint32", Dtype::u32},
    {"int32", Dtype::i32}, {"float32", Dtype::f32}, {"uint64", Dtype::u64}, {"int64", Dtype::i64},
    {"float64", Dtype::f64}}};

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

// The kind in the low bits of the format's code: 0 unsigned, 1 signed, 2 floating.
int dtype_family(Dtype dtype) { return static_cast<int>(dtype) & 3; }

// The product of dimensions written "2,3,4"; 0 where it is not that or exceeds 32 bits.
std::uint64_t static_count(std::string_view dims) {
  std::uint64_t count = 1;
  std::uint64_t dim = 0;
  bool has_digit = false;
  for (std::size_t i = 0; i <= dims.size(); ++i) {
    if (i < dims.size() && dims[i] >= '0' && dims[i] <= '9') {
      dim = dim * 10 + static_cast<std::uint64_t>(dims[i] - '0');
      has_digit = true;
    } else if ((i == dims.size() || dims[i] == ',') && has_digit) {
      count *= dim;
      dim = 0;
      has_digit = false;
    } else {
      return 0;
    }
    if (dim > UINT32_MAX || count > UINT32_MAX) return 0;
  }
  return count;
}

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

struct Piece {
  const std::uint8_t* from;
  std::size_t count;
  Copy copy;
};

Piece locate(const Source& source, const PieceList& pieces, std::size_t i, Dtype out_dtype) {
  const MdsLayout& layout = *source.layout;
  if (pieces.row[i] < 0) {
    throw std::invalid_argument("piece " + std::to_string(i) + ": a row may not be negative");
  }
  const auto row = static_cast<std::uint64_t>(pieces.row[i]);
  const Elements elements = layout.elements(row, source.column);
  const std::int64_t start = pieces.start[i];
  const std::int64_t stop = pieces.stop[i];
  if (start < 0 || stop < start || stop > static_cast<std::int64_t>(elements.count)) {
    layout.fault(row, "elements " + std::to_string(start) + " to " + std::to_string(stop) +
                          " were asked for, it has " + std::to_string(elements.count));
  }
  if (!widens(elements.dtype, out_dtype)) {
    layout.fault(row, "holds " + std::string(dtype_name(elements.dtype)) + ", which " +
                          std::string(dtype_name(out_dtype)) + " cannot hold");
  }
  const std::uint64_t skipped = static_cast<std::uint64_t>(start) * dtype_bytes(elements.dtype);
  return {layout.data() + elements.offset + skipped, static_cast<std::size_t>(stop - start),
          copy_of(elements.dtype, out_dtype)};
}

}  // namespace

std::size_t dtype_bytes(Dtype dtype) {
  const auto bits = static_cast<std::size_t>(dtype) & ~std::size_t{7};
  return bits / 8;
}

bool widens(Dtype from, Dtype to) {
  if (from == to) return true;
  const bool integers = dtype_family(from) != 2 && dtype_family(to) != 2;
  const bool keeps_sign = dtype_family(from) == 0 || dtype_family(to) == 1;
  return integers && keeps_sign && dtype_bytes(from) < dtype_bytes(to);
}

MdsLayout::Reading MdsLayout::reading(const MdsColumn& column) {
  const std::string_view encoding = column.encoding;
  Reading found{column.fixed_bytes, Kind::bytes, Dtype::u8};
  std::uint64_t expected = 0;
  if (encoding == "int") {
    found = {column.fixed_bytes, Kind::fixed, Dtype::i64};
    expected = dtype_bytes(Dtype::i64);
  } else if (find_dtype(encoding, found.dtype)) {
    found.kind = Kind::fixed;
    expected = dtype_bytes(found.dtype);
  } else if (encoding == "ndarray") {
    found.kind = Kind::tagged;
  } else if (encoding.starts_with("ndarray:")) {
    const std::string_view rest = encoding.substr(8);
    const std::size_t colon = rest.find(':');
    const bool known = find_dtype(rest.substr(0, colon), found.dtype);
    const bool is_static = colon != std::string_view::npos;
    const std::uint64_t count = is_static ? static_count(rest.substr(colon + 1)) : 1;
    if (!known || count == 0) {
      throw std::invalid_argument("column " + column.name + ": unknown encoding " + column.encoding);
    }
    found.kind = is_static ? Kind::fixed : Kind::shaped;
    expected = is_static ? count * dtype_bytes(found.dtype) : 0;
  }
  if (expected != column.fixed_bytes) {
    throw std::invalid_argument("column " + column.name + ": " + column.encoding + " takes " +
                                (expected ? std::to_string(expected) + " bytes" : "no fixed size") +
                                ", the index says " + std::to_string(column.fixed_bytes));
  }
  return found;
}

MdsLayout::MdsLayout(std::span<const std::uint8_t> bytes, std::vector<MdsColumn> columns,
                     std::string shard, std::uint64_t num_samples)
    : bytes_(bytes), columns_(std::move(columns)), shard_(std::move(shard)) {
  for (const MdsColumn& column : columns_) {
    readings_.push_back(reading(column));
    num_variable_ += column.fixed_bytes == 0;
  }
  const std::uint64_t size = bytes_.size();
  const auto refuse = [this](const std::string& what) { throw ShardFault(shard_ + ": " + what); };
  if (size < 2 * kWord) refuse("too short for a header: " + std::to_string(size) + " bytes");
  if (size > UINT32_MAX) refuse("longer than the format can address");
  const std::uint64_t declared = word(0);
  if (declared != num_samples) {
    refuse("holds " + std::to_string(declared) + " samples, the index says " +
           std::to_string(num_samples));
  }
  const std::uint64_t table_end = kWord * (declared + 2);
  if (table_end > size) refuse("its table of offsets runs past the end of the file");
  offsets_.resize(declared + 1);
  std::memcpy(offsets_.data(), bytes_.data() + kWord, kWord * offsets_.size());
  if (offsets_.front() < table_end || offsets_.front() > size) {
    refuse("the first sample begins at byte " + std::to_string(offsets_.front()) +
           ", inside the header or past the end");
  }
  for (std::uint64_t row = 0; row < declared; ++row) {
    if (offsets_[row + 1] >= offsets_[row] && offsets_[row + 1] <= size) continue;
    fault(row, "its bytes " + std::to_string(offsets_[row]) + " to " +
                   std::to_string(offsets_[row + 1]) + " overlap another sample or leave the file");
  }
  if (offsets_.back() != size) {
    refuse("the samples end at byte " + std::to_string(offsets_.back()) + " of " +
           std::to_string(size));
  }
}

void MdsLayout::fault(std::uint64_t row, const std::string& what) const {
  throw ShardFault(shard_ + ", sample " + std::to_string(row) + ": " + what);
}

std::uint32_t MdsLayout::word(std::uint64_t offset) const {
  std::uint32_t value;
  std::memcpy(&value, bytes_.data() + offset, kWord);
  return value;
}

ByteRange MdsLayout::config() const { return {kWord * (offsets_.size() + 1), offsets_.front()}; }

std::size_t MdsLayout::column(std::string_view name) const {
  for (std::size_t i = 0; i < columns_.size(); ++i) {
    if (columns_[i].name == name) return i;
  }
  throw std::out_of_range(shard_ + ": no column named " + std::string(name));
}

ByteRange MdsLayout::cell(std::uint64_t row, std::size_t column) const {
  if (row >= num_samples()) {
    fault(row, "the shard has " + std::to_string(num_samples()) + " samples");
  }
  std::uint64_t size_at = offsets_[row];
  const std::uint64_t end = offsets_[row + 1];
  std::uint64_t begin = size_at + kWord * num_variable_;
  if (begin > end) fault(row, "too short for the sizes of its columns");
  ByteRange found{};
  for (std::size_t i = 0; i < readings_.size(); ++i) {
    std::uint64_t bytes = readings_[i].fixed_bytes;
    if (bytes == 0) {
      bytes = word(size_at);
      size_at += kWord;
    }
    if (i == column) found = {begin, begin + bytes};
    begin += bytes;
  }
  if (begin != end) {
    fault(row, "its columns take " + std::to_string(begin - offsets_[row]) + " bytes of " +
                   std::to_string(end - offsets_[row]));
  }
  return found;
}

Elements MdsLayout::shaped(std::uint64_t row, ByteRange cell, Dtype dtype) const {
  if (cell.begin == cell.end) fault(row, "an array without a shape");
  const std::uint8_t head = bytes_[cell.begin];
  const std::uint64_t dim_bytes = std::uint64_t{1} << (head & 3);
  const std::uint64_t ndim = head >> 2;
  const std::uint64_t values = cell.begin + 1 + ndim * dim_bytes;
  if (ndim == 0 || values > cell.end) fault(row, "the shape of an array does not fit its bytes");
  const std::uint64_t held = (cell.end - values) / dtype_bytes(dtype);
  std::uint64_t count = 1;
  for (std::uint64_t i = 0; i < ndim; ++i) {
    std::uint64_t dim = 0;
    std::memcpy(&dim, bytes_.data() + cell.begin + 1 + i * dim_bytes, dim_bytes);
    if (dim > held) fault(row, "an array has more values than bytes");
    count *= dim;  // both below 2^32: no overflow
    if (count > held) fault(row, "an array has more values than bytes");
  }
  if (count * dtype_bytes(dtype) != cell.end - values) {
    fault(row, "an array of " + std::to_string(count) + " values in " +
                   std::to_string(cell.end - values) + " bytes");
  }
  return {values, static_cast<std::uint32_t>(count), dtype};
}

Elements MdsLayout::elements(std::uint64_t row, std::size_t column) const {
  ByteRange found = cell(row, column);
  const Reading& reading = readings_[column];
  Dtype dtype = reading.dtype;
  if (reading.kind == Kind::bytes || reading.kind == Kind::fixed) {
    const std::uint64_t count = (found.end - found.begin) / dtype_bytes(dtype);
    return {found.begin, static_cast<std::uint32_t>(count), dtype};
  }
  if (reading.kind == Kind::tagged) {
    if (found.begin == found.end) fault(row, "an array without a type");
    const std::uint8_t code = bytes_[found.begin];
    if (!find_dtype(code, dtype)) fault(row, "unknown array type " + std::to_string(code));
    ++found.begin;
  }
  return shaped(row, found, dtype);
}

void MdsLayout::lengths(std::size_t column, std::span<std::uint32_t> out) const {
  for (std::uint64_t row = 0; row < out.size(); ++row) out[row] = elements(row, column).count;
}

void gather(std::span<const Source> sources, const PieceList& pieces, Dtype out_dtype,
            std::span<std::uint8_t> out) {
  const std::size_t num_pieces = pieces.shard_pos.size();
  if (pieces.row.size() != num_pieces || pieces.start.size() != num_pieces ||
      pieces.stop.size() != num_pieces) {
    throw std::invalid_argument("shard_pos, rows, starts and stops must be equally long");
  }
  const std::size_t item_bytes = dtype_bytes(out_dtype);
  std::vector<Piece> found;
  found.reserve(num_pieces);
  std::size_t total = 0;
  for (std::size_t i = 0; i < num_pieces; ++i) {
    const std::int32_t pos = pieces.shard_pos[i];
    if (pos < 0 || static_cast<std::size_t>(pos) >= sources.size()) {
      throw std::invalid_argument("piece " + std::to_string(i) + ": there is no shard at position " +
                                  std::to_string(pos));
    }
    found.push_back(locate(sources[static_cast<std::size_t>(pos)], pieces, i, out_dtype));
    total += found.back().count;
  }
  if (total != out.size() / item_bytes) {
    throw std::invalid_argument("the pieces hold " + std::to_string(total) + " elements, out has " +
                                std::to_string(out.size() / item_bytes));
  }
  std::uint8_t* to = out.data();
  for (const Piece& piece : found) {
    if (piece.count == 0) continue;
    piece.copy(piece.from, to, piece.count);
    to += piece.count * item_bytes;
  }
}

}  // namespace moot
