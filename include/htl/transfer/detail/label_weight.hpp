// SPDX-License-Identifier: Apache-2.0
/// @file label_weight.hpp
/// @brief From logits to the weights of the label rows: a Gumbel-Softmax sample, or its mean.
#pragma once

#include <htl/task/tensor_operators.hpp>

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/minimum.h>
#include <ATen/ops/rand.h>

#include <array>
#include <cmath>
#include <optional>

namespace htl::inline v0_1_0::detail {

/// @brief A number and its derivative by the logit.
struct WeightAndSlope {
  double weight;  ///< of row 0
  double slope;   ///< ∂weight/∂z
};

/// Σ_k c_k z^(2k−1) + ½ is the mean weight near z = 0: c_k = B_2k / (2k−1)!, k = 1 … 10, to rounding for |z| ≤ 1.
inline constexpr std::array<double, 10> mean_weight_series = {1.0 / 6,
                                                              -1.0 / 180,
                                                              1.0 / 5040,
                                                              -1.0 / 151200,
                                                              1.0 / 4790016,
                                                              -691.0 / 108972864000.0,
                                                              1.0 / 5337446400.0,
                                                              -3617.0 / 666913927680000.0,
                                                              43867.0 / 283838567620608000.0,
                                                              -174611.0 / 40142883134914560000.0};

/// @brief E[σ(z + l)] for logistic l: (1 − u − z u)/(1 − u)², u = e^(−z); ½ at z = 0. By symmetry computed from |z|, exact in both tails.
inline WeightAndSlope mean_weight(double logit) {
  const double z = std::abs(logit) > 700.0 ? 700.0 : std::abs(logit);  // NaN stays NaN
  if (z <= 1.0) {
    double even = 1.0, sum = 0.0, slope = 0.0;  // even = z^(2k)
    for (size_t k = 0; k < mean_weight_series.size(); ++k, even *= z * z) {
      sum += mean_weight_series[k] * even * z;
      slope += mean_weight_series[k] * even * static_cast<double>(2 * k + 1);
    }
    return {logit < 0.0 ? 0.5 - sum : 0.5 + sum, slope};
  }
  const double u = std::exp(-z), rest = -std::expm1(-z);  // 1 − u
  const double less = u * (z - rest) / (rest * rest);     // the smaller of the two weights
  const double slope = u * (z * (1.0 + u) - 2.0 * rest) / (rest * rest * rest);
  return {logit < 0.0 ? less : 1.0 - less, slope};
}

/// @brief The same on tensors of any shape and device, differentiable by autograd, for any temperature.
///
/// σ((z + l)/τ) is the probability that a second logistic variable l' stays below (z + l)/τ, so its mean is P(τ l' − l < z), symmetric in the roles of l and
/// l': the mean over l of σ((z + l)/τ) equals that of σ(z + τ l). Taking the flatter of the two, the integrand's poles are at distance ≥ π for every τ,
/// so the trapezoidal rule with step ⅜ is exact to rounding (its error is below 1e-16; with step ½ it is 5e-15 where τ = 1 and three poles meet).
/// @param logits floating point
/// @param temperature τ as a 0-dim tensor on the logits' device
inline at::Tensor mean_weight(const at::Tensor& logits, const at::Tensor& temperature) {
  const at::Tensor nodes = at::arange(-39.75, 39.8, 0.375, logits.options());  // the weights beyond them sum to 1e-17
  const at::Tensor half = (nodes * 0.5).cosh();
  const at::Tensor weights = 0.09375 / (half * half);
  const at::Tensor tau = temperature.to(logits.scalar_type());
  const at::Tensor scale = tau.clamp_min(1.0).reciprocal();
  const at::Tensor spread = at::minimum(tau, tau.reciprocal());
  return ((logits * scale).unsqueeze(-1) + nodes * spread).sigmoid().matmul(weights);
}

/// @brief Gumbel noise −log(−log u) of a shape.
inline at::Tensor gumbel_noise(const at::Tensor& like, const std::optional<at::Generator>& generator) {
  const double tiny = like.scalar_type() == at::kDouble ? 1e-300 : 1e-37;
  const at::Tensor uniform = at::rand(like.sizes(), generator, like.options()).clamp_min_(tiny);
  return uniform.log_().neg_().clamp_min_(tiny).log_().neg_();
}

}  // namespace htl::detail
