// SPDX-License-Identifier: Apache-2.0
/// @file report.hpp
/// @brief GradientReport: what a backward through a fork found — norms, cosines, weights — as tensors, without a synchronisation.
#pragma once

#include <htl/task/named.hpp>
#include <htl/task/tensor_operators.hpp>

#include <ATen/TensorOperators.h>
#include <ATen/ops/ones_like.h>

#include <limits>
#include <string>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief The Gramian of one step and what was made of it. Everything stays on the device until it is read.
struct GradientReport {
  /// @brief What the method saw as one vector: everything, or by GradientScope a thing or a tensor.
  struct Group {
    std::string name;    ///< "all", or of the parameter, table or thing
    at::Tensor gramian;  ///< [T, T] float64
    at::Tensor weights;  ///< [T] float64; undefined for a method without weights
  };

  /// Task names, in the order of rows and columns.
  std::vector<std::string> tasks;
  /// [T, T] float64: G_s · G_t over all that the fork shares. Undefined while micro-batches accumulate.
  at::Tensor gramian;
  /// [T] float64: the weights that were applied. Undefined where a method has none (GradDrop), or where each group has its own.
  at::Tensor weights;
  /// [T] the detached losses; after micro-batches their sums.
  at::Tensor losses;
  /// [T] bool: tasks with a label in the batch, or in one of the micro-batches; undefined = all.
  at::Tensor active;
  /// How many backward passes the overlap of the tasks' graphs needed above the forks; 1 for disjoint graphs.
  int64_t passes = 0;
  /// For each group its Gramian and weights; one named "all" unless the fork has another scope.
  std::vector<Group> groups;
  /// 0-dim float64: ‖g‖² of the shared gradient, where it is no Σ w_t G_t of one w; undefined else.
  at::Tensor combined_square;

  /// @brief [T] ‖G_t‖.
  /// @throws c10::Error while micro-batches accumulate; so does every function below
  at::Tensor norms() const {
    check_step();
    return gramian.diagonal().clamp_min(0.0).sqrt();
  }
  /// @brief [T, T] cosines between task gradients; 0 with a zero gradient.
  at::Tensor cosines() const {
    const at::Tensor norm = norms(), product = norm.unsqueeze(1) * norm.unsqueeze(0);
    return (gramian / product.where(product > 0.0, 1.0)).where(product > 0.0, 0.0);
  }
  /// @brief 0-dim: ‖g‖ of the shared gradient, √(wᵀ K w) where it is Σ w_t G_t.
  at::Tensor combined_norm() const {
    check_step();
    return (combined_square.defined() ? combined_square : weights.dot(gramian.mv(weights))).clamp_min(0.0).sqrt();
  }
  /// @brief 0-dim: the part of the pairs of active tasks that have gradients whose cosine is negative; 0 with fewer than two.
  at::Tensor conflict_rate() const {
    const at::Tensor has = has_gradient(), pairs = (has.unsqueeze(0) * has.unsqueeze(1)).triu(1), conflicts = pairs * (gramian < 0.0).to(at::kDouble);
    return conflicts.sum() / pairs.sum().clamp_min(1.0);
  }
  /// @brief [T, T]: 2 ‖G_s‖ ‖G_t‖ / (‖G_s‖² + ‖G_t‖²), 1 for equal lengths (PCGrad, Yu et al. 2020, Definition 2); 0 with a zero gradient.
  at::Tensor magnitude_similarity() const {
    const at::Tensor norm = norms(), scale = norm.max(), unit = norm / scale.where(scale > 0.0, 1.0);
    const at::Tensor sum = unit.square().unsqueeze(0) + unit.square().unsqueeze(1), product = unit.unsqueeze(0) * unit.unsqueeze(1);
    return (2.0 * product / sum.where(product > 0.0, 1.0)).where(product > 0.0, 0.0);
  }
  /// @brief 0-dim: σ_max / σ_min of the matrix whose rows are the task gradients, √(λ_max / λ_min) of the Gramian (Aligned-MTL, Senushkin et al. 2023). 1 = the
  /// gradients are orthogonal and equally long; ∞ where they depend on each other (to within rounding of λ_max) or one is zero.
  ///
  /// Eigenvalues by Jacobi rotations in a fixed number of sweeps: no synchronisation, but O(T²) small operations; ask every so many steps on CUDA.
  at::Tensor condition_number() const;

 private:
  at::Tensor has_gradient() const {
    check_step();
    const at::Tensor has = (gramian.diagonal() > 0.0).to(at::kDouble);
    return active.defined() ? has * active.to(has.options()) : has;
  }
  void check_step() const {
    HTL_CHECK_STATE(gramian.defined(), "htl::GradientReport: there is no Gramian yet; micro-batches accumulate until a backward without options.accumulate");
  }
};

inline at::Tensor GradientReport::condition_number() const {
  check_step();
  const int64_t count = gramian.size(0);
  const at::Tensor largest = gramian.diagonal().max();
  at::Tensor k = gramian / largest.where(largest > 0.0, 1.0);
  for (int sweep = 0; sweep < 10; ++sweep)
    for (int64_t p = 0; p < count; ++p)
      for (int64_t q = p + 1; q < count; ++q) {
        const at::Tensor off = k[p][q], half = (k[q][q] - k[p][p]) / (2.0 * off.where(off != 0.0, 1.0));
        const at::Tensor sign = at::ones_like(half).where(half >= 0.0, -1.0);
        const at::Tensor tangent = (sign / (half.abs() + (half.square() + 1.0).sqrt())).where(off != 0.0, 0.0);
        const at::Tensor cosine = 1.0 / (tangent.square() + 1.0).sqrt(), sine = tangent * cosine;
        const at::Tensor rows = k.clone();
        rows[p].copy_(cosine * k[p] - sine * k[q]);
        rows[q].copy_(sine * k[p] + cosine * k[q]);
        k = rows.clone();
        k.select(1, p).copy_(cosine * rows.select(1, p) - sine * rows.select(1, q));
        k.select(1, q).copy_(sine * rows.select(1, p) + cosine * rows.select(1, q));
      }
  const at::Tensor values = k.diagonal(), top = values.max(), bottom = values.min();
  const at::Tensor vanishes = bottom <= top * (static_cast<double>(count) * 2.220446049250313e-16);
  return (top / bottom.where(vanishes.logical_not(), 1.0)).clamp_min(0.0).sqrt().masked_fill(vanishes, std::numeric_limits<double>::infinity());
}

}  // namespace htl
