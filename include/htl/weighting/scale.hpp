// SPDX-License-Identifier: Apache-2.0
/// @file scale.hpp
/// @brief WeightScale, Preference: the conventions of size in which public implementations of one method differ.
#pragma once

#include <cstdint>
#include <span>

namespace htl::inline v0_1_0 {

/// @brief What the weights of a method on the simplex add up to. A factor of T is a factor of T in the shared parameters' step.
enum class WeightScale {
  one,   ///< 1, as the papers write it: a mean of gradients
  tasks  ///< the number of active tasks, as nash-mtl's repository returns it: the size of the plain sum
};

/// @brief Which combination of the gradients a projecting method starts from.
enum class Preference {
  mean,  ///< 1/T each, T being the number of active tasks; the papers' and TorchJD's default
  sum    ///< 1 each: the size of the plain sum
};

namespace detail {
/// Multiplies weights by what their scale asks for.
inline void scale_weights(std::span<double> weights, WeightScale scale) {
  if (scale == WeightScale::one) return;
  for (double& weight : weights) weight *= static_cast<double>(weights.size());
}
/// The weight of each of n tasks in a preference.
inline double preferred(Preference preference, size_t n) { return preference == Preference::mean ? 1.0 / static_cast<double>(n) : 1.0; }
}  // namespace detail

}  // namespace htl
