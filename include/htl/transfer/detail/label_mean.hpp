// SPDX-License-Identifier: Apache-2.0
/// @file label_mean.hpp
/// @brief The mean of Gumbel-Softmax weights of more than two classes, by quadrature.
#pragma once

#include <htl/task/tensor_operators.hpp>

#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/minimum.h>
#include <ATen/ops/stack.h>

#include <algorithm>
#include <vector>

namespace htl::inline v0_1_0::detail {

/// @brief L = log F and log L' of the noise s = g + b g' on a grid, F its distribution function, g and g' Gumbel; for mean_weights_of_classes().
struct GumbelSumTable {
  static constexpr double low = -8.0, high = 40.0, step = 1.0 / 16;
  at::Tensor log_distribution, log_slope;  ///< [(high − low)/step + 1] fp64

  /// @brief F(y) = ∫ φ(v) exp(−e^(b v − y)) dv with the Gumbel density φ, by the trapezoidal rule.
  /// @param spread b as a 0-dim fp64 tensor
  explicit GumbelSumTable(const at::Tensor& spread) {
    const at::Tensor y = at::arange(low, high + step, step, spread.options()).unsqueeze(1), v = at::arange(-4.0, 36.0, 0.5, spread.options());
    const at::Tensor argument = spread * v - y, log_weight = -v - (-v).exp();
    const at::Tensor log_terms = log_weight - argument.exp(), log_total = log_terms.logsumexp(1);
    log_slope = (log_terms + argument).logsumexp(1) - log_total;
    log_distribution = log_total - log_weight.logsumexp(0);  // the weights' own sum is ∫ φ: L → 0
  }
};

/// @brief E[softmax((z + g)/τ)] [B, K] for Gumbel noise g, logits [B, K]; to about 1e-7, differentiable by autograd, no synchronisation.
///
/// softmax_k((z + g)/τ) is the probability that k wins when a second Gumbel noise g' is added to (z + g)/τ; so its mean is the probability that k wins with
/// the noise s = g + τ g', whose scale is taken out: a = z / max(τ, 1), s = g + b g', b = min(τ, 1/τ). With F the distribution of s and L = log F,
/// p_k = ∫ L'(x − a_k) exp(Σ_j L(x − a_j)) dx: one trapezoidal sum per row, L and L' interpolated from a table made for this b. For evaluation: in fp64,
/// and about 60 operations for each of K·80 nodes a row, on blocks of rows.
inline at::Tensor mean_weights_of_classes(const at::Tensor& logits, const at::Tensor& temperature) {
  const int64_t block = std::max<int64_t>(1, (int64_t{1} << 16) / std::max<int64_t>(logits.size(1), 1));  // about 40 MB for each operation on all nodes
  if (logits.size(0) > block) {
    std::vector<at::Tensor> blocks;
    for (const at::Tensor& rows : logits.split(block)) blocks.push_back(mean_weights_of_classes(rows, temperature));
    return at::cat(blocks);
  }
  const at::Tensor tau = temperature.to(at::kDouble);
  const at::Tensor places = logits.to(at::kDouble) * tau.clamp_min(1.0).reciprocal();
  const GumbelSumTable table(at::minimum(tau, tau.reciprocal()));
  constexpr double low = GumbelSumTable::low, step = GumbelSumTable::step;

  const at::Tensor nodes = at::arange(-8.0, 32.0, 0.5, places.options());
  const at::Tensor top = places.detach().amax(1, /*keepdim=*/true);
  const at::Tensor x = ((top - places).unsqueeze(2) + nodes).clamp(low + step, GumbelSumTable::high - 3 * step);  // [B, K, nodes]
  const at::Tensor position = (x - low) / step, cell = position.detach().floor(), u = position - cell;
  const at::Tensor index = cell.to(at::kLong).flatten();
  const auto at_node = [&](const at::Tensor& values, int64_t offset) { return values.index_select(0, index + offset).view_as(u); };
  const auto interpolate = [&](const at::Tensor& values) {  // the cubic through four neighbours
    const at::Tensor a = at_node(values, -1), b = at_node(values, 0), c = at_node(values, 1), d = at_node(values, 2);
    return b + u * ((c - a * (1.0 / 3) - b * 0.5 - d * (1.0 / 6)) + u * ((a + c) * 0.5 - b + u * ((b - c) * 0.5 + (d - a) * (1.0 / 6))));
  };
  const at::Tensor weights = (interpolate(table.log_slope) + interpolate(table.log_distribution).sum(1, /*keepdim=*/true)).exp().sum(2);
  return (weights / weights.sum(1, /*keepdim=*/true)).to(logits.scalar_type());
}

}  // namespace htl::detail
