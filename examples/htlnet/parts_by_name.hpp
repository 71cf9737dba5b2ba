// SPDX-License-Identifier: Apache-2.0
/// @file parts_by_name.hpp
/// @brief Losses and calibrators of tasks, and balancers, by what the command line says.
#pragma once

#include <htl/balance/any_balance.hpp>
#include <htl/task/task_set.hpp>

#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace htlnet {

/// What stands before and behind the "=" of each NAME=PART of a text, with "|" between them.
/// @param who begins the sentence of what is none
/// @param form what an entry looks like, for that sentence
std::vector<std::pair<std::string, std::string>> pairs_of(const std::string& text, const char* who, const char* form);

/// Whether a text is TASK=PART entries with "|" between them, and each part one that exists.
/// @throws c10::ValueError with a sentence
void check_losses_text(const std::string& text);
void check_calibrators_text(const std::string& text);
void check_balancer_text(const std::string& text);

/// LOSS[@TRANSFORM][&WEIGHT*LOSS…] taken apart; a loss without a weight has 1.
struct LossText {
  std::string loss;                                    ///< the one that predicts
  std::optional<std::string> transform;                ///< of the label
  std::vector<std::pair<double, std::string>> beside;  ///< weights and the losses that are added
};
/// @param who begins the sentence of what is none
LossText loss_text(const std::string& text, const char* who);

/// A task with the losses and the label transform of LOSS[@TRANSFORM][&WEIGHT*LOSS…] instead of its own; the first loss predicts. Without a transform a
/// regression keeps its own (z_score where its own loss needed none), or gets none where the loss works in the label's unit.
htl::TaskSpec with_loss(const htl::TaskSpec& task, const std::string& text);
/// The tasks with the losses of TASK=LOSS[@TRANSFORM][&WEIGHT*LOSS…]|…; the others are as they are.
htl::TaskSet with_losses(const htl::TaskSet& tasks, const std::string& text);
/// The tasks with the calibrators, not fitted yet, of TASK=NAME[:option=value,…]|….
htl::TaskSet with_calibrators(const htl::TaskSet& tasks, const std::string& text);
/// Whether a task has a calibrator.
bool has_calibrators(const htl::TaskSet& tasks);
/// The balancer of NAME[:option=value,…].
htl::AnyBalance balancer_of(const std::string& text);

}  // namespace htlnet
