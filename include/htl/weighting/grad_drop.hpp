// SPDX-License-Identifier: Apache-2.0
/// @file grad_drop.hpp
/// @brief GradDrop: of each number's task gradients only those of one sign, drawn by how much of each sign there is.
#pragma once

#include <htl/weighting/gradient_parts.hpp>

#include <ATen/ops/rand.h>
#include <ATen/ops/where.h>

namespace htl::inline v0_1_0 {

/// @brief GradDrop (Chen et al., "Just Pick a Sign", NeurIPS 2020, Algorithm 1).
///
/// For each number of the shared tensors, with g_t the tasks' gradients and U uniform in [0, 1):
/// P = ½ (1 + Σ g_t / Σ |g_t|); the sign + is kept if U < P, else the sign −; the gradient is Σ_t (ℓ + (1 − ℓ) [g_t has the kept sign]) g_t, ℓ the leak.
/// Where all g_t are 0 it is 0. T = 1 gives the identity. It is P = (Σ of the positive g_t) / Σ |g_t|, so that nothing cancels.
///
/// **Shapes**: any parts; of tables the touched rows, on the others the result is 0. **Inactive tasks** count as zeros. **Random numbers**: one for each number
/// of the result, from gramian.generator; where that is a generator of the CPU and the gradients are on CUDA, they are drawn on the CPU and copied.
/// **Device**: ATen without branches or synchronisation (but for that copy); a CUDA graph can capture it, with a generator that is registered with it.
/// **Cost**: three passes over the task gradients. It has no weights to report.
/// **Elsewhere**: TorchJD has a leak for each task; SamsungLabs' implementation means by leak the part that is dropped; both give NaN where all g_t are 0.
struct GradDrop {
  double leak = 0.0;  ///< ℓ in [0, 1]: the part of the dropped gradients that is kept; 1 = the plain sum

  /// @brief The shared gradient, with U drawn.
  /// @throws c10::ValueError with a leak outside [0, 1], or parts of a wrong shape
  SharedGradient aggregate(const TaskGradients& gradients) const {
    check(gradients);
    std::vector<at::Tensor> uniform;
    for (const TaskGradients::Part& part : gradients.parts) {
      const at::TensorOptions options = part.values.options();
      const std::optional<at::Generator>& generator = gradients.gramian.generator;
      const bool elsewhere = generator && generator->device().type() != part.values.device().type();
      const at::Tensor drawn = at::rand({part.values.size(0), part.values.size(2)}, generator, elsewhere ? options.device(generator->device()) : options);
      uniform.push_back(drawn.to(part.values.device()));
    }
    return aggregate_with(gradients, uniform);
  }

  /// @brief The shared gradient with given numbers U: for tests, and for who draws otherwise.
  /// @param gradients the task gradients
  /// @param uniform for each part U, [A, C] or what broadcasts to it
  /// @throws c10::ValueError with a leak outside [0, 1], parts of a wrong shape, or another number of parts
  SharedGradient aggregate_with(const TaskGradients& gradients, const std::vector<at::Tensor>& uniform) const {
    check(gradients);
    HTL_CHECK(uniform.size() == gradients.parts.size(), "htl::GradDrop: expected uniform numbers for ", gradients.parts.size(), " parts, got ", uniform.size());
    SharedGradient result;
    for (size_t p = 0; p < uniform.size(); ++p) {
      const TaskGradients::Part& part = gradients.parts[p];
      const at::Tensor values = detail::active_values(part, gradients.gramian);
      const at::Tensor positive = values.clamp_min(0).sum(1), negative = values.clamp_max(0).sum(1);
      // halves, so that the difference of two large numbers stays finite; 0/0 is NaN, which is not above U, and then both sums are 0
      const at::Tensor keeps_positive = positive * 0.5 / (positive * 0.5 - negative * 0.5) > uniform[p];
      const at::Tensor kept = at::where(keeps_positive, positive, negative);
      result.parts.push_back({leak == 0.0 ? kept : leak * (positive + negative) + (1.0 - leak) * kept, part.rows, part.valid});
    }
    return result;
  }

 private:
  void check(const TaskGradients& gradients) const {
    HTL_CHECK(leak >= 0.0 && leak <= 1.0, "htl::GradDrop: expected leak in [0, 1], got ", leak);
    detail::check_parts("htl::GradDrop", gradients);
  }
};

}  // namespace htl
