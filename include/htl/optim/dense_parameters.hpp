// SPDX-License-Identifier: Apache-2.0
/// @file dense_parameters.hpp
/// @brief dense_parameters: what a dense optimizer trains, that is, every parameter that isn't a row table.
#pragma once

#include <htl/embedding/row_tables.hpp>

#include <algorithm>
#include <memory>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief All parameters of a module and of the modules below it, in the order of `parameters()`, without the weights of their row tables.
///
/// A parameter that is registered twice (tied weights) appears once. Frozen parameters are included: optimizers skip what has no gradient.
/// Tables are found through RowTableOwner; for a table over a tensor that the module registered itself, name it in `other_tables`.
/// @param module the module
/// @param other_tables tables whose owners aren't below the module
inline std::vector<at::Tensor> dense_parameters(const torch::nn::Module& module, const RowTables& other_tables = {}) {
  const RowTables tables(module);
  std::vector<at::Tensor> dense;
  const auto is = [](const at::Tensor& a) { return [&a](const at::Tensor& b) { return a.is_same(b); }; };
  const auto is_weight_of = [](const at::Tensor& parameter) { return [&parameter](const RowTable& table) { return table.weight().is_same(parameter); }; };
  for (const at::Tensor& parameter : module.parameters()) {
    if (std::any_of(tables.begin(), tables.end(), is_weight_of(parameter))) continue;
    if (std::any_of(other_tables.begin(), other_tables.end(), is_weight_of(parameter))) continue;
    if (std::any_of(dense.begin(), dense.end(), is(parameter))) continue;
    dense.push_back(parameter);
  }
  return dense;
}

/// @brief The same for a module in its holder.
template <class Impl>
std::vector<at::Tensor> dense_parameters(const torch::nn::ModuleHolder<Impl>& holder, const RowTables& other_tables = {}) {
  HTL_CHECK(!holder.is_empty(), "htl::dense_parameters: expected a module, got an empty holder; construct the module first");
  return dense_parameters(static_cast<const torch::nn::Module&>(*holder), other_tables);
}

}  // namespace htl
