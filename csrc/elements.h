// SPDX-License-Identifier: Apache-2.0
// Where the elements of one column lie in a buffer, whatever format the buffer came in.
//
// Every reader of a format ends in an `Elements`; gathering and packing know nothing else. The table is
// checked against its buffer once, so that nothing which the bytes claim later leads to a bad read.
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

/// Element types, numbered as MDS numbers them inside a sample.
enum class Dtype : std::uint8_t {
  u8 = 8, i8 = 9, u16 = 16, i16 = 17, f16 = 18, u32 = 32, i32 = 33, f32 = 34,
  u64 = 64, i64 = 65, f64 = 66,
};

/// Bytes of one element.
std::size_t dtype_bytes(Dtype dtype);

/// The type of that name ("uint16") or number; false if there is none.
bool find_dtype(std::string_view name, Dtype& found);
bool find_dtype(std::uint8_t code, Dtype& found);

/// "uint16" of u16.
std::string_view dtype_name(Dtype dtype);

/// True when every value of `from` is a value of `to`: equal types, or a wider integer.
bool widens(Dtype from, Dtype to);

/// The elements of a column, row by row: `count[i]` elements from byte `begin[i]` of the buffer on.
/// Keeps a view of the bytes: their owner must outlive it. Immutable, so any number of threads may
/// read. Costs 12 bytes a row, 13 where rows differ in their type.
class Elements {
 public:
  /// Throws ShardFault naming `where` and the first row that leaves the buffer,
  /// std::invalid_argument when the lists are not equally long. `dtypes` is empty, or a type a row.
  Elements(std::span<const std::uint8_t> bytes, std::vector<std::int64_t> begin,
           std::vector<std::uint32_t> count, Dtype dtype, std::vector<Dtype> dtypes,
           std::string where);

  std::size_t num_rows() const { return begin_.size(); }
  const std::string& where() const { return where_; }
  std::span<const std::uint32_t> count() const { return count_; }
  Dtype dtype(std::size_t row) const { return dtypes_.empty() ? dtype_ : dtypes_[row]; }
  const std::uint8_t* data(std::size_t row) const { return bytes_.data() + begin_[row]; }

  /// The type of all rows; throws ShardFault where rows differ.
  Dtype dtype() const;

 private:
  std::span<const std::uint8_t> bytes_;
  std::vector<std::int64_t> begin_;
  std::vector<std::uint32_t> count_;
  std::vector<Dtype> dtypes_;
  Dtype dtype_;
  std::string where_;
};

/// Pieces to copy: `length` elements of row `row` of table `table`, from element `offset` on. The lists
/// are equally long.
struct PieceList {
  std::span<const std::int32_t> table;
  std::span<const std::int32_t> row;
  std::span<const std::int64_t> offset;
  std::span<const std::int64_t> length;
};

/// Copies the pieces one after the other into `out`, which they must fill to its last element.
/// Everything is checked before the first element is written. Throws ShardFault for a piece outside
/// its row or of a type that `out_dtype` cannot hold, std::invalid_argument for lists that do not
/// fit each other or `out`.
void gather(std::span<const Elements* const> tables, const PieceList& pieces, Dtype out_dtype,
            std::span<std::uint8_t> out);

/// What `pack` writes, each of `rows * row_tokens` elements or empty. `tokens` is of `token_dtype`.
struct Rows {
  std::span<std::uint8_t> tokens;
  Dtype token_dtype;
  std::span<std::int64_t> input_ids;
  std::span<std::int64_t> labels;
  std::span<std::int64_t> position_ids;
  std::size_t size;  ///< rows * row_tokens
};

/// Places piece i at element `target[i]` of the flattened rows; everything else becomes padding. A
/// piece may run on over the end of a row; targets ascend and pieces do not overlap.
///
/// Positions restart at each piece, at each row and where padding begins, so that padding is a segment
/// of its own; labels repeat the token, -100 where a segment starts and in padding. Throws as `gather`.
void pack(std::span<const Elements* const> tables, const PieceList& pieces,
          std::span<const std::int64_t> target, std::int64_t row_tokens, std::int64_t pad,
          const Rows& rows);

}  // namespace moot
