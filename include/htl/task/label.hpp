// SPDX-License-Identifier: Apache-2.0
/// @file label.hpp
/// @brief Label: what was observed for one task, and how much each row counts; Labels: all tasks of a batch.
#pragma once

#include <htl/task/named.hpp>

namespace htl::inline v0_1_0 {

/// @brief One task's labels for B rows.
///
/// A row whose mask is false has no label: its value may be anything, NaN included, and it enters neither loss, gradient, metric nor fitted statistic.
/// The same holds for a row of weight 0.
struct Label {
  /// [B] floating point in the label's own unit (binary: 0 or 1), or [B] int64 class indices for a multiclass task.
  at::Tensor value;
  /// [B] bool, true where the label was observed; undefined = everywhere.
  at::Tensor mask = {};
  /// [B] floating point ≥ 0, how much the row counts; undefined = 1.
  at::Tensor weight = {};

  /// @brief [n] int64: the rows that have a label and a weight other than 0; undefined = all. ONE SYNCHRONISATION on CUDA.
  at::Tensor observed_rows() const {
    if (!mask.defined() && !weight.defined()) return {};
    const at::Tensor counts = weight.defined() ? weight.ne(0) : mask;
    return (mask.defined() && weight.defined() ? mask.logical_and(counts) : counts).nonzero().squeeze(1);
  }
  /// @brief The label on another device.
  Label to(const at::Device& device, bool non_blocking = false) const {
    const auto move = [&](const at::Tensor& t) { return t.defined() ? t.to(device, non_blocking) : t; };
    return {move(value), move(mask), move(weight)};
  }
  /// @brief The rows of an int64 index [n].
  Label index_select(const at::Tensor& rows) const {
    const auto pick = [&](const at::Tensor& t) { return t.defined() ? t.index_select(0, rows) : t; };
    return {pick(value), pick(mask), pick(weight)};
  }
};

/// @brief The labels of all tasks of a batch, and the named context columns that losses read (duration, propensity, group).
struct Labels {
  /// The labels by task name.
  Named<Label> tasks;
  /// Context columns [B] by name.
  Named<at::Tensor> context;

  /// @brief The label of a task.
  /// @throws c10::IndexError if there is none of that name
  const Label& operator[](std::string_view name) const { return tasks[name]; }
  /// @brief Adds a task's label; returns *this for chaining.
  Labels& set(std::string name, Label label) {
    tasks.set(std::move(name), std::move(label));
    return *this;
  }
  /// @brief The number of rows; 0 without labels.
  int64_t rows() const { return tasks.empty() ? 0 : tasks.begin()->second.value.size(0); }

  /// @brief All labels and context columns on another device.
  Labels to(const at::Device& device, bool non_blocking = false) const {
    Labels moved;
    for (const auto& [name, label] : tasks) moved.tasks.set(name, label.to(device, non_blocking));
    for (const auto& [name, column] : context) moved.context.set(name, column.to(device, non_blocking));
    return moved;
  }
  /// @brief The rows of an int64 index [n].
  Labels index_select(const at::Tensor& rows) const {
    Labels picked;
    for (const auto& [name, label] : tasks) picked.tasks.set(name, label.index_select(rows));
    for (const auto& [name, column] : context) picked.context.set(name, column.index_select(0, rows));
    return picked;
  }
};

}  // namespace htl
