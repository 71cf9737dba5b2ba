// SPDX-License-Identifier: Apache-2.0
/// @file esmm.hpp
/// @brief ESMM and ESCM2: towers on shared embeddings whose later events are learned over all rows, by products of probabilities.
#pragma once

#include "towers.hpp"

#include <htl/loss/doubly_robust.hpp>
#include <htl/loss/entire_space.hpp>

#include <algorithm>

namespace models {

/// What ESCM2 adds to ESMM.
enum class EntireSpaceForm {
  esmm,  // the product alone (Ma et al., SIGIR 2018)
  escm2  // and the doubly robust risk of the conditional probability (Wang et al., SIGIR 2022), with PaddleRec's weights
};

/// The tasks with their binary events over all rows: each that follows binary ones is the product of its own conditional probability and theirs. A task
/// whose label exists only where another event happened is left as it is: it has no label over all rows. Each logit is of its event given those named before
/// it; where two of them do not follow each other, the product takes them for independent. The doubly robust risk is of one propensity: a task with more than
/// one event before it has the product alone.
inline htl::TaskSet over_the_entire_space(const htl::TaskSet& tasks, EntireSpaceForm form) {
  std::vector<htl::TaskSpec> specs(tasks.begin(), tasks.end());
  for (const int64_t t : tasks.order()) {
    htl::TaskSpec& task = specs[static_cast<size_t>(t)];
    std::vector<std::string> before;
    for (const int64_t other : tasks.order())
      if (tasks.precedes(other, t) && tasks[other].kind() == htl::TaskKind::binary) before.push_back(tasks[other].name());
    if (task.kind() != htl::TaskKind::binary || before.empty() || !task.losses().empty() || !task.observed_when().empty()) continue;
    const bool robust = form == EntireSpaceForm::escm2 && before.size() == 1;
    task = task.loss(htl::EntireSpace({.given = before, .width = robust ? 2 : 1}));
    if (robust) task = task.loss(htl::DoublyRobust(htl::DoublyRobustOptions{.propensity = {.given = before.front()}}), 0.01);
  }
  return htl::TaskSet(std::move(specs));
}

}  // namespace models
