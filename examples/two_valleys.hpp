// SPDX-License-Identifier: Apache-2.0
/// @file two_valleys.hpp
/// @brief The toy problem with two valleys on which gradient methods are shown: two losses of two numbers (Liu et al., "Conflict-Averse Gradient Descent",
/// NeurIPS 2021, appendix B; also in Navon et al., ICML 2022).
#pragma once

#include <htl/weighting/any_weighting.hpp>

#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

namespace two_valleys {

using Point = std::array<double, 2>;

/// The two losses at a point, and their gradients.
struct Losses {
  std::array<double, 2> values;
  std::array<Point, 2> gradients;
};

/// L_i = f_i max(tanh(y/2), 0) + g_i max(tanh(−y/2), 0): above y = 0 two steep curved valleys f_i, each the other's mirror image, below it two wide bowls g_i
/// with minima at x = ±7, y = −8. As the authors of both papers computed it; one sign of f_2 is printed otherwise, with which the valleys are parallel.
inline Losses losses_at(const Point& point) {
  const auto [x, y] = point;
  const double half = std::tanh(0.5 * y), tanh = std::tanh(y);
  const double above = std::max(half, 0.0), below = std::max(-half, 0.0), slope = 0.5 * (1.0 - half * half);
  Losses result;
  for (size_t i = 0; i < 2; ++i) {
    const double side = i == 0 ? 1.0 : -1.0;  // of the bowl's minimum
    const double u = -0.5 * x + side * (tanh - 3.5), size = std::max(std::abs(u), 5e-6), f = std::log(size) + 6.0;
    const bool is_floor = std::abs(u) <= 5e-6;
    const double fx = is_floor ? 0.0 : -0.5 / u, fy = is_floor ? 0.0 : side * (1.0 - tanh * tanh) / u;
    const double g = ((x - 7.0 * side) * (x - 7.0 * side) + 0.1 * (y + 8.0) * (y + 8.0)) / 10.0 - 20.0;
    const double gx = (x - 7.0 * side) / 5.0, gy = (y + 8.0) / 50.0;
    result.values[i] = f * above + g * below;
    result.gradients[i] = {fx * above + gx * below, fy * above + gy * below + (y > 0.0 ? f * slope : y < 0.0 ? -g * slope : 0.5 * (f - g) * slope)};
  }
  return result;
}

/// The published starting points.
inline const std::vector<Point> starts = {{-8.5, 7.5}, {0.0, 0.0}, {9.0, 9.0}, {-7.5, -0.5}, {9.0, -1.0}};

/// The length of the shortest convex combination of the two gradients: 0 where no step helps both losses.
inline double pareto_distance(const Point& point) {
  const auto [a, b] = losses_at(point).gradients;
  const Point difference = {a[0] - b[0], a[1] - b[1]};
  const double square = difference[0] * difference[0] + difference[1] * difference[1];
  const double share = square > 0.0 ? std::clamp(-(b[0] * difference[0] + b[1] * difference[1]) / square, 0.0, 1.0) : 0.5;
  return std::hypot(b[0] + share * difference[0], b[1] + share * difference[1]);
}

/// Adam from a point along the gradient that a method makes of the two. Every `keep`-th point, the first and the last.
inline std::vector<Point> descend(const htl::AnyWeighting& method, Point point, int steps, double rate = 1e-3, int keep = 100) {
  htl::AnyWeighting::State memory = method.initial_state();
  std::vector<Point> path = {point};
  Point mean = {}, square = {};
  for (int step = 1; step <= steps; ++step) {
    const Losses now = losses_at(point);
    const at::Tensor jacobian = at::empty({2, 2}, at::kDouble);
    std::copy_n(now.gradients[0].data(), 4, jacobian.mutable_data_ptr<double>());
    htl::TaskGradients gradients = htl::task_gradients(jacobian);
    gradients.gramian.losses = at::tensor({now.values[0], now.values[1]}, at::kDouble);
    gradients.gramian.cores = {1};
    gradients.gramian.step = step - 1;
    const at::Tensor shared = htl::aggregate(method, gradients, memory).parts.front().values;
    for (size_t i = 0; i < 2; ++i) {
      const double gradient = shared.const_data_ptr<double>()[i];
      mean[i] += 0.1 * (gradient - mean[i]);
      square[i] += 0.001 * (gradient * gradient - square[i]);
      point[i] -= rate * (mean[i] / (1.0 - std::pow(0.9, step))) / (std::sqrt(square[i] / (1.0 - std::pow(0.999, step))) + 1e-8);
    }
    if (step % keep == 0 || step == steps) path.push_back(point);
  }
  return path;
}

}  // namespace two_valleys
