// SPDX-License-Identifier: Apache-2.0
/// @file adjuster.hpp
/// @brief --adjuster: the gradient method that its text names.
#pragma once

#include "options.hpp"

#include <htl/task/task_set.hpp>
#include <htl/weighting/any_weighting.hpp>

#include <string>

namespace htlnet {

/// Refuses a text that names no method of the library, or options that it does not have.
void check_adjuster_text(const std::string& text);

/// What --adjuster names; core_task without options of its own takes those of --alpha, --gamma, ….
htl::AnyWeighting adjuster_of(const ModelOptions& options);

/// Asks the adjuster once, on unit gradients, so that what it refuses for these tasks it refuses before there is a run: no core, weights of another number.
void check_adjuster(const ModelOptions& options, const htl::TaskSet& tasks);

}  // namespace htlnet
