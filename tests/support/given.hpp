// SPDX-License-Identifier: Apache-2.0
/// @file given.hpp
/// @brief Given: a weighting that gives what it was given.
#pragma once

#include <htl/weighting/weighting.hpp>

#include <ATen/ops/tensor.h>

#include <vector>

namespace htl::test {

/// @brief Weights that do not depend on the Gramian.
struct Given {
  std::vector<double> values;
  at::Tensor weights(const TaskGramian& gramian) const { return at::tensor(values, gramian.matrix.options()); }
};

}  // namespace htl::test
