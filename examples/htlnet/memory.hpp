// SPDX-License-Identifier: Apache-2.0
/// @file memory.hpp
/// @brief What a configuration needs of the machine's memory, before it is taken.
#pragma once

#include "options.hpp"

#include <htl/data/feature_map.hpp>
#include <htl/task/task_set.hpp>

namespace htlnet {

/// @brief Refuses to simulate more rows than fit.
/// @throws c10::ValueError saying how much they need, how much there is, and what to lower
void check_memory_of_rows(const Options& options);

/// @brief Refuses a model whose tables, towers, optimizers and batch are larger than the memory that is left.
/// @throws c10::ValueError saying how much each needs, how much there is, and what to lower
void check_memory(const Options& options, const htl::FeatureMap& features, const htl::TaskSet& tasks);

}  // namespace htlnet
