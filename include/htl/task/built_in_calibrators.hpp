// SPDX-License-Identifier: Apache-2.0
/// @file built_in_calibrators.hpp
/// @brief built_in_calibrators: the registry of the library's own calibrators.
///
/// Not in the umbrella: one that chooses calibrators by name includes it.
#pragma once

#include <htl/task/isotonic_calibration.hpp>
#include <htl/task/platt_scaling.hpp>
#include <htl/task/prior_correction.hpp>
#include <htl/task/registry.hpp>
#include <htl/task/scale_calibration.hpp>

namespace htl::inline v0_1_0 {

/// @brief Calibrators by name; see Registry.
class CalibratorRegistry : public Registry<AnyCalibrator> {
 public:
  /// @brief An empty one; built_in_calibrators() has the library's own.
  CalibratorRegistry() : Registry("htl::CalibratorRegistry", "calibrator", "a calibrator") {}
};

/// @brief All calibrators of the library by name, unfitted. A new registry: add your own to it.
///
/// | name | calibrator | options |
/// |---|---|---|
/// | `prior` | PriorCorrection | `kept`: the share of non-events in the training rows |
/// | `scale` | ScaleCalibration | |
/// | `platt` | PlattScaling | `slope` |
/// | `isotonic` | IsotonicCalibration | |
inline CalibratorRegistry built_in_calibrators() {
  CalibratorRegistry registry;
  registry.add("prior", [](OptionReader& options) { return PriorCorrection(options.number("kept", detail::kRate)); });
  registry.add("scale", [](OptionReader&) { return ScaleCalibration{}; });
  registry.add("platt", [](OptionReader& options) { return PlattScaling{.slope = options.flag("slope", true)}; });
  registry.add("isotonic", [](OptionReader&) { return IsotonicCalibration{}; });
  return registry;
}

}  // namespace htl
