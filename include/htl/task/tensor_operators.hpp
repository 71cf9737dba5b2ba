// SPDX-License-Identifier: Apache-2.0
/// @file tensor_operators.hpp
/// @brief The operators of at::Tensor (+, *, <, …), which ATen/core/Tensor.h does not declare, at a third of the cost of ATen/Functions.h.
#pragma once

// LibTorch's own switch for narrow includes; without it TensorOperators.h pulls in every function of ATen. Left as it was found.
#ifdef AT_PER_OPERATOR_HEADERS
#include <ATen/TensorOperators.h>
#else
#define AT_PER_OPERATOR_HEADERS
#include <ATen/TensorOperators.h>
#undef AT_PER_OPERATOR_HEADERS
#endif
