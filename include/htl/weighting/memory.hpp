// SPDX-License-Identifier: Apache-2.0
/// @file memory.hpp
/// @brief A field of a method's memory, made on first use and checked afterwards.
#pragma once

#include <htl/task/check.hpp>

#include <ATen/ops/full.h>

namespace htl::inline v0_1_0 {
namespace detail {

/// Makes an undefined field, filled with `start`; a loaded one comes to the device, in float64 and contiguous.
/// @throws c10::ValueError where it was made for another number of tasks
inline void prepare_memory(const char* who, at::Tensor& field, at::IntArrayRef sizes, at::Device device, double start = 0.0) {
  if (!field.defined()) field = at::full(sizes, start, at::TensorOptions().dtype(at::kDouble).device(device));
  HTL_CHECK(field.sizes() == sizes, who, ": the state was made for ", shape_of(field), " tasks, the Gramian has ", sizes[0], "; forget it");
  if (field.device() != device || field.scalar_type() != at::kDouble) field = field.to(device, at::kDouble);
  if (!field.is_contiguous()) field = field.contiguous();
}

}  // namespace detail
}  // namespace htl
