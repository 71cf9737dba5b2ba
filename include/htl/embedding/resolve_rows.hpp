// SPDX-License-Identifier: Apache-2.0
/// @file resolve_rows.hpp
/// @brief From ids local to their field to rows of a table: checks, unknown ids, frozen rows, bags.
#pragma once

#include <htl/data/field_batch.hpp>
#include <htl/embedding/row_table.hpp>
#include <htl/task/tensor_operators.hpp>

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/_assert_async.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <string>
#include <utility>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief How the rows of a bag become one. As in `nn::EmbeddingBag`, a table's padding row counts neither in the sum nor in the mean.
enum class Pooling {
  sum,  ///< Σ weight · row
  mean  ///< Σ weight · row / Σ weight; zeros for an empty bag
};

/// @brief What happens to an id outside its field.
enum class UnknownIds {
  error,       ///< a sentence with field and row (CUDA: an asynchronous device assertion, no synchronisation)
  map_to_zero  ///< it counts as id 0, the unknown id
};

/// @brief Which rows of a table a field's ids mean: id i is row `first_row + i`, for i in [0, size).
struct FieldRows {
  int64_t first_row = 0;     ///< the row of id 0
  int64_t size = 0;          ///< number of ids
  bool frozen_zero = false;  ///< id 0 is looked up but never trained
  std::string name = {};     ///< for error sentences
};

namespace detail {

/// A batch by hand may hold anything; what follows trusts these.
inline void check_batch(const FieldBatch& batch, int64_t fields) {
  if (batch.is_short()) {
    check_shape("htl::lookup", "ids", batch.ids, {-1, fields});
    return;
  }
  check_shape("htl::lookup", "ids of bags", batch.ids, {-1});
  HTL_CHECK(fields > 0 && batch.offsets.dim() == 1 && batch.offsets.size(0) >= 1 && (batch.offsets.size(0) - 1) % fields == 0,
            "htl::lookup: expected offsets of B·F + 1 entries for F = ", fields, " fields, got shape ", shape_of(batch.offsets));
  HTL_CHECK(batch.offsets.device() == batch.ids.device() && (!batch.weights.defined() || batch.weights.device() == batch.ids.device()),
            "htl::lookup: expected offsets and weights on the ids' device ", batch.ids.device(), "; move the whole batch with batch.to(device)");
  if (batch.weights.defined()) check_shape("htl::lookup", "weights of bags", batch.weights, {batch.ids.size(0)});
}

/// Rows of all entries, −1 − row where frozen, and the bag of each in the long form.
struct ResolvedRows {
  at::Tensor entry_rows;  // [N] int32 by loops, int64 by tensors
  at::Tensor bag;         // [N] int64
};

/// What the loop over ids needs of a field, side by side.
struct FieldRange {
  int64_t first_row, size, frozen;  // frozen: the id that is not trained, or −1
};

/// The row of one id, −1 − row where frozen.
inline int32_t resolve_id(int64_t id, const FieldRange& range, int64_t padding_row, const FieldRows& field, UnknownIds unknown, int64_t batch_row) {
  if (static_cast<uint64_t>(id) >= static_cast<uint64_t>(range.size)) {
    HTL_CHECK_INDEX(unknown == UnknownIds::map_to_zero && field.size > 0, "htl::lookup: id ", id, " of field \"", field.name, "\" (row ", batch_row,
                    ") is outside [0, ", field.size, "); raise the field's size or set unknown_ids(UnknownIds::map_to_zero)");
    id = 0;
  }
  const int64_t row = range.first_row + id;
  return static_cast<int32_t>(id == range.frozen || row == padding_row ? -1 - row : row);
}

/// Ids → rows on the CPU, one checked pass.
template <class Id>
void resolve_rows(const Id* ids, const int64_t* offsets, int64_t bags, const std::vector<FieldRows>& fields, UnknownIds unknown, std::optional<int64_t> padding,
                  int32_t* rows, int64_t* bag_of) {
  const auto count = static_cast<int64_t>(fields.size());
  const int64_t padding_row = padding.value_or(-1);
  std::vector<FieldRange> ranges;
  for (const FieldRows& field : fields) ranges.push_back({field.first_row, field.size, field.frozen_zero ? 0 : -1});
  if (bags == 0) return;
  at::parallel_for(0, bags / count, 256, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b)
      for (int64_t f = 0; f < count; ++f) {
        const int64_t bag = b * count + f;
        const FieldRange& range = ranges[static_cast<size_t>(f)];
        const FieldRows& field = fields[static_cast<size_t>(f)];
        if (!offsets) {
          rows[bag] = resolve_id(static_cast<int64_t>(ids[bag]), range, padding_row, field, unknown, b);
          continue;
        }
        for (int64_t n = offsets[bag]; n < offsets[bag + 1]; ++n) {
          rows[n] = resolve_id(static_cast<int64_t>(ids[n]), range, padding_row, field, unknown, b);
          bag_of[n] = bag;
        }
      }
  });
}

inline void check_offsets(const int64_t* offsets, int64_t bags, int64_t entries) {
  for (int64_t bag = 0; bag < bags; ++bag)
    HTL_CHECK(offsets[bag] <= offsets[bag + 1] && (bag > 0 || offsets[0] == 0), "htl::lookup: expected offsets that start at 0 and do not decrease, got ",
              offsets[bag], " then ", offsets[bag + 1], " at bag ", bag);
  HTL_CHECK(bags > 0 ? offsets[bags] == entries : entries == 0, "htl::lookup: expected the last offset to be the number of ids, ", entries, ", got ",
            offsets[bags]);
}

