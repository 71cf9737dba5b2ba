// SPDX-License-Identifier: Apache-2.0
/// @file task_buffers.hpp
/// @brief A moving average of each task's gradient, number by number, over all rows that were ever touched: what MoCo and DB-MTL keep.
#pragma once

#include <htl/weighting/gradient_parts.hpp>

#include <ATen/ops/empty.h>
#include <ATen/ops/searchsorted.h>
#include <ATen/ops/zeros.h>

#include <utility>
#include <vector>

namespace htl::inline v0_1_0::detail {

/// Averages y_t of the tasks' gradients.
///
/// They fade on every row that was ever touched, so a step goes through all of these, whatever the batch: about six passes over T · C numbers a row, two of
/// them in float64. On CUDA it waits for the device, which alone knows how many rows there are.
class TaskBuffers {
 public:
  /// The averages of one part.
  struct Part {
    at::Tensor rows;    // [N] in ascending order; undefined: all
    at::Tensor values;  // [T, N, C] float64
  };

  /// y_t ← (1 − rate_t) y_t + rate_t · factor_t · g_t.
  /// @param rate [T] float64; 0 for an inactive task
  /// @param factor [T] float64
  std::vector<Part> update(std::string_view who, const TaskGradients& gradients, const at::Tensor& rate, const at::Tensor& factor);

  /// Names the tensors.
  template <class Visit>
  void fields(Visit&& visit) {
    visit("buffers", buffers_);
    visit("touched", touched_);
    rows_.clear();  // the visitor may have put other ones there
  }

 private:
  at::Tensor buffers_;            // [numbers] in the parts' type: [total_rows, T, C] of each part
  at::Tensor touched_;            // [rows of all parts] bool
  std::vector<at::Tensor> rows_;  // what touched_ says, part by part
};

/// [N, T, C] as [T, N, C] float64, in one pass.
inline at::Tensor task_major(const at::Tensor& values) {
  return at::empty({values.size(1), values.size(0), values.size(2)}, values.options().dtype(at::kDouble)).copy_(values.permute({1, 0, 2}));
}

/// [T, T]: inner products of the averages over all parts.
inline at::Tensor gramian_of(const std::vector<TaskBuffers::Part>& parts, const TaskGramian& like) {
  at::Tensor result = at::zeros({like.tasks(), like.tasks()}, like.matrix.options().dtype(at::kDouble));
  for (const TaskBuffers::Part& part : parts) {
    const at::Tensor flat = part.values.flatten(1);
    result.addmm_(flat, flat.t());
  }
  return result;
}

/// Σ_t w_t y_t for each part.
inline std::vector<SharedGradient::Part> weighted_buffers(const std::vector<TaskBuffers::Part>& parts, const TaskGradients& gradients,
                                                          const at::Tensor& weights) {
  std::vector<SharedGradient::Part> result;
  for (size_t p = 0; p < parts.size(); ++p) {
    const at::Tensor& values = parts[p].values;  // [T, N, C]
    const at::Tensor sum = weights.unsqueeze(0).mm(values.flatten(1)).view({values.size(1), values.size(2)});
    result.push_back({sum.to(gradients.parts[p].values.scalar_type()), parts[p].rows});
  }
  return result;
}

inline std::vector<TaskBuffers::Part> TaskBuffers::update(std::string_view who, const TaskGradients& gradients, const at::Tensor& rate,
                                                          const at::Tensor& factor) {
  at::ScalarType type = at::kFloat;
  int64_t rows = 0;
  for (const TaskGradients::Part& part : gradients.parts) {
    if (part.values.scalar_type() == at::kDouble) type = at::kDouble;
    rows += part.total_rows;
  }
  const std::vector<at::Tensor> memory = memory_of_parts(who, buffers_, gradients, type);
  if (!touched_.defined()) touched_ = zeros_on_touch({rows}, at::kBool, buffers_.device());
  HTL_CHECK(touched_.dim() == 1 && touched_.size(0) == rows, who, ": the state was made for ", touched_.numel(), " rows, the task gradients have ", rows,
            "; forget it");
  if (touched_.device() != buffers_.device() || touched_.scalar_type() != at::kBool) touched_ = touched_.to(buffers_.device(), at::kBool);
  rows_.resize(memory.size());

  // factors in the type of the averages, of moderate size since they are rates by now
  const at::Tensor kept = (1.0 - rate).to(type).view({1, -1, 1}), added = (rate * factor).to(type).view({1, -1, 1});
  std::vector<Part> result;
  int64_t first = 0;
  for (size_t p = 0; p < memory.size(); ++p) {
    const TaskGradients::Part& part = gradients.parts[p];
    const at::Tensor touched = touched_.narrow(0, first, part.total_rows);
    first += part.total_rows;
    at::Tensor values = active_values(part, gradients.gramian).to(type) * added;
    if (!part.rows.defined()) {
      memory[p].mul_(kept).add_(values);
      result.push_back({at::Tensor(), task_major(memory[p])});
      continue;
    }
    at::Tensor batch = part.rows;
    if (part.valid.defined()) {
      const at::Tensor used = part.valid.nonzero().squeeze(1);
      batch = batch.index_select(0, used);
      values = values.index_select(0, used);
    }
    if (!rows_[p].defined() || !touched.index_select(0, batch).all().item<bool>()) {
      touched.index_fill_(0, batch, 1);
      rows_[p] = touched.nonzero().squeeze(1);
    }
    at::Tensor all = memory[p].index_select(0, rows_[p]).mul_(kept);
    all.flatten(1).index_add_(0, at::searchsorted(rows_[p], batch), values.flatten(1));  // flatten is a view here
    memory[p].index_copy_(0, rows_[p], all);
    result.push_back({rows_[p], task_major(all)});
  }
  return result;
}

}  // namespace htl::detail
