// SPDX-License-Identifier: Apache-2.0
/// @file transfer_policy.hpp
/// @brief What flows from a task to those that follow it, and where the gradient of what flowed stops.
#pragma once

#include <htl/transfer/detail/choice.hpp>

namespace htl::inline v0_1_0 {

/// @brief Where the gradient of what flows to later tasks stops (Tang et al., RecSys 2024, Eq. 15 in its readings).
///
/// What a later task's loss trains, besides that task's own tower:
/// | placement | its fusion units | earlier label embeddings | earlier towers |
/// |---|---|---|---|
/// | `inputs` | yes | yes | no |
/// | `label_output` | yes | no | no |
/// | `fusion_output` | no | no | no |
/// | `none` | yes | yes | yes |
enum class StopGradient {
  inputs,         ///< the logit that enters the label embedding, and the representation that leaves the tower, are detached (default)
  label_output,   ///< the label embedding's output and the representation are detached: label tables stay as initialised
  fusion_output,  ///< the fused vectors are detached, Eq. 15 to the letter: fusion units and label tables stay as initialised
  none            ///< nothing is detached: later losses train earlier towers, and reach the shared layers through them
};

/// @brief What flows along an edge of the task graph.
enum class Transfer {
  both,            ///< the tower's representation and the label embedding (default)
  representation,  ///< the representation only
  label,           ///< the label embedding only
  none             ///< nothing: one tower per task on the shared input
};

namespace detail {
inline const Choices<StopGradient>& stop_gradient_names() {
  static const Choices<StopGradient> names{{"inputs", StopGradient::inputs},
                                           {"label_output", StopGradient::label_output},
                                           {"fusion_output", StopGradient::fusion_output},
                                           {"none", StopGradient::none}};
  return names;
}
inline const Choices<Transfer>& transfer_names() {
  static const Choices<Transfer> names{
      {"both", Transfer::both}, {"representation", Transfer::representation}, {"label", Transfer::label}, {"none", Transfer::none}};
  return names;
}
}  // namespace detail

/// @brief The placement of a name: "inputs", "label_output", "fusion_output", "none".
/// @throws c10::ValueError naming the nearest name
inline StopGradient stop_gradient(std::string_view name) { return detail::choose("htl::stop_gradient", name, detail::stop_gradient_names()); }
/// @brief The name of a placement.
inline std::string to_string(StopGradient placement) { return detail::name_of(placement, detail::stop_gradient_names()); }

/// @brief What flows, by name: "both", "representation", "label", "none".
/// @throws c10::ValueError naming the nearest name
inline Transfer transfer(std::string_view name) { return detail::choose("htl::transfer", name, detail::transfer_names()); }
/// @brief The name of what flows.
inline std::string to_string(Transfer what) { return detail::name_of(what, detail::transfer_names()); }

/// @brief Whether representations flow.
inline bool has_representation(Transfer what) { return what == Transfer::both || what == Transfer::representation; }
/// @brief Whether label embeddings flow.
inline bool has_label(Transfer what) { return what == Transfer::both || what == Transfer::label; }

}  // namespace htl
