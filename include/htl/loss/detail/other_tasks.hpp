// SPDX-License-Identifier: Apache-2.0
/// @file other_tasks.hpp
/// @brief How a loss of one task reads the outputs and labels of others.
/// Not in the umbrella: it belongs to the headers that include it.
#pragma once

#include <htl/task/task_loss.hpp>

#include <ATen/ops/stack.h>

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace htl::inline v0_1_0::detail {

/// Names as "click/pay": task names have no slashes.
inline std::string join_names(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : "/") + name;
  return text;
}

/// Refuses an empty list of tasks, and empty names in it.
inline void check_names(std::string_view who, std::string_view what, const std::vector<std::string>& names) {
  HTL_CHECK(!names.empty(), who, ": expected the name of at least one task as ", what, ", got none");
  for (const std::string& name : names) HTL_CHECK(!name.empty(), who, ": expected names of tasks as ", what, ", got an empty one");
}

/// Column 0 [B] of another task's output, in the type of `like` [B, W].
inline at::Tensor output_of(std::string_view who, const TaskOutputs* outputs, std::string_view name, const at::Tensor& like) {
  HTL_CHECK_STATE(outputs, who, ": reads the output of task \"", name, "\", but got no outputs; use it through HybridLoss and TaskSet::predict(outputs)");
  const at::Tensor* const found = outputs->find(name);
  HTL_CHECK_INDEX(found, who, ": there is no output of task \"", name, "\"; the model gave ", quoted(outputs->names()));
  HTL_CHECK(found->dim() == 2 && found->size(0) == like.size(0) && found->size(1) >= 1, who, ": expected an output of shape [", like.size(0),
            ", any] of task \"", name, "\", got ", shape_of(*found));
  return found->select(1, 0).to(like.scalar_type());
}

/// [B, 1 + n]: column 0 of a task's own output and of those of other tasks.
inline at::Tensor joined_outputs(std::string_view who, const at::Tensor& own, const TaskOutputs* outputs, const std::vector<std::string>& names) {
  HTL_CHECK(own.defined() && own.dim() == 2 && own.size(1) >= 1, who, ": expected an output of shape [any, 1 or more], got ", shape_of(own));
  std::vector<at::Tensor> columns = {own.select(1, 0)};
  for (const std::string& name : names) columns.push_back(output_of(who, outputs, name, own));
  return at::stack(columns).t();
}

/// [B] 1 in the rows where another binary task's event was observed, else 0, in the type of `like`.
inline at::Tensor event_of(std::string_view who, const Labels* labels, std::string_view name, const at::Tensor& like) {
  HTL_CHECK_STATE(labels, who, ": reads the label of task \"", name, "\", but got no labels; use it through HybridLoss");
  const Label* const label = labels->tasks.find(name);
  HTL_CHECK_INDEX(label, who, ": there is no label of task \"", name, "\"; the batch has ", quoted(labels->tasks.names()));
  check_shape(who, "a label of task \"" + std::string(name) + "\"", label->value, {like.size(0)});
  const at::Tensor event = label->value.gt(0.5);
  return (label->mask.defined() ? event.logical_and(label->mask) : event).to(like.scalar_type());
}

/// A context column [B] in the type of `like`, detached.
inline at::Tensor column_of(std::string_view who, const Named<at::Tensor>& context, std::string_view name, at::ScalarType type) {
  const at::Tensor* const column = context.find(name);
  HTL_CHECK_INDEX(column, who, ": there is no context column \"", name, "\"; present: ", quoted(context.names()));
  HTL_CHECK(column->defined() && column->dim() == 1, who, ": expected the context column \"", name, "\" of shape [any], got ", shape_of(*column));
  return column->detach().to(type);
}

/// The input with another output in its place.
inline LossInput with_output(const LossInput& input, at::Tensor output) {
  return {std::move(output), input.target, input.label, input.weight, input.context, input.outputs, input.labels};
}

}  // namespace htl
