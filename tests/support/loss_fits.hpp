// SPDX-License-Identifier: Apache-2.0
/// @file loss_fits.hpp
/// @brief fit: the parameters at which a loss is least, with their standard errors; expect_recovers: they are the generator's.
#pragma once

#include "support/loss_cases.hpp"

#include <algorithm>
#include <functional>
#include <vector>

namespace htl::test {

/// @brief All outputs of a batch, its own first, from parameters [P].
using OutputsOf = std::function<std::vector<at::Tensor>(const at::Tensor& parameters)>;

/// @brief Parameters of least loss, and their standard errors.
struct LossFit {
  at::Tensor value;  ///< [P]
  at::Tensor error;  ///< [P] by the sandwich H⁻¹·Σ g gᵀ·H⁻¹, right also where the loss is not the labels' likelihood
};

/// @brief Minimises the mean loss in one pass, until the gradient vanishes.
/// @param one the loss and labels; rows are independent
/// @param outputs of the rows from the parameters
/// @param start [P]
inline LossFit fit(const LossCase& one, const OutputsOf& outputs, const at::Tensor& start) {
  const int64_t rows = one.label.size(0);
  const at::Tensor share = at::full({rows}, 1.0 / static_cast<double>(rows), at::kDouble), x = start.to(at::kDouble).clone().requires_grad_();
  const auto gradient = [&](const at::Tensor& at_x) {
    const at::Tensor leaf = at_x.detach().clone().requires_grad_();
    one.with(outputs(leaf)).reduced(share).backward();
    return leaf.grad();
  };
  torch::optim::LBFGS solver(
      {x}, torch::optim::LBFGSOptions(1).max_iter(400).history_size(30).tolerance_grad(1e-11).tolerance_change(0).line_search_fn("strong_wolfe"));
  solver.step([&] {
    solver.zero_grad();
    const at::Tensor value = one.with(outputs(x)).reduced(share);
    value.backward();
    return value;
  });
  const auto central = [&](const at::Tensor& at_x, const std::function<at::Tensor(const at::Tensor&)>& function) {
    std::vector<at::Tensor> by;
    for (int64_t p = 0; p < at_x.numel(); ++p) {
      const at::Tensor step = at::zeros_like(at_x);
      step[p] = 1e-4;
      by.push_back((function(at_x + step) - function(at_x - step)) / 2e-4);
    }
    return at::stack(by);
  };
  LossFit result{x.detach().clone(), {}};
  at::Tensor inverse;
  for (int step = 0; step < 2; ++step) {  // Newton's, since a line search ends where values are equal but for rounding
    inverse = at::linalg_inv(central(result.value, gradient));
    result.value = result.value - inverse.mv(gradient(result.value));
  }
  EXPECT_LT(gradient(result.value).abs().max().item<double>(), 1e-10) << one.text();
  const at::Tensor slopes = central(result.value, [&](const at::Tensor& at_x) { return one.with(outputs(at_x)).rows(); }) / static_cast<double>(rows);
  result.error = inverse.mm(slopes.mm(slopes.t())).mm(inverse.t()).diagonal().sqrt();
  return result;
}

/// @brief Each parameter within four standard errors of the truth, and these small enough to say something.
inline void expect_recovers(const LossFit& found, const std::vector<double>& truth, double largest_error, const std::string& what) {
  ASSERT_EQ(found.value.numel(), static_cast<int64_t>(truth.size())) << what;
  for (int64_t p = 0; p < found.value.numel(); ++p) {
    const double error = found.error[p].item<double>();
    EXPECT_NEAR(found.value[p].item<double>(), truth[static_cast<size_t>(p)], 4 * error) << what << ", parameter " << p;
    EXPECT_LT(error, largest_error) << what << ", parameter " << p;
  }
}

}  // namespace htl::test
