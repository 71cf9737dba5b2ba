// SPDX-License-Identifier: Apache-2.0
/// @file shared.hpp
/// @brief Shared: the parameters and tables that tasks share, named, so that their gradients are exact.
#pragma once

#include <htl/embedding/row_tables.hpp>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief What tasks share: parameters of modules, tensors, tables. Made by shared().
///
/// Tables of modules below a module (RowTableOwner) are taken as tables; frozen parameters are left out; what is named twice counts once.
class Shared {
 public:
  /// @brief One dense parameter.
  struct Parameter {
    std::string name;  ///< "0.weight": the thing's place in shared(), and the parameter's name in it
    size_t thing;      ///< the thing's place in shared()
    at::Tensor value;  ///< the leaf
  };

  /// @brief Adds a module's parameters and tables.
  Shared& add(const torch::nn::Module& module) {
    const RowTables own(module);
    add_tables(own);
    for (const auto& entry : module.named_parameters()) {
      const at::Tensor& value = entry.value();
      if (std::any_of(own.begin(), own.end(), [&](const RowTable& table) { return table.weight().is_same(value); })) continue;
      add_parameter(std::to_string(things_) + "." + entry.key(), value);
    }
    ++things_;
    return *this;
  }
  /// @brief Adds a module in its holder.
  /// @throws c10::ValueError for an empty holder
  template <class Impl>
  Shared& add(const torch::nn::ModuleHolder<Impl>& holder) {
    HTL_CHECK(!holder.is_empty(), "htl::shared: expected a module, got an empty holder; construct the module first");
    return add(static_cast<const torch::nn::Module&>(*holder));
  }
  /// @brief Adds a parameter.
  /// @throws c10::ValueError for the result of an operation
  Shared& add(const at::Tensor& parameter) {
    HTL_CHECK(parameter.defined(), "htl::shared: expected a parameter, got an undefined tensor");
    HTL_CHECK(parameter.is_leaf(), "htl::shared: expected parameters, got the result of an operation, of shape ", shape_of(parameter),
              "; name what it was computed from");
    add_parameter(std::to_string(things_), parameter);
    ++things_;
    return *this;
  }
  /// @brief Adds parameters.
  Shared& add(const std::vector<at::Tensor>& parameters) {
    for (const at::Tensor& parameter : parameters) add(parameter);
    return *this;
  }
  /// @brief Adds tables: their rows, wherever the losses reach them through a lookup.
  Shared& add(const RowTables& tables) {
    add_tables(tables);
    ++things_;
    return *this;
  }

  /// @brief Says that parameters and tables below a split tensor that are not named here shall keep the plain sum of the task gradients. Without it they are
  /// refused: who forgets one would get a Gramian that lacks it.
  Shared& others_summed() {
    others_summed_ = true;
    return *this;
  }
  /// @brief Whether others_summed() was said.
  bool are_others_summed() const { return others_summed_; }
  /// @brief The parameters that require a gradient.
  const std::vector<Parameter>& parameters() const { return parameters_; }
  /// @brief The tables.
  const std::vector<RowTable>& tables() const { return tables_; }
  /// @brief How many things were named.
  size_t things() const { return things_; }

 private:
  void add_tables(const RowTables& tables) {
    for (const RowTable& table : tables) {
      const auto same = [&](const RowTable& known) { return known.is_same(table); };
      if (table.weight().requires_grad() && std::none_of(tables_.begin(), tables_.end(), same)) tables_.push_back(table);
    }
  }
  void add_parameter(std::string name, const at::Tensor& value) {
    const auto same = [&](const Parameter& known) { return known.value.is_same(value); };
    if (value.requires_grad() && std::none_of(parameters_.begin(), parameters_.end(), same)) parameters_.push_back({std::move(name), things_, value});
  }

  std::vector<Parameter> parameters_;
  std::vector<RowTable> tables_;
  size_t things_ = 0;
  bool others_summed_ = false;
};

/// @brief What the tasks share, for backward(): modules, holders, parameters, tables, in any order.
///
///     htl::backward(losses, fork, htl::shared(net->bottom, net->embedding));
///
/// @throws c10::ValueError for an empty holder, an undefined tensor or the result of an operation
template <class... Things>
Shared shared(const Things&... things) {
  Shared result;
  (result.add(things), ...);
  return result;
}

}  // namespace htl
