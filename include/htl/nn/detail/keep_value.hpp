// SPDX-License-Identifier: Apache-2.0
/// @file keep_value.hpp
/// @brief A buffer that keeps its type and value where its module is cast: torch::nn::Module::to(dtype) casts every buffer.
/// Not in the umbrella: it belongs to the headers that include it.
#pragma once

#include <ATen/core/Tensor.h>

namespace htl::inline v0_1_0::detail {

/// Calls cast(), and gives the buffer its value and type back, on the device where it is then.
template <class Cast>
void keep_value(at::Tensor& buffer, const Cast& cast) {
  const at::Tensor kept = buffer.clone();
  cast();
  buffer.set_data(kept.to(buffer.device()));
}

}  // namespace htl::inline v0_1_0::detail
