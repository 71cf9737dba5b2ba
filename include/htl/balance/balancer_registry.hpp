// SPDX-License-Identifier: Apache-2.0
/// @file balancer_registry.hpp
/// @brief BalancerRegistry: balancers' methods by name.
/// Not in the umbrella: it belongs to balancers by name, built_in_balancers.hpp.
#pragma once

#include <htl/balance/any_balance.hpp>
#include <htl/task/registry.hpp>

namespace htl::inline v0_1_0 {

/// @brief Balancers' methods by name; see Registry.
class BalancerRegistry : public Registry<AnyBalance> {
 public:
  /// @brief An empty one; built_in_balancers() has the library's own.
  BalancerRegistry() : Registry("htl::BalancerRegistry", "balancer", "a balancer") {}
};

}  // namespace htl
