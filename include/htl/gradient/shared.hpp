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
/// Tables of modules below a module (RowTableOwner) are taken as tables; frozen parameters are left out; what is named twice counts once, a table's weight as
/// its table.
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
    add_tables(RowTables(module));
    for (const auto& entry : module.named_parameters()) add_parameter(std::to_string(things_) + "." + entry.key(), entry.value());
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
  /// @brief Adds a module by pointer.
  /// @throws c10::ValueError for a null pointer
  template <std::derived_from<torch::nn::Module> Impl>
  Shared& add(const std::shared_ptr<Impl>& module) {
    HTL_CHECK(module != nullptr, "htl::shared: expected a module, got a null pointer; construct the module first");
    return add(static_cast<const torch::nn::Module&>(*module));
  }
  /// @brief Adds a parameter.
  /// @throws c10::ValueError for the result of an operation
  Shared& add(const at::Tensor& parameter) {
    add_leaf(std::to_string(things_), parameter);
    ++things_;
    return *this;
  }
  /// @brief Adds parameters as one thing: `bottom->parameters()` is what the module is.
  Shared& add(const std::vector<at::Tensor>& parameters) {
    for (size_t p = 0; p < parameters.size(); ++p) add_leaf(std::to_string(things_) + "." + std::to_string(p), parameters[p]);
    ++things_;
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
  /// @brief Whether nothing that was named requires a gradient.
  bool empty() const { return parameters_.empty() && tables_.empty(); }
  /// @brief How many things were named.
  size_t things() const { return things_; }

 private:
  void add_tables(const RowTables& tables) {
    for (const RowTable& table : tables) {
      if (!table.weight().requires_grad()) continue;
      bool known = false;
      for (const RowTable& other : tables_) {
        known = known || other.is_same(table);
        HTL_CHECK(other.is_same(table) || !other.weight().is_same(table.weight()), "htl::shared: \"", other.name(), "\" and \"", table.name(),
                  "\" are two tables over one weight, each with its own row gradient; copy one RowTable so that both lookups share it");
      }
      if (known) continue;
      tables_.push_back(table);
      std::erase_if(parameters_, [&](const Parameter& parameter) { return parameter.value.is_same(table.weight()); });
    }
  }
  void add_leaf(std::string name, const at::Tensor& parameter) {
    HTL_CHECK(parameter.defined(), "htl::shared: expected a parameter, got an undefined tensor");
    HTL_CHECK(parameter.is_leaf(), "htl::shared: expected parameters, got the result of an operation, of shape ", shape_of(parameter),
              "; name what it was computed from");
    add_parameter(std::move(name), parameter);
  }
  /// A table's weight is no parameter: its gradient comes by rows.
  void add_parameter(std::string name, const at::Tensor& value) {
    const bool known = std::any_of(parameters_.begin(), parameters_.end(), [&](const Parameter& other) { return other.value.is_same(value); }) ||
                       std::any_of(tables_.begin(), tables_.end(), [&](const RowTable& table) { return table.weight().is_same(value); });
    if (value.requires_grad() && !known) parameters_.push_back({std::move(name), things_, value});
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
/// @throws c10::ValueError for an empty holder, a null pointer, an undefined tensor, the result of an operation, or two tables over one weight
template <class... Things>
Shared shared(const Things&... things) {
  Shared result;
  (result.add(things), ...);
  return result;
}

}  // namespace htl
