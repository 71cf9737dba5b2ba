// SPDX-License-Identifier: Apache-2.0
/// @file prepared_label.hpp
/// @brief PreparedLabel: one task's labels of a batch as its losses read them — clean, transformed, with each row's share of the mean.
#pragma once

#include <htl/loss/one_pass.hpp>
#include <htl/task/task.hpp>

#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/where.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief What the losses of one task see of its labels. A row without a label, or of weight 0, holds zeros everywhere.
struct PreparedLabel {
  /// [B] the transformed label in the losses' type; int64 classes of a multiclass task.
  at::Tensor target;
  /// [B] the label in its own unit; the same tensor as target where nothing transforms it.
  at::Tensor label;
  /// [B] mask × weight, divided by the largest; undefined = 1 everywhere.
  at::Tensor weight;
  /// [B] weight / Σ weight; all 0 where the batch has no label. Formed from the scaled weights, so that weights of any size give exact shares.
  at::Tensor share;
  /// 0-dim bool: whether any row counts.
  at::Tensor active;
};

namespace detail {

/// Throws for the first row that counts and whose value is outside [low, high].
inline void check_range(const TaskSpec& task, const AnyLoss& loss, const at::Tensor& values, const at::Tensor& share) {
  const auto [low, high] = loss.label_range();
  if (task.is_discrete() || (std::isinf(low) && std::isinf(high))) return;  // a discrete task's labels were checked by their kind
  const at::Tensor x = values.to(at::kDouble).contiguous(), s = share.to(at::kDouble).contiguous();
  const double* const value = x.const_data_ptr<double>();
  const double* const counts = s.const_data_ptr<double>();
  for (int64_t row = 0; row < x.size(0); ++row)
    HTL_CHECK(counts[row] == 0.0 || (value[row] >= low && value[row] <= high), "htl::HybridLoss: loss \"", loss.name(), "\" of task \"", task.name(),
              "\" expects labels in [", low, ", ", high, "], got ", value[row], " in row ", row, "; correct the data, or mask the row");
}

/// Calls use(is_label) with the predicate of the labels that a task can have. Without branches, which random labels would mispredict.
template <class Use>
void with_label_check(const TaskSpec& task, const Use& use) {
  switch (task.kind()) {
    case TaskKind::binary:
      return use([](double value) { return (value == 0.0) | (value == 1.0); });
    case TaskKind::multiclass: {
      const double top = static_cast<double>(task.classes() - 1);
      return use([top](double value) {
        const double whole = std::floor(value);
        return (value >= 0.0) & (value <= top) & (whole == value);
      });
    }
    case TaskKind::regression:
      return use([](double value) { return std::abs(value) <= std::numeric_limits<double>::max(); });
  }
}

/// Throws for the first row whose weight, or whose label where it counts, is no good.
inline void refuse_label(const TaskSpec& task, int64_t rows, const double* value, const bool* mask, const double* weight) {
  with_label_check(task, [&](const auto& is_label) {
    for (int64_t row = 0; row < rows; ++row) {
      const double own = mask && !mask[row] ? 0.0 : weight ? weight[row] : 1.0;
      HTL_CHECK(own >= 0.0 && std::isfinite(own), "htl::HybridLoss: task \"", task.name(), "\" expects finite weights ≥ 0, got ", own, " in row ", row);
      HTL_CHECK(own == 0.0 || is_label(value[row]), "htl::HybridLoss: task \"", task.name(), "\" expects ",
                task.kind() == TaskKind::binary       ? "labels 0 or 1"
                : task.kind() == TaskKind::multiclass ? c10::str("classes 0 to ", task.classes() - 1)
                                                      : std::string("finite labels"),
                ", got ", value[row], " in row ", row, "; correct the data, or mask the row");
    }
  });
}

/// Throws for the first target that its element type can't hold.
inline void check_targets(const TaskSpec& task, const at::Tensor& target, const double* label, at::ScalarType type) {
  const at::Tensor targets = target.contiguous();
  const double* const value = targets.const_data_ptr<double>();
  const double limit = type == at::kFloat ? std::numeric_limits<float>::max() : std::numeric_limits<double>::max();
  for (int64_t row = 0; row < targets.size(0); ++row)
    HTL_CHECK(std::abs(value[row]) <= limit, "htl::HybridLoss: the label ", label[row], " of task \"", task.name(), "\" in row ", row, " becomes ", value[row],
              " by the transform \"", task.transform().name(), "\", which is no finite ", c10::toString(type), "; correct the data, or mask the row");
}

/// Throws for the first row that counts and in which a column that the task's losses or transform read is not finite.
inline void check_columns(const TaskSpec& task, const Named<at::Tensor>& context, const double* counts) {
  const auto check = [&](const std::vector<std::string>& names) {
    for (const std::string& name : names) {
      const at::Tensor* const column = context.find(name);
      if (!column || !column->is_floating_point()) continue;
      const at::Tensor numbers = column->detach().to(at::kDouble).contiguous();
      const double* const number = numbers.const_data_ptr<double>();
      for (int64_t row = 0; row < numbers.size(0); ++row)
        HTL_CHECK(counts[row] == 0.0 || std::isfinite(number[row]), "htl::HybridLoss: task \"", task.name(),
                  "\" expects finite numbers in the context column \"", name, "\", got ", number[row], " in row ", row, "; correct the data, or mask the row");
    }
  };
  check(task.transform().context());
  for (const WeightedLoss& weighted : task.losses()) check(weighted.loss.context());
}

/// On the CPU: short fp64 loops. Checks every label and weight that counts, and the columns that are read.
inline PreparedLabel prepare_by_loops(const TaskSpec& task, const Label& label, const Named<at::Tensor>& context, at::ScalarType type) {
  const int64_t rows = label.value.size(0);
  const bool plain = !label.mask.defined() && !label.weight.defined();
  const at::Tensor values = label.value.detach().to(at::kDouble).contiguous();
  const at::Tensor masks = label.mask.defined() ? label.mask.contiguous() : label.mask;
  const at::Tensor weights = label.weight.defined() ? label.weight.detach().to(at::kDouble).contiguous() : label.weight;
  const double* const value = values.const_data_ptr<double>();
  const bool* const mask = masks.defined() ? masks.const_data_ptr<bool>() : nullptr;
  const double* const weight = weights.defined() ? weights.const_data_ptr<double>() : nullptr;
  const auto doubles = at::TensorOptions(at::kDouble);
  at::Tensor cleaned = at::empty({rows}, doubles), scaled = at::empty({rows}, doubles);
  double* const clean = cleaned.mutable_data_ptr<double>();
  double* const scale = scaled.mutable_data_ptr<double>();

  struct Part {
    double largest = 0.0, sum = 0.0;
    bool good = true;
  };
  std::vector<Part> parts(row_chunks(rows));
  with_label_check(task, [&](const auto& is_label) {
    for_row_chunks(rows, [&](int64_t chunk, int64_t begin, int64_t end) {
      Part part;
      for (int64_t row = begin; row < end; ++row) {
        const double given = weight ? weight[row] : 1.0, any = value[row];
        const bool on = mask ? mask[row] : true;
        const double own = on ? given : 0.0;
        const double kept = own != 0.0 ? any : 0.0;  // 0 is a label of every kind
        const bool fits = is_label(kept);
        part.good = part.good & (own >= 0.0) & (own <= std::numeric_limits<double>::max()) & fits;
        part.largest = std::max(part.largest, own);
        scale[row] = own;
        clean[row] = kept;
      }
      parts[static_cast<size_t>(chunk)] = part;
    });
  });
  double largest = 0.0, sum = 0.0;
  for (const Part& part : parts) {
    if (!part.good) refuse_label(task, rows, value, mask, weight);
    largest = std::max(largest, part.largest);
  }
  if (!plain && largest > 0.0)
    for_row_chunks(rows, [&](int64_t chunk, int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        scale[row] /= largest;
        parts[static_cast<size_t>(chunk)].sum += scale[row];
      }
    });
  for (const Part& part : parts) sum += part.sum;

