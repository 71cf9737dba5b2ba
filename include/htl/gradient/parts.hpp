// SPDX-License-Identifier: Apache-2.0
/// @file parts.hpp
/// @brief Task gradients on what is shared, part by part: rows of a table, or a dense tensor; their Gramians, and their products with another batch's.
#pragma once

#include <htl/embedding/lookup.hpp>
#include <htl/gradient/linear_tasks.hpp>

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/zeros_like.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace htl::inline v0_1_0::detail {

/// The T task gradients on the touched rows of one table.
struct TaskRows {
  RowTable table;
  at::Tensor rows;     // [S]
  at::Tensor valid;    // [S] on CUDA
  at::Tensor sums;     // [S, T, d]
  at::Tensor gramian;  // [T, T]; undefined for a piece that is merged later
};

/// The T task gradients of one tensor, undefined where a task does not reach it; of a linear layer's weight perhaps as factors.
struct TaskTensors {
  at::Tensor tensor;
  std::vector<at::Tensor> gradients;
  std::shared_ptr<LinearTasks> factors = nullptr;

  at::Tensor gramian() const { return factors ? factors->gramian() : dense_products(gradients, gradients, tensor); }
  at::Tensor combine(const at::Tensor& weights) const { return factors ? factors->combine(weights) : combine_dense(gradients, weights, tensor); }
};

/// One lookup's share of the task gradients: T gradients [B, D], undefined where a task does not reach it.
struct LookupGradients {
  c10::intrusive_ptr<LookupData> lookup;
  std::vector<at::Tensor> gradients;
};

/// One tensor that tasks share, with its task gradients: the rows of a table, else a parameter or a split representation.
struct SharedPart {
  std::string name;
  size_t thing = 0;  // of GradientScope::module: parts of one thing belong together
  TaskRows rows;
  TaskTensors dense;
  bool is_representation = false;
  at::Tensor gramian;  // [T, T]

  bool is_table() const { return rows.table.defined(); }
};

template <class = void>
TaskRows sum_lookup(const LookupGradients& part, bool with_gramian) {
  LookupData& data = *part.lookup;
  RowSums sums = sum_rows(data.groups(), part.gradients, data.bags, data.table.dim(), data.table.weight().options(), with_gramian);
  return {data.table, data.groups().rows, data.groups().valid, std::move(sums.sums), std::move(sums.gramian)};
}

/// Rows of several pieces of one table, with T task gradients each, as one set of distinct rows; with the pieces' tasks side by side where asked, so that the
/// Gramian has the products between them.
template <class = void>
TaskRows merge_rows(const std::vector<TaskRows>& pieces, bool side_by_side = false) {
  const RowTable& table = pieces.front().table;
  const int64_t tasks = pieces.front().sums.size(1);
  std::vector<at::Tensor> rows, gradients;
  for (const TaskRows& piece : pieces) rows.push_back(piece.valid.defined() ? piece.rows.where(piece.valid, -1) : piece.rows);
  at::Tensor entries = at::cat(rows);
  if (entries.is_cpu()) entries = entries.to(at::kInt);
  for (size_t own = 0; own < (side_by_side ? pieces.size() : 1); ++own)
    for (int64_t t = 0; t < tasks; ++t) {
      std::vector<at::Tensor> of_task;
      for (size_t p = 0; p < pieces.size(); ++p) {
        const at::Tensor sums = pieces[p].sums.select(1, t);
        of_task.push_back(side_by_side && p != own ? at::zeros_like(sums) : sums);
      }
      gradients.push_back(at::cat(of_task));
    }
  const RowGroups groups = group_rows(table, entries);
  RowSums merged = sum_rows(groups, gradients, {}, table.dim(), pieces.front().sums.options(), true);
  return {table, groups.rows, groups.valid, std::move(merged.sums), std::move(merged.gramian)};
}

/// All pieces, summed by table and row, each table once and with its Gramian. The usual case — each table in one piece — is one pass.
template <class = void>
std::vector<TaskRows> gather_task_rows(const std::vector<LookupGradients>& lookups, const std::vector<TaskRows>& earlier) {
  std::vector<RowTable> tables;
  const auto note = [&](const RowTable& table) {
    if (std::none_of(tables.begin(), tables.end(), [&](const RowTable& known) { return known.is_same(table); })) tables.push_back(table);
  };
  for (const LookupGradients& part : lookups) note(part.lookup->table);
  for (const TaskRows& piece : earlier) note(piece.table);
  std::vector<TaskRows> result;
  for (const RowTable& table : tables) {
    std::vector<const LookupGradients*> own;
    std::vector<TaskRows> pieces;
    for (const LookupGradients& part : lookups)
      if (part.lookup->table.is_same(table)) own.push_back(&part);
    for (const TaskRows& piece : earlier)
      if (piece.table.is_same(table)) pieces.push_back(piece);
    const bool alone = own.size() + pieces.size() == 1;
    std::vector<TaskRows> sums;
    for (const LookupGradients* part : own) sums.push_back(sum_lookup(*part, alone));
    sums.insert(sums.end(), pieces.begin(), pieces.end());
    result.push_back(alone ? std::move(sums.front()) : merge_rows(sums));
  }
  return result;
}

/// Refuses batches whose losses reach other shared tensors than the first batch's did.
template <class = void>
void check_same_parts(const std::vector<SharedPart>& first, const std::vector<SharedPart>& later) {
  const auto same = [](const SharedPart& a, const SharedPart& b) {
    return a.is_table() == b.is_table() && (a.is_table() ? a.rows.table.is_same(b.rows.table) : a.dense.tensor.is_same(b.dense.tensor));
  };
  HTL_CHECK(first.size() == later.size() && std::equal(first.begin(), first.end(), later.begin(), same),
            "htl::backward: expected batches that went through the same model, got losses that reach other shared tensors than those of the first batch");
}

/// [T, T] float64: G_s of one batch · G_t of another, over some of their parts.
template <class = void>
at::Tensor cross_products(const std::vector<SharedPart>& first, const std::vector<SharedPart>& second, const std::vector<size_t>& which) {
  at::Tensor sum;
  for (const size_t p : which) {
    at::Tensor products;
    if (first[p].is_table()) {
      const int64_t tasks = first[p].rows.sums.size(1);
      products = merge_rows({first[p].rows, second[p].rows}, /*side_by_side=*/true).gramian.narrow(0, 0, tasks).narrow(1, tasks, tasks);
    } else {
      products = dense_products(first[p].dense.gradients, second[p].dense.gradients, first[p].dense.tensor);
    }
    sum = sum.defined() ? sum + products : products;
  }
  return sum;
}

/// Multiplies task gradients by a number.
template <class = void>
void scale_parts(std::vector<SharedPart>& parts, double factor) {
  for (SharedPart& part : parts) {
    part.gramian = part.gramian * (factor * factor);
    if (part.is_table()) part.rows.sums = part.rows.sums * factor;
    for (at::Tensor& gradient : part.dense.gradients)
      if (gradient.defined()) gradient = gradient * factor;
  }
}

}  // namespace htl::detail
