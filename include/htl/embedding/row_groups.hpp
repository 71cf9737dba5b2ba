// SPDX-License-Identifier: Apache-2.0
/// @file row_groups.hpp
/// @brief RowGroups: a batch's lookups grouped by table row, once, for gradients, Gramian and optimizer together.
#pragma once

#include <htl/embedding/row_table.hpp>
#include <htl/task/tensor_operators.hpp>

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include <limits>

namespace htl::inline v0_1_0 {

/// @brief N lookups (entries) grouped by the S distinct rows that they hit.
///
/// CPU: a counting sort over the table's slot scratch, O(N), independent of the table's size; groups stand in the order of first appearance and
/// entries keep theirs inside a group, so sums over a group never depend on threads. CUDA: one stable sort, fixed shapes (S = N slots, a mask
/// says which are in use), no synchronisation.
struct RowGroups {
  /// [S] int64 the distinct rows.
  at::Tensor rows;
  /// [S] bool on CUDA: slots in use; undefined = all.
  at::Tensor valid;
  /// [S + 1] int32 on the CPU: group s holds `order[starts[s] … starts[s + 1])`.
  at::Tensor starts;
  /// Entry numbers by group; int32 on the CPU, int64 on CUDA. On the CPU frozen entries are left out.
  at::Tensor order;
  /// [N] CPU: int32 the slot of entry n, −1 where frozen. CUDA: int64 the slot of `order[n]`; frozen entries go to slots that are not valid.
  at::Tensor slots;

  /// @brief S.
  int64_t size() const { return rows.size(0); }
};

namespace detail {

/// By ATen alone: one stable sort, fixed shapes. A table of `table_rows` rows; frozen entries are negative.
inline RowGroups group_rows_tensors(int64_t table_rows, const at::Tensor& entry_rows) {
  const int64_t entries = entry_rows.numel();
  RowGroups groups;
  const int64_t sentinel = table_rows;
  const auto [sorted, order] = entry_rows.to(at::kLong).masked_fill(entry_rows < 0, sentinel).sort(/*stable=*/true, 0, /*descending=*/false);
  at::Tensor is_first = at::ones({entries}, sorted.options().dtype(at::kLong));
  if (entries > 1) is_first.slice(0, 1).copy_(sorted.slice(0, 1) != sorted.slice(0, 0, -1));
  groups.order = order;
  groups.slots = is_first.cumsum(0) - 1;
  at::Tensor rows = at::zeros({entries}, sorted.options()).fill_(sentinel);
  rows.scatter_(0, groups.slots, sorted);
  groups.valid = rows < sentinel;
  groups.rows = rows.masked_fill(groups.valid.logical_not(), 0);
  return groups;
}

/// By plain loops: a counting sort over the table's scratch.
inline RowGroups group_rows_loops(const RowTable& table, const at::Tensor& entry_rows) {
  const int64_t entries = entry_rows.numel();
  RowGroups groups;
  HTL_CHECK(entries <= std::numeric_limits<int32_t>::max(), "htl::group_rows: expected at most 2³¹ − 1 lookups in a batch, got ", entries,
            "; use smaller batches");
  std::vector<int32_t>& slot_of_row = table.slot_scratch();
  if (slot_of_row.size() != static_cast<size_t>(table.rows())) slot_of_row.assign(static_cast<size_t>(table.rows()), -1);
  const int32_t* row_of = entry_rows.const_data_ptr<int32_t>();
  groups.slots = at::empty({entries}, at::kInt);
  auto* slot_of_entry = groups.slots.mutable_data_ptr<int32_t>();
  std::vector<int32_t> counts, distinct;
  int64_t grouped = 0;
  for (int64_t n = 0; n < entries; ++n) {
    const int32_t row = row_of[n];
    if (row < 0) {
      slot_of_entry[n] = -1;
      continue;
    }
    int32_t slot = slot_of_row[static_cast<size_t>(row)];
    if (slot < 0) {
      slot = slot_of_row[static_cast<size_t>(row)] = static_cast<int32_t>(distinct.size());
      distinct.push_back(row);
      counts.push_back(0);
    }
    ++counts[static_cast<size_t>(slot)];
    slot_of_entry[n] = slot;
    ++grouped;
  }
  const auto size = static_cast<int64_t>(distinct.size());
  groups.rows = at::empty({size}, at::kLong);
  groups.starts = at::empty({size + 1}, at::kInt);
  groups.order = at::empty({grouped}, at::kInt);
  auto* rows = groups.rows.mutable_data_ptr<int64_t>();
  auto* starts = groups.starts.mutable_data_ptr<int32_t>();
  auto* order = groups.order.mutable_data_ptr<int32_t>();
  int32_t start = 0;
  for (int64_t s = 0; s < size; ++s) {
    const auto at = static_cast<size_t>(s);
    rows[s] = distinct[at];
    slot_of_row[static_cast<size_t>(distinct[at])] = -1;
    starts[s] = start;
    start += counts[at];
    counts[at] = starts[s];
  }
  starts[size] = start;
  for (int64_t n = 0; n < entries; ++n)
    if (const int32_t slot = slot_of_entry[n]; slot >= 0) order[counts[static_cast<size_t>(slot)]++] = static_cast<int32_t>(n);
  return groups;
}

}  // namespace detail

/// @brief Groups entries by row.
/// @param table the table that the rows belong to
/// @param entry_rows [N] int32 (CPU) or int64 (CUDA) rows; a frozen entry is written as −1 − row and left out
/// @return the groups; the table's `groupings()` counts the call
inline RowGroups group_rows(const RowTable& table, const at::Tensor& entry_rows) {
  ++table.groupings();
  return entry_rows.is_cpu() ? detail::group_rows_loops(table, entry_rows) : detail::group_rows_tensors(table.rows(), entry_rows);
}

}  // namespace htl
