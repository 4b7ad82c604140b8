// SPDX-License-Identifier: Apache-2.0
// The layout of an MDS shard: a table of absolute sample offsets, a JSON config, then the samples.
//
// All integers little-endian:  u32 n | u32 offset[n + 1] | config | sample 0 | ... | sample n - 1.
// A sample is one u32 size for each column without a fixed size, then the bytes of every column.
// Nothing here trusts the bytes: the offsets are checked (and copied) once, the sizes inside a sample
// when a column is looked up, so that bytes which change or lie give a ShardFault, never a bad read.
#pragma once

#include "elements.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace moot {

/// A column as the index declares it; `fixed_bytes` is 0 where each sample states its own size.
struct MdsColumn {
  std::string name;
  std::string encoding;
  std::uint32_t fixed_bytes = 0;
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

  /// The bytes between the table of offsets and the first sample: JSON, as the writer left it.
  ByteRange config() const;

  /// Position of the column of that name; throws std::out_of_range.
  std::size_t column(std::string_view name) const;

  /// Where the bytes of a column of a sample lie. Throws ShardFault when the sizes in the sample do
  /// not fill it exactly, or `row` is outside the shard.
  ByteRange cell(std::uint64_t row, std::size_t column) const;

  /// The elements of a column of every sample: of an ndarray its values, of a scalar one element, of
  /// every other encoding its bytes. A view of the same bytes.
  Elements elements(std::size_t column) const;

  /// Throws ShardFault naming the shard and the sample.
  [[noreturn]] void fault(std::uint64_t row, const std::string& what) const;

 private:
  enum class Kind : std::uint8_t { bytes, fixed, shaped, tagged };
  struct Reading {
    std::uint32_t fixed_bytes;
    Kind kind;
    Dtype dtype;
  };

  struct Found {
    std::uint64_t offset;
    std::uint32_t count;
    Dtype dtype;
  };

  static Reading reading(const MdsColumn& column);
  std::uint32_t word(std::uint64_t offset) const;
  Found find(std::uint64_t row, std::size_t column) const;
  Found shaped(std::uint64_t row, ByteRange cell, Dtype dtype) const;

  std::span<const std::uint8_t> bytes_;
  std::vector<MdsColumn> columns_;
  std::vector<Reading> readings_;
  std::vector<std::uint32_t> offsets_;
  std::string shard_;
  std::uint64_t num_variable_ = 0;
};

}  // namespace moot
