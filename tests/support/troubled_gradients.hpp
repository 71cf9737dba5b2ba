// SPDX-License-Identifier: Apache-2.0
/// @file troubled_gradients.hpp
/// @brief Random task gradients with all that makes their Gramian hard: too few dimensions, equal, opposed and zero rows, sizes of many orders of magnitude.
#pragma once

#include <support/seeded.hpp>

#include <cmath>
#include <vector>

namespace htl::test {

/// @brief What is wrong with random gradients; any of it may come together.
struct Trouble {
  bool few_dimensions = false;  ///< fewer than tasks, so that K is singular
  bool sizes = false;           ///< of rows, over 20 orders of magnitude
  bool copies = false;          ///< rows that are multiples of others, also negative ones
  bool near_copies = false;     ///< the same up to 1e-12 … 1
  bool zeros = false;           ///< rows of zeros
  bool balanced = false;        ///< a positive combination of all rows is 0: Pareto-stationary
  bool whole = false;           ///< whole numbers: ties everywhere
  bool aligned = false;         ///< all rows point nearly the same way: few tasks matter
  double scale = 1.0;           ///< of all: 1e-20, 1 or 1e20

  /// @brief A random mixture; one in four has none.
  static Trouble any(Random& random) {
    if (random.chance(0.25)) return {.scale = random.pick<double>({1e-20, 1.0, 1e20})};
    const auto maybe = [&] { return random.chance(0.3); };
    return {.few_dimensions = maybe(),
            .sizes = maybe(),
            .copies = maybe(),
            .near_copies = maybe(),
            .zeros = maybe(),
            .balanced = maybe(),
            .whole = maybe(),
            .aligned = maybe(),
            .scale = random.pick<double>({1e-20, 1.0, 1.0, 1e20})};
  }
  /// @brief Whether a solution of K w = 1/w is sure to exist: independent rows.
  bool independent() const { return !few_dimensions && !copies && !near_copies && !zeros && !balanced && !whole; }
};

/// @brief 1 … 64 tasks, mostly few.
inline int64_t random_task_count(Random& random) { return random.integer(1, random.pick<int64_t>({3, 4, 6, 8, 12, 16, 32, 64})); }

/// @brief Gradients [T, P] in float64.
inline at::Tensor troubled_gradients(Random& random, int64_t tasks, const Trouble& trouble) {
  const int64_t width = trouble.few_dimensions ? random.integer(1, std::max<int64_t>(1, tasks - 1)) : tasks + random.integer(2, 20);
  at::Tensor g = random.normal({tasks, width}, trouble.whole ? 1.5 : 1.0);
  if (trouble.aligned) g.select(1, 0).add_(3.0);
  if (trouble.whole) g.round_();
  for (int64_t t = 0; t < tasks; ++t) {
    if (trouble.sizes) g[t].mul_(std::pow(10.0, random.real(-10.0, 10.0)));
    if (t == 0) continue;
    const at::Tensor other = g[random.integer(0, t - 1)];
    const double sign = random.pick<double>({-1.0, 1.0});
    if (trouble.copies && random.chance(0.3)) g[t].copy_(other * (sign * random.pick<double>({1.0, 1.0, 1e-3, 0.7, 1e3})));
    if (trouble.near_copies && random.chance(0.3)) g[t].copy_(other * sign + random.normal({width}) * std::pow(10.0, random.real(-12.0, 0.0)));
  }
  if (trouble.balanced) g[tasks - 1].copy_(-(g.slice(0, 0, tasks - 1) * random.uniform({tasks - 1, 1}, 0.5, 1.0)).sum(0));
  if (trouble.zeros)
    for (int64_t t = 0; t < tasks; ++t)
      if (random.chance(0.2)) g[t].zero_();
  return g * trouble.scale;
}

/// @brief Their Gramian, exactly symmetric.
inline at::Tensor gramian_matrix(const at::Tensor& g) {
  const at::Tensor k = g.mm(g.t());
  return (k + k.t()) * 0.5;
}

/// @brief A matrix as loops read it.
inline std::vector<double> numbers(const at::Tensor& t) {
  const at::Tensor host = t.contiguous();
  return {host.const_data_ptr<double>(), host.const_data_ptr<double>() + host.numel()};
}

}  // namespace htl::test
