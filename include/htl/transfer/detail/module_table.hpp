// SPDX-License-Identifier: Apache-2.0
/// @file module_table.hpp
/// @brief Modules of one type under chosen names, typed, so that a clone's table holds the clone's modules.
#pragma once

#include <torch/nn/cloneable.h>

#include <optional>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

namespace htl::inline v0_1_0::detail {

/// @brief Numbered slots for children of one holder type, each made from its own options, or left empty.
///
/// LibTorch's ModuleDict holds untyped pointers, and typed ones kept beside it would point to the original's modules after clone().
template <class Holder, class Options>
class ModuleTable : public torch::nn::Cloneable<ModuleTable<Holder, Options>> {
 public:
  /// @brief A table of empty slots.
  explicit ModuleTable(size_t count) : made_(count), holders_(count, Holder(nullptr)) {}

  /// @brief Makes the child of a slot.
  Holder& make(size_t slot, std::string name, const Options& options) {
    made_[slot].emplace(std::move(name), options);
    return holders_[slot] = this->register_module(made_[slot]->first, Holder(options));
  }
  /// @brief Makes the children anew.
  void reset() override {
    for (size_t slot = 0; slot < made_.size(); ++slot)
      if (made_[slot]) make(slot, made_[slot]->first, Options(made_[slot]->second));
  }

  /// @brief A short name; the children follow below it.
  void pretty_print(std::ostream& stream) const override { stream << "htl::ModuleTable"; }
  /// @brief The child of a slot, or an empty holder.
  Holder& operator[](size_t slot) { return holders_[slot]; }

 private:
  std::vector<std::optional<std::pair<std::string, Options>>> made_;
  std::vector<Holder> holders_;
};

}  // namespace htl::detail
