// SPDX-License-Identifier: Apache-2.0
// A gradient method reads a TaskGramian, not a bare matrix.
// expect: GradientMethod
// expect: method\.weights\(gramian\)
#include <htl/gradient/fork.hpp>

struct MyMethod {
  at::Tensor weights(const at::Tensor& matrix) const { return matrix; }
};

htl::GradientFork<MyMethod> adjusted{nullptr};
