// SPDX-License-Identifier: Apache-2.0
/// @file fused_operators.hpp
/// @brief The only place in optim/ that calls LibTorch's operators with a leading underscore, which have no promise of stability.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/_foreach_add.h>
#include <ATen/ops/_foreach_mul.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/_foreach_sub.h>
#include <ATen/ops/_fused_adam.h>
#include <ATen/ops/_fused_adamw.h>

#include <optional>
#include <vector>

namespace htl::inline v0_1_0::detail {

/// @brief The lists that a fused Adam works on; all of one device and element type.
struct AdamLists {
  std::vector<at::Tensor> parameters, gradients, exp_avgs, exp_avg_sqs, steps;

  /// @brief Appends elements [begin, end) of another list's i-th tensors.
  void append(const AdamLists& other, size_t i, int64_t begin, int64_t end) {
    const auto part = [&](const at::Tensor& tensor) { return begin == 0 && end == tensor.numel() ? tensor : tensor.view(-1).slice(0, begin, end); };
    parameters.push_back(part(other.parameters[i]));
    gradients.push_back(part(other.gradients[i]));
    exp_avgs.push_back(part(other.exp_avgs[i]));
    exp_avg_sqs.push_back(part(other.exp_avg_sqs[i]));
    steps.push_back(other.steps[i]);
  }
};

/// @brief The numbers of a fused Adam.
struct AdamNumbers {
  double lr, beta1, beta2, eps, weight_decay;
  bool decoupled;
};

/// @brief One Adam or AdamW update with the steps as they are.
/// @param device_lr the rate in device memory, read instead of numbers.lr where defined
/// @param skip a float32 scalar in device memory: 1 = change nothing; undefined = update
inline void fused_adam(const AdamLists& lists, const AdamNumbers& numbers, const at::Tensor& device_lr, const at::Tensor& skip = {}) {
  const std::vector<at::Tensor> none;
  const auto call = [&](auto&& rate) {
    const auto run = [&](auto&& update) {
      update(lists.parameters, lists.gradients, lists.exp_avgs, lists.exp_avg_sqs, none, lists.steps, rate, numbers.beta1, numbers.beta2, numbers.weight_decay,
             numbers.eps, /*amsgrad=*/false, /*maximize=*/false, /*grad_scale=*/std::optional<at::Tensor>(),
             skip.defined() ? std::optional<at::Tensor>(skip) : std::nullopt);
    };
    if (numbers.decoupled) {
      run([](auto&&... arguments) { at::_fused_adamw_(arguments...); });
    } else {
      run([](auto&&... arguments) { at::_fused_adam_(arguments...); });
    }
  };
  if (device_lr.defined()) {
    call(device_lr);
  } else {
    call(numbers.lr);
  }
}

/// @brief Adds a scalar tensor to each tensor in place.
inline void foreach_add_(const std::vector<at::Tensor>& tensors, const at::Tensor& number) { at::_foreach_add_(tensors, number); }
/// @brief Adds a number to each tensor in place.
inline void foreach_add_(const std::vector<at::Tensor>& tensors, const at::Scalar& number) { at::_foreach_add_(tensors, number); }
/// @brief Multiplies each tensor by a scalar tensor in place.
inline void foreach_mul_(const std::vector<at::Tensor>& tensors, const at::Tensor& factor) { at::_foreach_mul_(tensors, factor); }
/// @brief Moves each tensor towards its target by a part of the way, a scalar tensor, in place: `x += part·(target − x)`. All on one device.
inline void foreach_move_(const std::vector<at::Tensor>& tensors, const std::vector<at::Tensor>& targets, const at::Tensor& part) {
  const std::vector<at::Tensor> ways = at::_foreach_sub(targets, tensors);
  at::_foreach_mul_(ways, part);
  at::_foreach_add_(tensors, ways);
}
/// @brief The Euclidean norm of each tensor, summed in float64.
inline std::vector<at::Tensor> foreach_norm(const std::vector<at::Tensor>& tensors) { return at::_foreach_norm(tensors, 2, at::kDouble); }

}  // namespace htl::detail
