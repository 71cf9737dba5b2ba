// SPDX-License-Identifier: Apache-2.0
/// @file random_weighting.hpp
/// @brief RandomWeighting: other weights at every step; the baseline that methods must beat.
#pragma once

#include <htl/task/tensor_operators.hpp>
#include <htl/weighting/weighting.hpp>

#include <ATen/ops/randn.h>

namespace htl::inline v0_1_0 {

/// @brief Random loss weighting, RLW (Lin et al., "Reasonable Effectiveness of Random Weighting", TMLR 2022), on the gradients: w = softmax(z), z ~ N(0, I).
///
/// Weights are positive, add up to 1 and have mean 1/T.
/// **Inactive tasks** have weight 0; the softmax is over the active ones. One task: weight 1.
/// **Random numbers**: T normal ones from gramian.generator, whatever the active tasks are; without it from the default generator of the matrix's device.
/// **Device**: ATen without branches or synchronisation; a CUDA graph can capture it where the generator is the device's (a generator of the CPU is copied
/// from). TorchJD and LibMTL have the same scale.
struct RandomWeighting {
  /// @brief [T] float64 weights.
  at::Tensor weights(const TaskGramian& gramian) const {
    const at::Device device = gramian.generator ? gramian.generator->device() : gramian.matrix.device();
    const at::Tensor drawn = at::randn({gramian.tasks()}, gramian.generator, at::TensorOptions().dtype(at::kDouble).device(device));
    at::Tensor parts = drawn.to(gramian.matrix.device()).exp();  // normal numbers in float64 stay within ± 10: no overflow
    if (gramian.active.defined()) parts = parts * gramian.active.to(parts.options());
    return parts / parts.sum().clamp_min(1e-300);
  }
};

}  // namespace htl
