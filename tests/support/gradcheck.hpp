// SPDX-License-Identifier: Apache-2.0
/// @file gradcheck.hpp
/// @brief gradcheck, gradcheck_module: derivatives by autograd against central differences in fp64.
#pragma once

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/nn/module.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace htl::test {

/// @brief A function of several tensors, as gradcheck differentiates it.
using TensorFunction = std::function<at::Tensor(const std::vector<at::Tensor>&)>;

/// @brief How gradcheck() compares.
struct GradcheckOptions {
  double step = 1e-5;      ///< h of (f(x + h) − f(x − h)) / 2h, times max(1, |x|)
  double absolute = 1e-7;  ///< accepted |difference| …
  double relative = 1e-6;  ///< … plus this times the larger of the two
  int64_t cotangents = 0;  ///< 0: the full Jacobian, output by output; n: n random directions vᵀJ instead, for large outputs
  uint64_t seed = 1;       ///< of the random directions
};

/// @brief ∂f/∂leaf by central differences: [numel of f, numel of the leaf] in fp64.
/// @param function reads the leaf; evaluated twice for each of its elements, without gradient recording
/// @param leaf contiguous, fp64; moved in place and restored
/// @param step h, times max(1, |x|)
inline at::Tensor numeric_jacobian(const std::function<at::Tensor()>& function, const at::Tensor& leaf, double step = 1e-5) {
  const at::NoGradGuard no_grad;
  at::Tensor flat = leaf.detach().view({-1});
  std::vector<at::Tensor> columns;
  for (int64_t i = 0; i < flat.numel(); ++i) {
    const double x = flat[i].item<double>();
    const double above = x + step * std::max(1.0, std::abs(x)), below = x - step * std::max(1.0, std::abs(x));
    flat[i].fill_(above);
    const at::Tensor high = function().detach().to(at::kDouble).flatten().clone();
    flat[i].fill_(below);
    const at::Tensor low = function().detach().to(at::kDouble).flatten().clone();
    flat[i].fill_(x);
    columns.push_back((high - low) / (above - below));
  }
  return columns.empty() ? at::zeros({function().numel(), 0}, at::kDouble) : at::stack(columns, 1);
}

/// @brief ∂f/∂input by central differences: [numel of f, numel of that input] in fp64. The function must not remember its calls.
/// @param function evaluated twice for each element of the input, without gradient recording
/// @param inputs where; only `which` is moved
/// @param which the input to differentiate by
/// @param step h, times max(1, |x|)
inline at::Tensor numeric_jacobian(const TensorFunction& function, const std::vector<at::Tensor>& inputs, size_t which, double step = 1e-5) {
  std::vector<at::Tensor> moved = inputs;
  moved[which] = inputs[which].detach().to(at::kDouble).clone(at::MemoryFormat::Contiguous);
  return numeric_jacobian([&] { return function(moved); }, moved[which], step);
}

/// @brief A tensor that gradcheck differentiates by, and what a failure calls it.
struct NamedLeaf {
  std::string name;   ///< "input 2", or a parameter's name
  at::Tensor tensor;  ///< contiguous, fp64, requires a gradient; moved in place and restored
};

/// @brief The comparison behind gradcheck() and gradcheck_module().
/// @param function reads the leaves
/// @param leaves what to differentiate by
/// @param options steps and tolerances
inline ::testing::AssertionResult compare_derivatives(const std::function<at::Tensor()>& function, const std::vector<NamedLeaf>& leaves,
                                                      const GradcheckOptions& options) {
  std::vector<at::Tensor> tensors;
  for (const NamedLeaf& leaf : leaves) tensors.push_back(leaf.tensor);
  const at::Tensor output = function();
  if (!output.defined() || !output.requires_grad()) return ::testing::AssertionFailure() << "the function's result has no gradient";
  if (!at::equal(output.detach(), function().detach()))
    return ::testing::AssertionFailure() << "two calls of the function differ; it must seed its noise and remember nothing";

  const int64_t outputs = output.numel();
  at::Tensor cotangents = at::eye(outputs, at::kDouble);
  if (options.cotangents > 0) {
    auto generator = at::detail::createCPUGenerator(options.seed);
    cotangents = at::randn({options.cotangents, outputs}, generator, at::kDouble);
  }
  std::vector<std::vector<at::Tensor>> rows(leaves.size());
  for (int64_t i = 0; i < cotangents.size(0); ++i) {
    const at::Tensor cotangent = cotangents[i].view(output.sizes()).to(output.scalar_type());
    const auto gradients = torch::autograd::grad({output}, tensors, {cotangent}, /*retain_graph=*/true, /*create_graph=*/false, /*allow_unused=*/true);
    for (size_t k = 0; k < leaves.size(); ++k)
      rows[k].push_back((gradients[k].defined() ? gradients[k].to(at::kDouble) : at::zeros_like(tensors[k])).flatten());
  }

  for (size_t k = 0; k < leaves.size(); ++k) {
    const at::Tensor numeric = cotangents.mm(numeric_jacobian(function, tensors[k], options.step));
    const at::Tensor automatic = rows[k].empty() ? at::zeros_like(numeric) : at::stack(rows[k]);
    const at::Tensor allowed = options.absolute + options.relative * at::maximum(numeric.abs(), automatic.abs());
    const at::Tensor excess = ((numeric - automatic).abs() - allowed).nan_to_num(1e300, 1e300, 1e300);
    if (excess.numel() == 0 || (excess <= 0).all().item<bool>()) continue;
    const int64_t at_flat = excess.argmax().item<int64_t>(), columns = numeric.size(1);
    const int64_t row = at_flat / columns, column = at_flat % columns;
    return ::testing::AssertionFailure() << "derivative of " << (options.cotangents > 0 ? "direction " : "output ") << row << " by element " << column << " of "
                                         << leaves[k].name << " (shape " << tensors[k].sizes() << ", value "
                                         << tensors[k].detach().flatten()[column].item<double>() << "): autograd gives "
                                         << automatic[row][column].item<double>() << ", central differences " << numeric[row][column].item<double>() << "; "
                                         << (excess > 0).sum().item<int64_t>() << " of " << excess.numel() << " entries differ";
  }
  return ::testing::AssertionSuccess();
}

/// @brief Compares autograd's Jacobian of a function with central differences, for every floating-point input.
///
///     EXPECT_TRUE(htl::test::gradcheck([&](const auto& x) { return loss(x[0], x[1]); }, {logits, targets}));
///
/// Inputs are copied to fp64; others than floating point are passed on as they are. An input that autograd does not reach counts as gradient 0.
/// Keep the points away from kinks (ReLU at 0, |x| at 0). A function with noise must seed itself in each call.
/// @param function from the inputs to one tensor of any shape
/// @param inputs where to compare
/// @param options steps and tolerances
inline ::testing::AssertionResult gradcheck(const TensorFunction& function, const std::vector<at::Tensor>& inputs, const GradcheckOptions& options = {}) {
  std::vector<at::Tensor> points;
  std::vector<NamedLeaf> leaves;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const bool varies = inputs[i].defined() && inputs[i].is_floating_point();
    points.push_back(varies ? inputs[i].detach().to(at::kDouble).clone(at::MemoryFormat::Contiguous).requires_grad_() : inputs[i]);
    if (varies) leaves.push_back({"input " + std::to_string(i), points.back()});
  }
  return compare_derivatives([&] { return function(points); }, leaves, options);
}

/// @brief gradcheck() of a function that runs a module, by the inputs and by every parameter of the module.
///
///     EXPECT_TRUE(htl::test::gradcheck_module([&](const auto& x) { return layer->forward(x); }, *layer, {x}));
/// @param function from the inputs to one tensor; runs the module
/// @param module in fp64; its parameters are moved in place and restored
/// @param inputs where to compare
/// @param options steps and tolerances
inline ::testing::AssertionResult gradcheck_module(const TensorFunction& function, const torch::nn::Module& module, const std::vector<at::Tensor>& inputs,
                                                   const GradcheckOptions& options = {}) {
  std::vector<at::Tensor> points;
  std::vector<NamedLeaf> leaves;
  for (const at::Tensor& input : inputs) {
    points.push_back(input.detach().to(at::kDouble).clone(at::MemoryFormat::Contiguous).requires_grad_());
    leaves.push_back({"input " + std::to_string(leaves.size()), points.back()});
  }
  for (const auto& item : module.named_parameters()) leaves.push_back({"parameter " + item.key(), item.value()});
  return compare_derivatives([&] { return function(points); }, leaves, options);
}

}  // namespace htl::test
