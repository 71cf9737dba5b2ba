// SPDX-License-Identifier: Apache-2.0
/// @file row_tables.hpp
/// @brief RowTables: the row tables that an optimizer, the clipping or an average works on, collected from tables or modules.
#pragma once

#include <htl/embedding/row_table.hpp>

#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>

#include <concepts>
#include <initializer_list>
#include <memory>
#include <utility>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief A list of distinct row tables. Made implicitly from a RowTable, several, a RowTableOwner, or any module: then from all modules below it.
///
/// Handles to one table count once, in the order in which they were met.
/// @throws c10::ValueError when two tables that don't share their row gradient stand over one weight
class RowTables {
 public:
  /// @brief No tables.
  RowTables() = default;
  /// @brief One table.
  RowTables(const RowTable& table) { add(table); }  // NOLINT(google-explicit-constructor)
  /// @brief Several tables.
  RowTables(const std::vector<RowTable>& tables) { add_all(tables); }  // NOLINT(google-explicit-constructor)
  /// @brief Several tables, as a list in braces.
  RowTables(std::initializer_list<RowTable> tables) {
    for (const RowTable& table : tables) add(table);
  }
  /// @brief The tables of a module and of every module below it, or of an owner that is no module.
  template <class Owner>
    requires(std::derived_from<Owner, torch::nn::Module> || std::derived_from<Owner, RowTableOwner>)
  RowTables(const Owner& owner) {  // NOLINT(google-explicit-constructor)
    if (const auto* tables = dynamic_cast<const RowTableOwner*>(&owner)) add_all(tables->row_tables());
    if constexpr (std::derived_from<Owner, torch::nn::Module>) {
      for (const auto& module : static_cast<const torch::nn::Module&>(owner).modules(/*include_self=*/false)) {
        if (const auto* tables = dynamic_cast<const RowTableOwner*>(module.get())) add_all(tables->row_tables());
      }
    }
  }
  /// @brief The tables of a module in its holder.
  template <class Impl>
  RowTables(const torch::nn::ModuleHolder<Impl>& holder)  // NOLINT(google-explicit-constructor)
      : RowTables(pointee(holder.is_empty() ? nullptr : holder.ptr())) {}
  /// @brief The tables of a module by pointer.
  template <std::derived_from<torch::nn::Module> Impl>
  RowTables(const std::shared_ptr<Impl>& module) : RowTables(pointee(module)) {}  // NOLINT(google-explicit-constructor)

  /// @brief How many tables.
  size_t size() const { return tables_.size(); }
  /// @brief Whether there is none.
  bool empty() const { return tables_.empty(); }
  /// @brief The table at a position.
  const RowTable& operator[](size_t index) const { return tables_[index]; }
  /// @brief The weights, for an optimizer that takes parameters.
  std::vector<at::Tensor> weights() const {
    std::vector<at::Tensor> result;
    for (const RowTable& table : tables_) result.push_back(table.weight());
    return result;
  }
  /// @brief Iteration over the tables.
  auto begin() const { return tables_.begin(); }
  /// @brief Iteration over the tables.
  auto end() const { return tables_.end(); }

 private:
  template <class Impl>
  static const Impl& pointee(const std::shared_ptr<Impl>& module) {
    HTL_CHECK(module != nullptr, "htl::RowTables: expected a module, got an empty holder; construct the module first");
    return *module;
  }
  void add_all(const std::vector<RowTable>& tables) {
    for (const RowTable& table : tables) add(table);
  }
  void add(const RowTable& table) {
    HTL_CHECK(table.defined(), "htl::RowTables: expected a table, got a RowTable without one; construct it over a weight");
    for (const RowTable& known : tables_) {
      if (known.is_same(table)) return;
      HTL_CHECK(!known.weight().is_same(table.weight()), "htl::RowTables: \"", known.name(), "\" and \"", table.name(),
                "\" are two tables over one weight, each with its own row gradient; copy one RowTable so that both lookups share it");
    }
    tables_.push_back(table);
  }

  std::vector<RowTable> tables_;
};

}  // namespace htl
