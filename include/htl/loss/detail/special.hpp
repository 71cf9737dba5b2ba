// SPDX-License-Identifier: Apache-2.0
/// @file special.hpp
/// @brief Functions that losses share, each for one fp64 number and for tensors: softplus, σ, the bounded exponential, the normal distribution.
/// Not in the umbrella: it belongs to the headers that include it.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/erfc.h>
#include <ATen/ops/exp.h>
#include <ATen/ops/log_sigmoid.h>

#include <algorithm>
#include <cmath>

namespace htl::inline v0_1_0::detail {

/// Where bounded_exp() goes on as a straight line: e^80 = 5.5e34 and its products with small numbers still fit float32.
inline constexpr double kExpBound = 80.0;

/// ½ log 2π
inline constexpr double kHalfLogTwoPi = 0.918938533204672741780329736406;

/// σ and softplus of z and of −z from one exponential, each with full relative precision in both tails.
struct Logistic {
  double up, down;     ///< σ(z), σ(−z)
  double over, under;  ///< softplus(z) = −log σ(−z), softplus(−z) = −log σ(z)
};
inline Logistic logistic(double z) {
  const double tail = std::exp(-std::abs(z)), whole = 1.0 + tail;
  const double rest = 1.0 / whole, of_tail = tail * rest;
  const double log_whole = std::log(whole) + (tail - (whole - 1.0)) * rest;  // log(1 + tail) with what rounding took from 1 + tail
  return z < 0.0 ? Logistic{of_tail, rest, log_whole, log_whole - z} : Logistic{rest, of_tail, log_whole + z, log_whole};
}

/// log(1 + e^x) for any x, with full relative precision for x → −∞.
inline at::Tensor softplus(const at::Tensor& x) { return at::log_sigmoid(x.neg()).neg(); }
inline double softplus(double x) { return logistic(x).over; }

/// e^x for x ≤ 80, and from there on the tangent at 80: e^80·(x − 79).
inline at::Tensor bounded_exp(const at::Tensor& x) { return at::exp(x.clamp_max(kExpBound)).mul(x.sub(kExpBound).relu().add(1.0)); }
inline double bounded_exp(double x) { return x > kExpBound ? std::exp(kExpBound) * (x - kExpBound + 1.0) : std::exp(x); }
/// The same for predictions of outputs whose square, or whose product with a quantile, is the exponent: held where float32 still holds it, with slope 0 beyond.
inline at::Tensor held_exp(const at::Tensor& x) { return bounded_exp(x.clamp_max(6000.0)); }
/// The derivative of bounded_exp().
inline double bounded_exp_slope(double x) { return std::exp(x > kExpBound ? kExpBound : x); }

}  // namespace htl
