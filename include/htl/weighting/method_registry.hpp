// SPDX-License-Identifier: Apache-2.0
/// @file method_registry.hpp
/// @brief MethodRegistry: gradient methods by name.
/// Not in the umbrella: it belongs to methods by name, built_in_methods.hpp.
#pragma once

#include <htl/task/registry.hpp>
#include <htl/weighting/any_weighting.hpp>

namespace htl::inline v0_1_0 {

/// @brief Gradient methods by name; see Registry.
class MethodRegistry : public Registry<AnyWeighting> {
 public:
  /// @brief An empty one; built_in_methods() has the library's own.
  MethodRegistry() : Registry("htl::MethodRegistry", "weighting", "a method") {}
};

}  // namespace htl
