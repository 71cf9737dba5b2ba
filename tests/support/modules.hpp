// SPDX-License-Identifier: Apache-2.0
/// @file modules.hpp
/// @brief What tests of modules share: random parameters in fp64, and who is reached by a gradient.
#pragma once

#include <ATen/ATen.h>
#include <torch/nn/module.h>

#include <support/seeded.hpp>

#include <set>
#include <string>

namespace htl::test {

/// @brief Gives a module in its holder normal parameters in fp64.
template <class Module>
void randomize(Module& module, Random& random, double sd = .5) {
  module->to(at::kDouble);
  const at::NoGradGuard no_grad;
  for (at::Tensor& parameter : module->parameters()) parameter.copy_(random.normal(parameter.sizes(), sd));
}

/// @brief Names of a net's parameters that the loss of a task reaches with a gradient other than 0.
/// @param task as the net's output takes it: a position or a name
template <class Net, class Task>
std::set<std::string> reached(Net& net, const at::Tensor& x, const Task& task) {
  net->zero_grad();
  net->forward(x)[task].square().sum().backward();
  std::set<std::string> names;
  for (const auto& item : net->named_parameters())
    if (item.value().grad().defined() && item.value().grad().any().template item<bool>()) names.insert(item.key());
  return names;
}

}  // namespace htl::test