inline ResolvedRows resolve_loops(const RowTable& table, const FieldBatch& batch, const std::vector<FieldRows>& fields, UnknownIds unknown) {
  const int64_t bags = batch.rows() * static_cast<int64_t>(fields.size()), entries = batch.ids.numel();
  const at::Tensor ids = batch.ids.contiguous(), offsets = batch.offsets.defined() ? batch.offsets.contiguous() : batch.offsets;
  ResolvedRows resolved{at::empty({entries}, at::kInt), {}};
  if (offsets.defined()) {
    check_offsets(offsets.const_data_ptr<int64_t>(), bags, entries);
    resolved.bag = at::empty({entries}, at::kLong);
  }
  const int64_t* offset_data = offsets.defined() ? offsets.const_data_ptr<int64_t>() : nullptr;
  int64_t* bag_data = offsets.defined() ? resolved.bag.mutable_data_ptr<int64_t>() : nullptr;
  int32_t* row_data = resolved.entry_rows.mutable_data_ptr<int32_t>();
  if (ids.scalar_type() == at::kInt) {
    resolve_rows(ids.const_data_ptr<int32_t>(), offset_data, bags, fields, unknown, table.padding_row(), row_data, bag_data);
  } else {
    resolve_rows(ids.const_data_ptr<int64_t>(), offset_data, bags, fields, unknown, table.padding_row(), row_data, bag_data);
  }
  return resolved;
}

/// [3, F] int64 on a device: first row, size, and whether id 0 is frozen. Copied once per table, fields and device: a copy in a step would synchronise.
inline at::Tensor field_layout(const RowTable& table, const std::vector<FieldRows>& fields, const at::Device& device) {
  std::vector<int64_t> numbers;
  for (const FieldRows& field : fields) numbers.push_back(field.first_row);
  for (const FieldRows& field : fields) numbers.push_back(field.size);
  for (const FieldRows& field : fields) numbers.push_back(field.frozen_zero ? 1 : 0);
  return table.on_device(numbers, device).view({3, static_cast<int64_t>(fields.size())});
}

inline ResolvedRows resolve_tensors(const RowTable& table, const FieldBatch& batch, const std::vector<FieldRows>& fields, UnknownIds unknown) {
  const auto field_count = static_cast<int64_t>(fields.size());
  const int64_t bags = batch.rows() * field_count, entries = batch.ids.numel();
  const at::Device device = batch.ids.device();
  ResolvedRows resolved;
  at::Tensor field_of;
  if (batch.offsets.defined()) {
    const at::Tensor first = batch.offsets.slice(0, 0, 1), last = batch.offsets.slice(0, bags, bags + 1),
                     steps = batch.offsets.slice(0, 1) - batch.offsets.slice(0, 0, -1);
    at::_assert_async(first.eq(0).logical_and(last.eq(entries)).all().logical_and(steps.ge(0).all()));
    const at::Tensor starts = at::zeros({entries + 1}, batch.offsets.options()).index_add_(0, batch.offsets, at::ones_like(batch.offsets));
    resolved.bag = starts.slice(0, 0, entries).cumsum(0) - 1;
    field_of = resolved.bag.remainder(field_count);
  } else {
    field_of = at::arange(bags, at::TensorOptions(at::kLong).device(device)).remainder(field_count);
  }
  const at::Tensor layout = field_layout(table, fields, device), flat = batch.ids.reshape({-1}).to(at::kLong),
                   limit = layout.select(0, 1).index_select(0, field_of);
  const at::Tensor known = flat.ge(0).logical_and(flat < limit);
  if (unknown == UnknownIds::error) at::_assert_async(known.all());
  const at::Tensor id = flat.where(known, 0), row = id + layout.select(0, 0).index_select(0, field_of);
  at::Tensor frozen = id.eq(0).logical_and(layout.select(0, 2).index_select(0, field_of).eq(1));
  if (table.padding_row()) frozen = frozen.logical_or(row == *table.padding_row());
  resolved.entry_rows = row.where(frozen.logical_not(), -1 - row);
  return resolved;
}

/// weight per entry, 0 for the padding row, divided by the bag's sum for a mean.
inline at::Tensor bag_coefficients(const RowTable& table, const FieldBatch& batch, const at::Tensor& entry_rows, const at::Tensor& bag, int64_t bags,
                                   Pooling pooling) {
  const at::TensorOptions options = table.weight().options();
  if (pooling == Pooling::sum && !table.padding_row()) return batch.weights.defined() ? batch.weights.to(options.dtype()).contiguous() : at::Tensor();
  at::Tensor weights = batch.weights.defined() ? batch.weights.to(at::kDouble) : at::ones_like(bag, at::kDouble);
  if (table.padding_row()) weights = weights.masked_fill(entry_rows == -1 - *table.padding_row(), 0.0);
  if (pooling == Pooling::sum) return weights.to(options.dtype()).contiguous();
  const at::Tensor sums = at::zeros({bags}, weights.options()).index_add_(0, bag, weights);
  return (weights / sums.where(sums != 0, 1.0).index_select(0, bag)).to(options.dtype());
}

}  // namespace detail

}  // namespace htl
