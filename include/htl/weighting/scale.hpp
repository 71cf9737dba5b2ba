// SPDX-License-Identifier: Apache-2.0
/// @file scale.hpp
/// @brief Preference and WeightScale: how large a method's weights are; publications differ by a factor T.
#pragma once

#include <htl/version.hpp>

namespace htl::inline v0_1_0 {

/// @brief The weights that a method adjusts: what it returns where nothing conflicts.
enum class Preference {
  mean,  ///< 1/T for each of the T active tasks
  sum    ///< 1 for each task
};

/// @brief What the weights of a method on the simplex add up to.
enum class WeightScale {
  one,   ///< 1, as published: a mean of the gradients
  tasks  ///< the number of active tasks: a sum of the gradients, comparable with Sum
};

}  // namespace htl
