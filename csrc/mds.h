// SPDX-License-Identifier: Apache-2.0
// The layout of an MDS shard: a table of absolute sample offsets, a JSON config, then the samples.
//
// All integers little-endian:  u32 n | u32 offset[n + 1] | config | sample 0 | ... | sample n - 1.
// A sample is one u32 size for each column without a fixed size, then the bytes of every column.
// Nothing here trusts the bytes: the offsets are checked (and copied) once, the sizes inside a sample
// each time it is touched, so that bytes which change or lie give a ShardFault, never a bad read.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace moot {

/// A shard does not hold what it claims. The message names the shard and, where there is one, the
/// sample.
class ShardFault : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Element types, numbered as the format numbers them inside a sample.
enum class Dtype : std::uint8_t {
  u8 = 8, i8 = 9, u16 = 16, i16 = 17, f16 = 18, u32 = 32, i32 = 33, f32 = 34,
  u64 = 64, i64 = 65, f64 = 66,
};

/// Bytes of one element.
std::size_t dtype_bytes(Dtype dtype);

/// True when every value of `from` is a value of `to`: equal types, or a wider integer.
bool widens(Dtype from, Dtype to);

/// A column as the index declares it; `fixed_bytes` is 0 where each sample states its own size.
struct MdsColumn {
  std::string name;
  std::string encoding;
  std::uint32_t fixed_bytes = 0;
};

/// What one column of one sample holds: `count` elements of `dtype`, from byte `offset` of the shard.
struct Elements {
  std::uint64_t offset;
  std::uint32_t count;
  Dtype dtype;
};

/// A half-open range of bytes of the shard.
struct ByteRange {
  std::uint64_t begin;
  std::uint64_t end;
};

/// The checked layout of one raw shard. Keeps a view of the bytes: their owner must outlive it.
/// Immutable, so any number of threads may read. Costs 4 bytes a sample.
class MdsLayout {
 public:
  /// Throws ShardFault when the header or the table of offsets is not what `num_samples` and the
  /// length of `bytes` allow, std::invalid_argument when a column's encoding and size disagree.
  MdsLayout(std::span<const std::uint8_t> bytes, std::vector<MdsColumn> columns, std::string shard,
            std::uint64_t num_samples);

  const std::string& shard() const { return shard_; }
  std::size_t num_samples() const { return offsets_.size() - 1; }
  const std::uint8_t* data() const { return bytes_.data(); }

  /// The bytes between the table of offsets and the first sample: JSON, as the writer left it.
  ByteRange config() const;

  /// Position of the column of that name; throws std::out_of_range.
  std::size_t column(std::string_view name) const;

  /// Where the bytes of a column of a sample lie. Throws ShardFault when the sizes in the sample do
  /// not fill it exactly, or `row` is outside the shard.
  ByteRange cell(std::uint64_t row, std::size_t column) const;

  /// The elements of a column of a sample: of an ndarray its values, of a scalar one element, of
  /// every other encoding its bytes.
  Elements elements(std::uint64_t row, std::size_t column) const;

  /// `out[row]` = number of elements of each sample; `out` has num_samples() elements.
  void lengths(std::size_t column, std::span<std::uint32_t> out) const;

  /// Throws ShardFault naming the shard and the sample.
  [[noreturn]] void fault(std::uint64_t row, const std::string& what) const;

 private:
  enum class Kind : std::uint8_t { bytes, fixed, shaped, tagged };
  struct Reading {
    std::uint32_t fixed_bytes;
    Kind kind;
    Dtype dtype;
  };

  static Reading reading(const MdsColumn& column);
  std::uint32_t word(std::uint64_t offset) const;
  Elements shaped(std::uint64_t row, ByteRange cell, Dtype dtype) const;

  std::span<const std::uint8_t> bytes_;
  std::vector<MdsColumn> columns_;
  std::vector<Reading> readings_;
  std::vector<std::uint32_t> offsets_;
  std::string shard_;
  std::uint64_t num_variable_ = 0;
};

/// Pieces to gather: elements [start, stop) of `column` of sample `row` of shard `shard_pos`.
struct PieceList {
  std::span<const std::int32_t> shard_pos;
  std::span<const std::int32_t> row;
  std::span<const std::int64_t> start;
  std::span<const std::int64_t> stop;
};

/// One shard to gather from, and which of its columns.
struct Source {
  const MdsLayout* layout;
  std::size_t column;
};

/// Copies the pieces one after the other into `out`, which they must fill to its last element.
/// Everything is checked before the first element is written. Throws ShardFault for a piece outside
/// its sample or of a type that `out_dtype` cannot hold, std::invalid_argument for lists that do not
/// fit each other or `out`.
void gather(std::span<const Source> sources, const PieceList& pieces, Dtype out_dtype,
            std::span<std::uint8_t> out);

}  // namespace moot