  PreparedLabel prepared;
  prepared.active = at::scalar_tensor(largest > 0.0, at::kBool);
  if (plain) {
    prepared.share = at::full({rows}, 1.0 / static_cast<double>(std::max<int64_t>(rows, 1)), at::TensorOptions(type));
  } else {
    prepared.share = (largest > 0.0 ? scaled.div(sum) : scaled).to(type);
    prepared.weight = scaled.to(type);
  }
  check_columns(task, context, scale);
  const bool transformed = task.transform().name() != "none";
  at::Tensor target = transformed ? task.transform().apply(cleaned, context) : cleaned;
  if (transformed && !plain) target = target.masked_fill(scaled.eq(0), 0);
  if (!task.is_discrete()) check_targets(task, target, clean, type);
  prepared.target = target.to(task.kind() == TaskKind::multiclass ? at::kLong : type);
  prepared.label = transformed ? cleaned.to(type) : prepared.target;
  return prepared;
}

/// On any device, by tensor operators: the same numbers without checks and without synchronisation. A weight that is not > 0 counts as 0.
inline PreparedLabel prepare_by_tensors(const TaskSpec& task, const Label& label, const Named<at::Tensor>& context, at::ScalarType type) {
  const int64_t rows = label.value.size(0);
  const auto options = label.value.options();
  at::Tensor value = label.value.detach().to(at::kDouble), counts = label.mask;  // transformed in fp64, as on the CPU
  PreparedLabel prepared;
  if (!label.mask.defined() && !label.weight.defined()) {
    prepared.share = at::full({rows}, rows > 0 ? 1.0 / static_cast<double>(rows) : 0.0, options.dtype(type));
    prepared.active = at::scalar_tensor(rows > 0, options.dtype(at::kBool));
  } else {
    if (label.weight.defined()) counts = counts.defined() ? counts.logical_and(label.weight.gt(0)) : label.weight.gt(0);
    at::Tensor weight = label.weight.defined() ? label.weight.detach().to(at::kDouble).masked_fill(counts.logical_not(), 0) : counts.to(at::kDouble);
    if (rows > 0) weight = weight.div(at::where(counts.any(), weight.amax(), at::scalar_tensor(1.0, weight.options())));
    value = value.masked_fill(counts.logical_not(), 0);
    prepared.share = weight.div(weight.sum().clamp_min(1.0)).to(type);  // the largest is 1, so a sum below 1 is 0
    prepared.weight = weight.to(type);
    prepared.active = counts.any();
  }
  const bool transformed = task.transform().name() != "none";
  at::Tensor target = transformed ? task.transform().apply(value, context) : value;
  if (transformed && counts.defined()) target = target.masked_fill(counts.logical_not(), 0);
  prepared.target = target.to(task.kind() == TaskKind::multiclass ? at::kLong : type);
  prepared.label = transformed ? value.to(type) : prepared.target;
  return prepared;
}

}  // namespace detail
}  // namespace htl
