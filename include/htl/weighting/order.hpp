// SPDX-License-Identifier: Apache-2.0
/// @file order.hpp
/// @brief Order and Reduction: in which order a task meets the others, and what becomes of the adjusted gradients.
#pragma once

#include <htl/task/check.hpp>
#include <htl/weighting/active_gramian.hpp>

#include <ATen/ops/rand.h>

#include <algorithm>
#include <numeric>

namespace htl::inline v0_1_0 {

/// @brief The order in which each task visits the other tasks (PCGrad, GradVac).
enum class Order {
  ascending,   ///< by position
  descending,  ///< against position
  random,      ///< a fresh permutation for each task and step, from TaskGramian::generator: the published way
  given        ///< the method's field `given`: one permutation of all tasks, for each task without itself
};

/// @brief What becomes of the adjusted gradients of the tasks.
enum class Reduction {
  sum,  ///< their sum
  mean  ///< their sum over the number of active tasks
};

namespace detail {

/// @throws c10::ValueError unless `given` is a permutation of T tasks where the order is `given`, and empty else
inline void check_order(const char* who, Order order, const std::vector<int64_t>& given, int64_t tasks) {
  if (order != Order::given) {
    HTL_CHECK(given.empty(), who, ": got a permutation in given, but another order; set .order = htl::Order::given, or leave given out");
    return;
  }
  std::vector<int64_t> sorted = given;
  std::sort(sorted.begin(), sorted.end());
  bool fits = static_cast<int64_t>(sorted.size()) == tasks;
  for (size_t i = 0; fits && i < sorted.size(); ++i) fits = sorted[i] == static_cast<int64_t>(i);
  HTL_CHECK(fits, who, ": expected given to be a permutation of 0 … ", tasks - 1, ", got ", at::IntArrayRef(given));
}

/// Which of n active tasks each task visits: n rows of n positions among the active tasks, each row with the task itself, which the caller skips.
inline std::vector<int64_t> visits(Order order, const std::vector<int64_t>& given, const std::vector<int64_t>& active,
                                   const std::optional<at::Generator>& generator) {
  const auto n = static_cast<int64_t>(active.size());
  std::vector<int64_t> result(static_cast<size_t>(n * n));
  const auto row = [&](int64_t i) { return result.begin() + i * n; };
  for (int64_t i = 0; i < n; ++i) std::iota(row(i), row(i + 1), int64_t{0});
  if (order == Order::descending) {
    for (int64_t i = 0; i < n; ++i) std::reverse(row(i), row(i + 1));
  } else if (order == Order::given) {
    std::vector<int64_t> one;
    for (const int64_t task : given) {
      const auto at = std::find(active.begin(), active.end(), task);
      if (at != active.end()) one.push_back(at - active.begin());
    }
    for (int64_t i = 0; i < n; ++i) std::copy(one.begin(), one.end(), row(i));
  } else if (order == Order::random && n > 2) {  // two tasks have one order
    const at::Device device = generator ? generator->device() : at::Device(at::kCPU);
    const at::Tensor keys = at::rand({n, n}, generator, at::TensorOptions().dtype(at::kDouble).device(device)).to(at::kCPU);
    for (int64_t i = 0; i < n; ++i) {
      const double* const key = keys.const_data_ptr<double>() + i * n;
      std::sort(row(i), row(i + 1), [key](int64_t a, int64_t b) { return key[a] < key[b] || (key[a] == key[b] && a < b); });
    }
  }
  return result;
}

}  // namespace detail
}  // namespace htl
