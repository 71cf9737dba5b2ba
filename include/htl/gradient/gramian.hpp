// SPDX-License-Identifier: Apache-2.0
/// @file gramian.hpp
/// @brief Task gradients as rows of tables, their Gramian and their weighted sum.
#pragma once

#include <htl/embedding/lookup.hpp>

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/stack.h>

#include <utility>
#include <vector>

namespace htl::inline v0_1_0::detail {

/// The T task gradients on the touched rows of one table.
struct TaskRows {
  RowTable table;
  at::Tensor rows;   // [S]
  at::Tensor valid;  // [S] on CUDA
  at::Tensor sums;   // [S, T, d]
};

/// One lookup's share of the task gradients: T gradients [B, D], undefined where a task does not reach it.
struct LookupGradients {
  c10::intrusive_ptr<LookupData> lookup;
  std::vector<at::Tensor> gradients;
};

inline TaskRows sum_lookup(const LookupGradients& part, at::Tensor* gramian) {
  LookupData& data = *part.lookup;
  RowSums sums = sum_rows(data.groups(), part.gradients, data.bags, data.table.dim(), data.table.weight().options(), gramian != nullptr);
  if (gramian) *gramian = gramian->defined() ? *gramian + sums.gramian : sums.gramian;
  return {data.table, data.groups().rows, data.groups().valid, std::move(sums.sums)};
}

/// Rows of several parts of one table as one set of distinct rows, with their Gramian.
inline TaskRows merge_rows(const std::vector<TaskRows>& parts, at::Tensor& gramian) {
  const RowTable& table = parts.front().table;
  const int64_t tasks = parts.front().sums.size(1);
  std::vector<at::Tensor> rows, sums;
  for (const TaskRows& part : parts) {
    rows.push_back(part.valid.defined() ? part.rows.where(part.valid, -1) : part.rows);
    sums.push_back(part.sums);
  }
  at::Tensor entries = at::cat(rows);
  if (entries.is_cpu()) entries = entries.to(at::kInt);
  const at::Tensor all = at::cat(sums);
  std::vector<at::Tensor> gradients;
  for (int64_t t = 0; t < tasks; ++t) gradients.push_back(all.select(1, t).contiguous());
  const RowGroups groups = group_rows(table, entries);
  RowSums merged = sum_rows(groups, gradients, {}, table.dim(), all.options(), true);
  gramian = gramian.defined() ? gramian + merged.gramian : merged.gramian;
  return {table, groups.rows, groups.valid, std::move(merged.sums)};
}

/// All parts, summed by table and row, and the Gramian [T, T] of everything as one vector. The usual case — each table in one part — is one pass.
inline std::vector<TaskRows> gather_task_rows(const std::vector<LookupGradients>& parts, const std::vector<TaskRows>& earlier, at::Tensor& gramian) {
  std::vector<TaskRows> result;
  std::vector<char> done(parts.size(), 0), used(earlier.size(), 0);
  const auto gather = [&](const RowTable& table) {
    std::vector<size_t> own_parts, own_earlier;
    for (size_t i = 0; i < parts.size(); ++i)
      if (parts[i].lookup->table.is_same(table)) own_parts.push_back(i);
    for (size_t i = 0; i < earlier.size(); ++i)
      if (earlier[i].table.is_same(table)) own_earlier.push_back(i);
    for (const size_t i : own_parts) done[i] = 1;
    for (const size_t i : own_earlier) used[i] = 1;
    if (own_parts.size() == 1 && own_earlier.empty()) {
      result.push_back(sum_lookup(parts[own_parts.front()], &gramian));
      return;
    }
    std::vector<TaskRows> pieces;
    for (const size_t i : own_parts) pieces.push_back(sum_lookup(parts[i], nullptr));
    for (const size_t i : own_earlier) pieces.push_back(earlier[i]);
    result.push_back(merge_rows(pieces, gramian));
  };
  for (size_t i = 0; i < parts.size(); ++i)
    if (!done[i]) gather(parts[i].lookup->table);
  for (size_t i = 0; i < earlier.size(); ++i)
    if (!used[i]) gather(earlier[i].table);
  return result;
}

/// The Gramian of T representation gradients [B, …] in float64; undefined gradients are zeros.
inline at::Tensor representation_gramian(const std::vector<at::Tensor>& gradients, const at::Tensor& like) {
  std::vector<at::Tensor> flat;
  for (const at::Tensor& gradient : gradients) flat.push_back((gradient.defined() ? gradient : at::zeros_like(like)).reshape({-1}).to(at::kDouble));
  const at::Tensor matrix = at::stack(flat);
  return matrix.mm(matrix.t());
}

}  // namespace htl::detail
