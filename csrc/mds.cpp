// SPDX-License-Identifier: Apache-2.0
#include "mds.h"

#include <bit>
#include <cstring>
#include <utility>

namespace moot {

static_assert(std::endian::native == std::endian::little, "MDS is read in place: little-endian only");

namespace {

constexpr std::uint64_t kWord = sizeof(std::uint32_t);

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

}  // namespace

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

MdsLayout::Found MdsLayout::shaped(std::uint64_t row, ByteRange cell, Dtype dtype) const {
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

MdsLayout::Found MdsLayout::find(std::uint64_t row, std::size_t column) const {
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

Elements MdsLayout::elements(std::size_t column) const {
  const std::size_t n = num_samples();
  std::vector<std::int64_t> begin(n);
  std::vector<std::uint32_t> count(n);
  std::vector<Dtype> dtypes(readings_[column].kind == Kind::tagged ? n : 0);
  for (std::size_t row = 0; row < n; ++row) {
    const Found found = find(row, column);
    begin[row] = static_cast<std::int64_t>(found.offset);
    count[row] = found.count;
    if (!dtypes.empty()) dtypes[row] = found.dtype;
  }
  return Elements(bytes_, std::move(begin), std::move(count), readings_[column].dtype,
                  std::move(dtypes), shard_);
}

}  // namespace moot
