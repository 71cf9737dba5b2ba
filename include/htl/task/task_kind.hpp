// SPDX-License-Identifier: Apache-2.0
/// @file task_kind.hpp
/// @brief TaskKind: what a task predicts.
#pragma once

#include <string>

namespace htl::inline v0_1_0 {

/// @brief What a task predicts.
enum class TaskKind {
  binary,      ///< an event; labels 0 or 1, output one logit
  multiclass,  ///< one of K classes; labels 0 … K−1, output K logits
  regression   ///< a number
};

/// @brief "binary", "multiclass", "regression"
inline std::string to_string(TaskKind kind) {
  switch (kind) {
    case TaskKind::binary:
      return "binary";
    case TaskKind::multiclass:
      return "multiclass";
    case TaskKind::regression:
      return "regression";
  }
  return "unknown";
}

}  // namespace htl
