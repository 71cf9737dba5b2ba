// SPDX-License-Identifier: Apache-2.0
/// @file balanced_losses.hpp
/// @brief What a balancer does with a batch's losses, whatever its method: reads them, and puts weights on them.
/// Templates without a parameter that matters, so that a unit that includes this header without calling them does not compile them.
/// Not in the umbrella: include it where it is used.
#pragma once

#include <htl/balance/balance_method.hpp>
#include <htl/task/task_outputs.hpp>

#include <ATen/ops/stack.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

namespace htl::inline v0_1_0::detail {

/// The losses [T] float64 without their graphs.
/// @param when "" or " after the step", for the sentences
/// @throws c10::ValueError on other tasks, a loss that is not one number, a wrong mask; on the CPU also for an active task's loss that is not finite
template <class = void>
at::Tensor read_losses(const TaskLosses& losses, const std::vector<std::string>& names, const char* when) {
  HTL_CHECK(losses.values.names() == names, "htl::Balancer: expected losses of the balancer's tasks ", quoted(names), ", got ", quoted(losses.values.names()));
  std::vector<at::Tensor> detached;
  for (const auto& [name, loss] : losses.values) {
    HTL_CHECK(loss.defined() && loss.numel() == 1, "htl::Balancer: expected the loss of task \"", name, "\" to be one number, got shape ", shape_of(loss));
    HTL_CHECK(detached.empty() || loss.device() == detached.front().device(), "htl::Balancer: expected all losses on one device, got that of task \"", name,
              "\" on ", loss.device(), ", the first on ", detached.front().device());
    detached.push_back(loss.detach().reshape({}).to(at::kDouble));
  }
  const at::Tensor& active = losses.active;
  at::Tensor result = at::stack(detached);
  const auto tasks = static_cast<int64_t>(names.size());
  HTL_CHECK(!active.defined() || (active.dim() == 1 && active.size(0) == tasks && active.scalar_type() == at::kBool && active.device() == result.device()),
            "htl::Balancer: expected losses.active as one bool for each of ", tasks, " tasks on ", result.device(), ", got ",
            active.defined() ? toString(active.scalar_type()) : "", " of shape ", shape_of(active), active.defined() ? " on " + active.device().str() : "");
  if (!result.is_cpu()) return result;
  const at::Tensor mask = active.defined() ? active.contiguous() : at::Tensor();
  for (int64_t t = 0; t < tasks; ++t) {
    const double loss = result.const_data_ptr<double>()[t];
    HTL_CHECK(std::isfinite(loss) || (mask.defined() && !mask.const_data_ptr<bool>()[t]), "htl::Balancer: the loss of task \"", names[static_cast<size_t>(t)],
              "\"", when, " is ", loss, "; where a batch has no label of a task, say so by TaskLosses::active");
  }
  return result;
}

/// Throws on the CPU for an active task's loss below the least one.
template <class = void>
void check_least(double least, const at::Tensor& values, const at::Tensor& active, const std::vector<std::string>& names) {
  if (std::isinf(least) || !values.is_cpu()) return;
  const at::Tensor mask = active.defined() ? active.contiguous() : at::Tensor();
  for (size_t t = 0; t < names.size(); ++t) {
    const double loss = values.const_data_ptr<double>()[t];
    HTL_CHECK(loss >= least || (mask.defined() && !mask.const_data_ptr<bool>()[t]), "htl::Balancer: the method takes logarithms and expects losses ≥ ", least,
              ", got ", loss, " of task \"", names[t], "\", as a likelihood's may be; give that task another loss, or take a balancer without logarithms");
  }
}

/// Sets what a method says of inactive tasks to 0.
/// @throws c10::ValueError unless there is a number for each task; on the CPU also where a weight is not finite in the type of the task's balanced loss
template <class = void>
void check_terms(BalanceTerms& terms, const BalanceInput& input, const TaskLosses& losses, const std::vector<std::string>& names) {
  for (at::Tensor* const field : {&terms.weights, &terms.offsets}) {
    if (field == &terms.offsets && !field->defined()) continue;
    const bool fits = field->defined() && field->dim() == 1 && field->size(0) == input.tasks() && field->is_floating_point();
    HTL_CHECK(fits, "htl::Balancer: expected the method to return one number for each of ", input.tasks(), " tasks, got shape ", shape_of(*field));
    *field = field->to(input.losses.device(), at::kDouble);
    if (input.active.defined()) *field = field->masked_fill(input.active.logical_not(), 0.0);
    if (!field->is_cpu()) continue;
    const at::Tensor values = field->detach().contiguous();
    for (int64_t t = 0; t < input.tasks(); ++t) {
      const bool is_double = losses.values[names[static_cast<size_t>(t)]].scalar_type() == at::kDouble;
      const double value = values.const_data_ptr<double>()[t];
      HTL_CHECK(is_double ? std::isfinite(value) : std::isfinite(static_cast<float>(value)), "htl::Balancer: what the method returned for task \"",
                names[static_cast<size_t>(t)], "\" is ", value, " (its loss is ", input.losses[t].item<double>(), ")");
    }
  }
}

/// weights[t] · L_t + offsets[t] for each task, in the loss's type or float32 where that is narrower. Each task's graph stays its own.
template <class = void>
TaskLosses balanced_losses(const TaskLosses& losses, const BalanceTerms& terms) {
  TaskLosses result;
  result.active = losses.active;
  const auto type_of = [](const at::Tensor& loss) { return loss.scalar_type() == at::kDouble ? at::kDouble : at::kFloat; };
  const bool any_double = std::any_of(losses.values.begin(), losses.values.end(), [&](const auto& entry) { return type_of(entry.second) == at::kDouble; });
  const at::ScalarType type = any_double ? at::kDouble : at::kFloat;  // cast once for all, not loss by loss
  const std::vector<at::Tensor> weights = terms.weights.to(type).unbind();
  const std::vector<at::Tensor> offsets = terms.offsets.defined() ? terms.offsets.to(type).unbind() : std::vector<at::Tensor>();
  std::vector<at::Tensor> inactive;  // what a loss that does not count holds, NaN included, must not come through; on the CPU it is seen whether there is one
  if (losses.active.defined()) inactive = losses.active.logical_not().unbind();
  size_t t = 0;
  for (const std::pair<std::string, at::Tensor>& entry : losses.values) {
    const at::Tensor& given = entry.second;
    const bool is_clean = inactive.empty() || (given.is_cpu() && std::isfinite(given.item<double>()));
    at::Tensor loss = is_clean ? given : given.masked_fill(inactive[t], 0);
    if (loss.scalar_type() != type_of(loss)) loss = loss.to(type_of(loss));
    const auto own = [&](const at::Tensor& number) { return type == type_of(loss) ? number : number.to(type_of(loss)); };
    loss = loss.mul(own(weights[t]));
    if (!offsets.empty()) loss = loss.add(own(offsets[t]));
    result.values.set(entry.first, std::move(loss));
    ++t;
  }
  return result;
}

}  // namespace htl::detail
