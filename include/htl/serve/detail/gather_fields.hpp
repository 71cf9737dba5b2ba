// SPDX-License-Identifier: Apache-2.0
/// @file gather_fields.hpp
/// @brief Embeddings of some fields of a table, read into memory that is there already.
#pragma once

#include <htl/embedding/resolve_rows.hpp>
#include <htl/embedding/row_kernels.hpp>
#include <htl/serve/detail/loops.hpp>

#include <ATen/Dispatch.h>

#include <algorithm>
#include <utility>
#include <vector>

namespace htl::inline v0_1_0::detail {

/// @brief A table to read, and what a bag or an unknown id means in it.
struct ReadTable {
  at::Tensor weight;   ///< [R, d], elements of a row side by side
  Pooling pooling;     ///< see there
  UnknownIds unknown;  ///< see there
};

/// @brief Some of the fields whose ids come side by side in a FieldBatch, read from one table.
class FieldReader {
 public:
  /// @brief No field.
  FieldReader() = default;
  /// @brief Fields by their rows in the table, and where their ids are.
  /// @param fields rows of the table
  /// @param positions of each field in a row of the batch; rising
  /// @param batch_fields F of the batch
  FieldReader(std::vector<FieldRows> fields, std::vector<int64_t> positions, int64_t batch_fields)
      : fields_(std::move(fields)), positions_(std::move(positions)), batch_fields_(batch_fields) {
    for (const FieldRows& field : fields_) ranges_.push_back({field.first_row, field.size, -1});
  }
  /// @brief The number of fields that it reads.
  int64_t size() const { return static_cast<int64_t>(fields_.size()); }

  /// @brief Rows [first, first + count) of a checked batch side by side → to[row · stride + f · d …]; to is fp32 or fp64.
  /// @param rows_of scratch, kept from call to call
  template <class Scalar>
  void read(const ReadTable& table, const FieldBatch& batch, int64_t first, int64_t count, Scalar* to, int64_t stride, std::vector<int32_t>& rows_of) const {
    resolve(table, batch, first, count, rows_of);
    AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, table.weight.scalar_type(), "htl::Ranker", [&] {
      with_width(table.weight.size(1), [&](auto width) {
        if (batch.is_short()) {
          copy_rows<scalar_t, width>(table.weight, count, to, stride, rows_of);
        } else {
          add_bags<scalar_t>(table, batch, first, count, to, stride, width > 0 ? width : table.weight.size(1), rows_of);
        }
      });
    });
  }
  /// @brief The same, summed over the fields → to[row · stride …], d values. The table has the results' type.
  template <class Scalar>
  void sum(const ReadTable& table, const FieldBatch& batch, int64_t first, int64_t count, Scalar* to, int64_t stride, std::vector<int32_t>& rows_of) const {
    resolve(table, batch, first, count, rows_of);
    if (batch.is_short()) {
      sum_rows(table.weight, count, to, stride, rows_of);
    } else {
      add_bags<Scalar>(table, batch, first, count, to, stride, 0, rows_of);
    }
  }

 private:
  /// How many rows ahead memory is asked for.
  static constexpr size_t ahead = 24;

  void resolve(const ReadTable& table, const FieldBatch& batch, int64_t first, int64_t count, std::vector<int32_t>& rows_of) const {
    if (batch.ids.scalar_type() == at::kInt) {
      resolve(batch.ids.const_data_ptr<int32_t>(), table, batch, first, count, rows_of);
    } else {
      resolve(batch.ids.const_data_ptr<int64_t>(), table, batch, first, count, rows_of);
    }
  }
  template <class Id>
  void resolve(const Id* ids, const ReadTable& table, const FieldBatch& batch, int64_t first, int64_t count, std::vector<int32_t>& rows_of) const {
    const int64_t* const offsets = batch.is_short() ? nullptr : batch.offsets.const_data_ptr<int64_t>();
    rows_of.clear();
    for (int64_t row = first; row < first + count; ++row)
      for (size_t f = 0; f < fields_.size(); ++f) {
        const int64_t bag = row * batch_fields_ + positions_[f];
        for (int64_t n = offsets ? offsets[bag] : bag, end = offsets ? offsets[bag + 1] : bag + 1; n < end; ++n)
          rows_of.push_back(resolve_id(static_cast<int64_t>(ids[n]), ranges_[f], -1, fields_[f], table.unknown, row));
      }
  }

  /// Rows of a table by entry, the memory of later ones asked for ahead.
  template <class From>
  struct Rows {
    Rows(const at::Tensor& weight, const std::vector<int32_t>& of_entries)
        : first(weight.const_data_ptr<From>()), stride(weight.stride(0)), width(weight.size(1)), rows_of(of_entries) {}
    const From* operator[](size_t n) const {
      if (n + ahead < rows_of.size()) prefetch_row(first + rows_of[n + ahead] * stride, width);
      return first + rows_of[n] * stride;
    }
    const From* first;
    int64_t stride, width;
    const std::vector<int32_t>& rows_of;
  };

