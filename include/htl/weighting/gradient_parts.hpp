// SPDX-License-Identifier: Apache-2.0
/// @file gradient_parts.hpp
/// @brief What methods that see the task gradients share: checked parts, inactive tasks as zeros, weighted sums, and memory for every number.
#pragma once

#include <htl/task/large_memory.hpp>
#include <htl/task/tensor_operators.hpp>
#include <htl/weighting/task_gradients.hpp>

#include <string_view>
#include <vector>

namespace htl::inline v0_1_0::detail {

/// [A, C]: Σ_t w_t · values[·, t, ·] in the type of the values.
inline at::Tensor weighted_sum(const at::Tensor& values, const at::Tensor& weights) { return (values * weights.to(values.options()).view({-1, 1})).sum(1); }

/// [T, T] float64, and of its tasks whatever else is said: methods read it by raw pointers.
inline void check_gramian(std::string_view who, const TaskGramian& gramian) {
  const at::Tensor& matrix = gramian.matrix;
  check_shape(who, "the Gramian", matrix, {-1, matrix.defined() && matrix.dim() > 0 ? matrix.size(0) : -1});
  HTL_CHECK_TYPE(matrix.scalar_type() == at::kDouble, who, ": expected the Gramian in float64, got ", matrix.scalar_type());
  const int64_t tasks = gramian.tasks();
  if (const at::Tensor& active = gramian.active; active.defined())
    HTL_CHECK(active.dim() == 1 && active.size(0) == tasks && active.scalar_type() == at::kBool && active.device() == matrix.device(), who,
              ": expected TaskGramian::active as one bool for each of ", tasks, " tasks on ", matrix.device().str(), ", got ", toString(active.scalar_type()),
              " of shape ", shape_of(active), " on ", active.device().str());
  if (gramian.cross.defined()) check_shape(who, "the products of two batches (TaskGramian::cross)", gramian.cross, {tasks, tasks});
  const auto check_positions = [&](const std::vector<int64_t>& positions, const char* what) {
    for (const int64_t at : positions) HTL_CHECK(at >= 0 && at < tasks, who, ": expected ", what, " as positions of tasks, 0 … ", tasks - 1, ", got ", at);
  };
  check_positions(gramian.cores, "TaskGramian::cores");
  HTL_CHECK(gramian.cores_after.empty() || static_cast<int64_t>(gramian.cores_after.size()) == tasks, who, ": expected TaskGramian::cores_after for ", tasks,
            " tasks, or for none, got ", gramian.cores_after.size());
  for (const std::vector<int64_t>& cores : gramian.cores_after) check_positions(cores, "TaskGramian::cores_after");
}

/// Every part [A, T, C], and rows where it is not the whole tensor.
inline void check_parts(std::string_view who, const TaskGradients& gradients) {
  const at::Tensor& matrix = gradients.gramian.matrix;
  check_gramian(who, gradients.gramian);
  for (const TaskGradients::Part& part : gradients.parts) {
    check_shape(who, "the gradients of \"" + part.name + "\"", part.values, {-1, matrix.size(0), -1});
    if (part.rows.defined()) {
      check_shape(who, "the rows of \"" + part.name + "\"", part.rows, {part.values.size(0)});
    } else {
      HTL_CHECK(part.values.size(0) == part.total_rows, who, ": expected the rows of \"", part.name, "\", or gradients of all its ", part.total_rows,
                " rows, got gradients of ", part.values.size(0));
    }
  }
}

/// The active tasks as [T] bool; all where nobody said otherwise.
inline at::Tensor active_tasks(const TaskGramian& gramian) {
  return gramian.active.defined() ? gramian.active : gramian.matrix.new_ones({gramian.tasks()}, at::kBool);
}

/// A part's gradients, zeros for inactive tasks.
inline at::Tensor active_values(const TaskGradients::Part& part, const TaskGramian& gramian) {
  return gramian.active.defined() ? part.values.masked_fill(gramian.active.logical_not().view({1, -1, 1}), 0) : part.values;
}

/// The losses [T] float64, zeros for inactive tasks, whose losses may be anything.
inline at::Tensor losses_of_active(std::string_view who, const TaskGramian& gramian, const at::Tensor& active) {
  check_shape(who, "the losses (TaskGramian::losses)", gramian.losses, {gramian.tasks()});
  return gramian.losses.to(gramian.matrix.device(), at::kDouble).masked_fill(active.logical_not(), 0.0);
}

/// One tensor of memory with a number for each number of each task's gradient: one field of a state, whatever the parts are.
/// @param memory the tensor; made of zeros where it is undefined, on the CPU of pages that cost nothing before they are touched
/// @param type its element type
/// @return for each part its view [total_rows, T, C]
inline std::vector<at::Tensor> memory_of_parts(std::string_view who, at::Tensor& memory, const TaskGradients& gradients, at::ScalarType type) {
  const int64_t tasks = gradients.gramian.tasks();
  int64_t numbers = 0;
  for (const TaskGradients::Part& part : gradients.parts) {
    HTL_CHECK(!part.of_batch, who, ": it remembers every shared number from step to step, but those of the split ", part.name,
              " belong to other samples in each batch; name the parameters that it comes from by htl::shared()");
    numbers += part.total_rows * tasks * part.values.size(2);
  }
  const at::Device device = gradients.parts.empty() ? gradients.gramian.matrix.device() : gradients.parts.front().values.device();
  if (!memory.defined()) memory = zeros_on_touch({numbers}, type, device);
  HTL_CHECK(memory.dim() == 1 && memory.size(0) == numbers, who, ": the state was made for ", memory.numel(), " numbers, the task gradients have ", numbers,
            "; forget it");
  if (memory.device() != device || memory.scalar_type() != type || !memory.is_contiguous()) memory = memory.to(device, type).contiguous();
  std::vector<at::Tensor> views;
  int64_t first = 0;
  for (const TaskGradients::Part& part : gradients.parts) {
    const int64_t size = part.total_rows * tasks * part.values.size(2);
    views.push_back(memory.narrow(0, first, size).view({part.total_rows, tasks, part.values.size(2)}));
    first += size;
  }
  return views;
}

}  // namespace htl::detail
