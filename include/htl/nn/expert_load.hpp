// SPDX-License-Identifier: Apache-2.0
/// @file expert_load.hpp
/// @brief ExpertLoad: which experts the tasks' gates use, as a report.
/// Not in the umbrella: include it where it is used.
#pragma once

#include <htl/task/check.hpp>
#include <htl/task/tensor_operators.hpp>

#include <ATen/ops/arange.h>

namespace htl::inline v0_1_0 {

/// @brief How a batch's gates spread over the experts. On the gates' device; nothing waits until a number is read.
struct ExpertLoad {
  at::Tensor mean;        ///< [T, n] the mean gate of each task and expert; rows sum to 1
  at::Tensor top;         ///< [T, n] the share of rows whose largest gate is that expert's; rows sum to 1
  at::Tensor importance;  ///< [n] Σ_t mean, over T: what share of all gates an expert has; 1/n where all are used alike
  at::Tensor variation;   ///< scalar: the importances' coefficient of variation, 0 (all alike) … √(n − 1) (one expert does everything)
};

/// @brief The load of a batch's gates.
///
/// **Reference.** Importance and its coefficient of variation: Shazeer et al., ICLR 2017, Eq. 6 and 7. **Device.** Any; no synchronisation.
/// @param gates [B, T, n], or [B, n] of one gate, as a mixture keeps them; B ≥ 1
/// @throws c10::ValueError on another shape or without rows
inline ExpertLoad expert_load(const at::Tensor& gates) {
  HTL_CHECK(gates.defined() && (gates.dim() == 2 || gates.dim() == 3) && gates.size(0) >= 1,
            "htl::expert_load: expected gates of shape [any, T, n] with at least one row, got ", shape_of(gates), "; keep them by keep_gates() before forward");
  const at::Tensor of = (gates.dim() == 2 ? gates.unsqueeze(1) : gates).detach();
  ExpertLoad load;
  load.mean = of.mean(0);
  load.top = of.argmax(2, /*keepdim=*/true).eq(at::arange(of.size(2), of.options().dtype(at::kLong))).to(of.scalar_type()).mean(0);
  load.importance = load.mean.mean(0);
  load.variation = load.importance.std(/*dim=*/at::IntArrayRef{0}, /*unbiased=*/false) / load.importance.mean();
  return load;
}

}  // namespace htl