  template <class From, int64_t Width, class To>
  void copy_rows(const at::Tensor& weight, int64_t count, To* to, int64_t stride, const std::vector<int32_t>& rows_of) const {
    const int64_t width = Width > 0 ? Width : weight.size(1), fields = size();
    const Rows<From> rows(weight, rows_of);
    size_t n = 0;
    for (int64_t row = 0; row < count; ++row)
      for (int64_t f = 0; f < fields; ++f, ++n) {
        const From* const from = rows[n];
        To* const into = to + row * stride + f * width;
        for (int64_t i = 0; i < width; ++i) into[i] = static_cast<To>(from[i]);
      }
  }

  template <class Scalar>
  void sum_rows(const at::Tensor& weight, int64_t count, Scalar* to, int64_t stride, const std::vector<int32_t>& rows_of) const {
    const int64_t width = weight.size(1);
    const Rows<Scalar> rows(weight, rows_of);
    size_t n = 0;
    for (int64_t row = 0; row < count; ++row) {  // one row of the table after the other: each is long enough for the hardware to run ahead
      Scalar* const into = to + row * stride;
      std::copy_n(rows[n++], width, into);
      for (int64_t f = 1; f < size(); f += 2) {
        const Scalar *const one = rows[n++], *const other = f + 1 < size() ? rows[n++] : nullptr;
        if (other) {
          add_two_rows(into, one, other, width);
        } else {
          add_row(into, one, width);
        }
      }
    }
  }

  /// Σ over each bag's rows, fields side by side at distance `step`; step 0: all fields in one place.
  template <class From, class To>
  void add_bags(const ReadTable& table, const FieldBatch& batch, int64_t first, int64_t count, To* to, int64_t stride, int64_t step,
                const std::vector<int32_t>& rows_of) const {
    const int64_t width = table.weight.size(1);
    const int64_t* const offsets = batch.offsets.const_data_ptr<int64_t>();
    const double* const weights = batch.weights.defined() ? batch.weights.const_data_ptr<double>() : nullptr;
    const Rows<From> rows(table.weight, rows_of);
    size_t entry = 0;
    for (int64_t row = 0; row < count; ++row)
      for (size_t f = 0; f < fields_.size(); ++f) {
        To* const into = to + row * stride + static_cast<int64_t>(f) * step;
        if (f == 0 || step > 0) std::fill_n(into, width, To(0));
        const int64_t* const bag = offsets + (first + row) * batch_fields_ + positions_[f];
        double total = 1.0;
        if (table.pooling == Pooling::mean) {
          total = weights ? 0.0 : static_cast<double>(bag[1] - bag[0]);
          for (int64_t n = bag[0]; weights && n < bag[1]; ++n) total += weights[n];
          if (total == 0.0) total = 1.0;
        }
        for (int64_t n = bag[0]; n < bag[1]; ++n) {
          const From* const from = rows[entry++];
          const auto factor = static_cast<To>((weights ? weights[n] : 1.0) / total);
          for (int64_t i = 0; i < width; ++i) into[i] += factor * static_cast<To>(from[i]);
        }
      }
  }

  std::vector<FieldRows> fields_;
  std::vector<int64_t> positions_;
  int64_t batch_fields_ = 0;
  std::vector<FieldRange> ranges_;
};

/// @brief Checks all of a batch of F fields but the ids' values; its tensors with their elements side by side.
/// @param what the batch, for sentences
inline FieldBatch checked_fields(const char* what, const FieldBatch& batch, int64_t fields) {
  HTL_CHECK(batch.ids.defined() && batch.ids.device().is_cpu(), "htl::Ranker: expected ", what, " with ids on the CPU, got ",
            batch.ids.defined() ? "ids on " + batch.ids.device().str() : "none");
  HTL_CHECK_TYPE(batch.ids.scalar_type() == at::kInt || batch.ids.scalar_type() == at::kLong, "htl::Ranker: expected int32 or int64 ids in ", what, ", got ",
                 batch.ids.scalar_type());
  check_batch(batch, fields);
  FieldBatch dense{batch.ids.contiguous(), {}, {}, fields};
  if (batch.is_short()) return dense;
  HTL_CHECK_TYPE(batch.offsets.scalar_type() == at::kLong, "htl::Ranker: expected int64 offsets in ", what, ", got ", batch.offsets.scalar_type());
  dense.offsets = batch.offsets.contiguous();
  check_offsets(dense.offsets.const_data_ptr<int64_t>(), dense.offsets.size(0) - 1, dense.ids.numel());
  if (batch.weights.defined()) dense.weights = batch.weights.to(at::kDouble).contiguous();
  return dense;
}

}  // namespace htl::detail
