// SPDX-License-Identifier: Apache-2.0
/// @file active_gramian.hpp
/// @brief The Gramian of the active tasks in host memory, and weights made from it by plain loops: how methods with a solver work.
#pragma once

#include <htl/weighting/weighting.hpp>

#include <ATen/ops/zeros.h>

#include <cmath>
#include <span>

namespace htl::inline v0_1_0 {

/// @brief A small square matrix in host memory, row by row. A view: it owns nothing.
struct SquareMatrix {
  const double* data;  ///< n · n numbers
  int64_t n;           ///< rows and columns
  /// @brief The number in row i and column j.
  double operator()(int64_t i, int64_t j) const { return data[i * n + j]; }
  /// @brief Σ_i of the diagonal.
  double trace() const {
    double sum = 0.0;
    for (int64_t i = 0; i < n; ++i) sum += data[i * n + i];
    return sum;
  }
};

namespace detail {

/// What of a TaskGramian concerns the active tasks, in host memory. On CUDA making it waits for the device.
/// @throws c10::ValueError where one of these numbers is not finite
class ActiveGramian {
 public:
  explicit ActiveGramian(const TaskGramian& gramian);
  /// The active tasks' Gramian.
  SquareMatrix matrix() const { return {matrix_.data(), count()}; }
  /// The active tasks' cross Gramian; the Gramian where there is none.
  SquareMatrix cross() const { return cross_.empty() ? matrix() : SquareMatrix{cross_.data(), count()}; }
  int64_t count() const { return static_cast<int64_t>(tasks.size()); }
  /// Weights of all T tasks from those of the active ones; the others get 0.
  at::Tensor scattered(std::span<const double> weights, const at::Tensor& like) const;

  std::vector<int64_t> tasks;  ///< positions of the active tasks

 private:
  int64_t total_;
  std::vector<double> matrix_, cross_;
};

inline ActiveGramian::ActiveGramian(const TaskGramian& gramian) : total_(gramian.tasks()) {
  const at::Tensor active = gramian.active.defined() ? gramian.active.to(at::kCPU).contiguous() : at::Tensor();
  for (int64_t t = 0; t < total_; ++t)
    if (!active.defined() || active.const_data_ptr<bool>()[t]) tasks.push_back(t);
  const auto gather = [&](const at::Tensor& from, std::vector<double>& to) {
    const at::Tensor host = from.to(at::kCPU, at::kDouble).contiguous();
    const double* const values = host.const_data_ptr<double>();
    to.reserve(tasks.size() * tasks.size());
    for (const int64_t s : tasks)
      for (const int64_t t : tasks) {
        const double product = values[s * total_ + t];
        HTL_CHECK(std::isfinite(product), "htl: expected a finite Gramian, got ", product, " for tasks ", s, " and ", t,
                  "; lower the learning rate, clip, or look for NaN in the batch");  // the solvers sort
        to.push_back(product);
      }
  };
  gather(gramian.matrix, matrix_);
  if (gramian.cross.defined()) gather(gramian.cross, cross_);
}

inline at::Tensor ActiveGramian::scattered(std::span<const double> weights, const at::Tensor& like) const {
  at::Tensor result = at::zeros({total_}, at::kDouble);
  auto* const values = result.mutable_data_ptr<double>();
  for (size_t i = 0; i < tasks.size(); ++i) values[tasks[i]] = weights[i];
  return result.to(like.device());
}

/// Weights of the active tasks by `solve(SquareMatrix k, std::span<double> w)`, which finds w filled with zeros; the others get 0.
/// On CUDA it waits for the Gramian, solves on the host and copies the weights back.
template <class Solve>
at::Tensor weights_of_active(const TaskGramian& gramian, Solve&& solve) {
  const ActiveGramian active(gramian);
  std::vector<double> weights(active.tasks.size(), 0.0);
  if (!weights.empty()) solve(active.matrix(), std::span<double>(weights));
  return active.scattered(weights, gramian.matrix);
}

}  // namespace detail
}  // namespace htl
