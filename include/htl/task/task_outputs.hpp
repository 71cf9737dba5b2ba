// SPDX-License-Identifier: Apache-2.0
/// @file task_outputs.hpp
/// @brief TaskOutputs: what a model returns; Predictions: what it means; TaskLosses: what is differentiated.
#pragma once

#include <htl/task/named.hpp>

namespace htl::inline v0_1_0 {

/// @brief A model's raw outputs [B, W_t] by task name: logits, or whatever the task's loss asks for. In the order of the TaskSet.
using TaskOutputs = Named<at::Tensor>;

/// @brief Predictions by task name: [B] probability (binary), [B, K] probabilities (multiclass), [B] value in the label's unit (regression).
using Predictions = Named<at::Tensor>;

/// @brief One scalar loss per task, and whether the task has a labelled row in the batch.
struct TaskLosses {
  /// Scalars (0-dim) by task name, with their graphs. The loss of a task without labels is a defined 0.
  Named<at::Tensor> values;
  /// [T] bool on the losses' device: false where no row of the batch carries the task's label. Undefined = all active.
  at::Tensor active = {};

  /// @brief The loss of a task.
  /// @throws c10::IndexError if there is none of that name
  const at::Tensor& operator[](std::string_view name) const { return values[name]; }
  /// @brief Adds the loss of a task, or replaces it: for losses that are computed by hand.
  TaskLosses& set(std::string name, at::Tensor loss) {
    values.set(std::move(name), std::move(loss));
    return *this;
  }
  /// @brief The plain sum of all, with its graph.
  at::Tensor sum() const {
    HTL_CHECK(!values.empty(), "htl::TaskLosses: there is no loss to sum; give it at least one task");
    at::Tensor total;
    for (const auto& [name, loss] : values) total = total.defined() ? total.add(loss) : loss;
    return total;
  }
};

}  // namespace htl
