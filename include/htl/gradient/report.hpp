// SPDX-License-Identifier: Apache-2.0
/// @file report.hpp
/// @brief GradientReport: what a backward through a fork found — norms, cosines, weights — as tensors, without a synchronisation.
#pragma once

#include <htl/task/named.hpp>
#include <htl/task/tensor_operators.hpp>
#include <htl/weighting/solvers/symmetric_eigen.hpp>

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/tril_indices.h>

#include <algorithm>
#include <limits>
#include <string>
#include <utility>
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
  /// 0-dim int64: how often since it began the method took its fallback, as its problem had no solution, over all groups: the field `fallbacks` of its State.
  /// Undefined for a method without one.
  at::Tensor fallbacks;

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
  /// @brief 0-dim float64: σ_max / σ_min of the matrix whose rows are the active tasks' gradients, √(λ_max / λ_min) of their Gramian (Aligned-MTL, Senushkin et
  /// al. 2023). 1 = the gradients are orthogonal and equally long, or there is only one; ∞ where they depend on each other (to within rounding of λ_max) or one
  /// is zero.
  ///
  /// On the CPU by SymmetricEigen, µs. On CUDA by Jacobi rotations in a fixed number of sweeps: no synchronisation, but O(T²) small operations; ask every so
  /// many steps.
  template <class = void>
  at::Tensor condition_number() const;

  /// @brief Everything as named numbers, for any logger: `events.add(step, report.scalars())`.
  ///
  /// `losses/TASK`, `norms/TASK`, `weights/TASK` (by scope `weights/GROUP/TASK`; none where the method has none), of each pair `cosines/TASK,TASK` and
  /// `magnitude_similarity/TASK,TASK`, then `combined_norm`, `conflict_rate`, `condition_number`, and `fallbacks` of a method that counts them.
  /// **Synchronisation**: on CUDA one, for one copy. **Cost**: condition_number()'s and some 50 small operators: for logged steps.
  template <class = void>
  Named<double> scalars() const;
  /// @brief The same unread: names, and their numbers [N] float64 on the device, to be copied when the logger is ready.
  template <class = void>
  std::pair<std::vector<std::string>, at::Tensor> unread_scalars() const;

 private:
  /// Shows `visit(names, values)` in turn, as many names as numbers.
  template <class Visit>
  void visit_scalars(Visit&& visit) const;
  at::Tensor has_gradient() const {
    check_step();
    const at::Tensor has = (gramian.diagonal() > 0.0).to(at::kDouble);
    return active.defined() ? has * active.to(has.options()) : has;
  }
  void check_step() const {
    HTL_CHECK_STATE(gramian.defined(), "htl::GradientReport: there is no Gramian yet; micro-batches accumulate until a backward without options.accumulate");
  }
};

template <class Visit>
void GradientReport::visit_scalars(Visit&& visit) const {
  check_step();
  HTL_CHECK_STATE(static_cast<int64_t>(tasks.size()) == gramian.size(0), "htl::GradientReport: expected names of ", gramian.size(0), " tasks, got ",
                  tasks.size(), "; ask the report that htl::backward() returned");
  std::vector<std::string> pairs;
  for (size_t t = 0; t < tasks.size(); ++t)
    for (size_t s = 0; s < t; ++s) pairs.push_back(c10::str(tasks[s], ",", tasks[t]));
  const auto named = [](const std::string& group, const std::vector<std::string>& names) {
    std::vector<std::string> result;
    for (const std::string& name : names) result.push_back(c10::str(group, "/", name));
    return result;
  };
  const int64_t count = gramian.size(0);
  const at::Tensor below = at::tril_indices(count, count, -1, gramian.options().dtype(at::kLong)), place = below[0] * count + below[1];
  if (losses.defined()) visit(named("losses", tasks), losses);
  visit(named("norms", tasks), norms());
  for (const Group& group : groups)
    if (group.weights.defined()) visit(named(groups.size() > 1 ? "weights/" + group.name : "weights", tasks), group.weights);
  visit(named("cosines", pairs), cosines().take(place));
  visit(named("magnitude_similarity", pairs), magnitude_similarity().take(place));
  if (combined_square.defined() || weights.defined()) visit({"combined_norm"}, combined_norm());
  visit({"conflict_rate"}, conflict_rate());
  visit({"condition_number"}, condition_number());
  if (fallbacks.defined()) visit({"fallbacks"}, fallbacks);
}

template <class>
std::pair<std::vector<std::string>, at::Tensor> GradientReport::unread_scalars() const {
  std::vector<std::string> all_names;
  std::vector<at::Tensor> all_values;
  visit_scalars([&](const std::vector<std::string>& names, const at::Tensor& values) {
    all_names.insert(all_names.end(), names.begin(), names.end());
    all_values.push_back(values.to(gramian.options()).reshape({-1}));
  });
  return {std::move(all_names), at::cat(all_values)};
}

template <class>
Named<double> GradientReport::scalars() const {
  const auto [names, values] = unread_scalars();
  const at::Tensor read = values.to(at::kCPU);
  const double* value = read.const_data_ptr<double>();
  std::vector<std::pair<std::string, double>> result;
  for (const std::string& name : names) result.emplace_back(name, *value++);
  return Named<double>(std::move(result));
}

template <class>
at::Tensor GradientReport::condition_number() const {
  check_step();
  const int64_t count = gramian.size(0);
  const at::Tensor diagonal = gramian.diagonal(), largest = diagonal.max(), scale = largest.where(largest > 0.0, 1.0);
  at::Tensor k = gramian / scale;
  if (active.defined()) {  // the others get a row of zeros but for the largest diagonal, which lies between the active tasks' eigenvalues
    const at::Tensor takes_part = active.to(k.device()), number = takes_part.to(at::kDouble);
    k = k * number.unsqueeze(0) * number.unsqueeze(1);
    const at::Tensor own = k.diagonal();
    k.diagonal().copy_(own.where(takes_part, own.max()));
  }
  at::Tensor values;
  if (k.is_cpu()) {
    const at::Tensor matrix = k.contiguous();
    const SymmetricEigen eigen({matrix.const_data_ptr<double>(), count});
    values = at::empty({count}, k.options());
    std::copy(eigen.values.begin(), eigen.values.end(), values.mutable_data_ptr<double>());
  } else {
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
    values = k.diagonal();
  }
  const at::Tensor top = values.max(), bottom = values.min();
  const at::Tensor vanishes = bottom <= top * (static_cast<double>(count) * 2.220446049250313e-16);
  return (top / bottom.where(vanishes.logical_not(), 1.0)).clamp_min(0.0).sqrt().masked_fill(vanishes, std::numeric_limits<double>::infinity());
}

}  // namespace htl
