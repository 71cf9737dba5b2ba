// SPDX-License-Identifier: Apache-2.0
/// @file prior_correction.hpp
/// @brief PriorCorrection: the probability of an event when the model was trained on some of the non-events only.
/// Not in the umbrella: include it where it is used.
#pragma once

#include <htl/task/calibrator.hpp>

#include <cmath>

namespace htl::inline v0_1_0 {

/// @brief p' = r p / (r p + 1 − p) where only the share r of the non-events was kept for training: odds fall by r. Nothing to fit.
///
/// Exact if the kept non-events are a random sample, and monotone. **Source.** He et al., "Practical Lessons from Predicting Clicks on Ads at Facebook", ADKDD
/// 2014, Section 6.3 (their w is r).
struct PriorCorrection {
  /// @brief With the share of the non-events that was kept.
  /// @throws c10::ValueError unless it is in (0, 1]
  explicit PriorCorrection(double kept_share) : kept(kept_share) {
    HTL_CHECK(kept > 0.0 && kept <= 1.0, "htl::PriorCorrection: expected the share of non-events that was kept, in (0, 1], got ", kept);
  }
  /// r
  double kept;

  /// @brief "prior"
  std::string name() const { return "prior"; }
  /// @brief Binary tasks.
  bool fits(TaskKind kind) const { return kind == TaskKind::binary; }
  /// @brief Itself.
  PriorCorrection fitted(const at::Tensor&, const at::Tensor&, const at::Tensor&) const { return *this; }
  /// @brief Always true.
  bool is_fitted() const { return true; }
  /// @brief r p / (r p + 1 − p)
  at::Tensor apply(const at::Tensor& prediction) const {
    const at::Tensor events = prediction.mul(kept);
    return events.div(events.sub(prediction).add(1.0));
  }
  /// @brief kept
  Options parameters() const { return {{"kept", kept}}; }
  /// @brief None.
  Options statistics() const { return {}; }
  /// @brief Itself.
  PriorCorrection with_statistics(const Options&) const { return *this; }
};

}  // namespace htl
