// SPDX-License-Identifier: Apache-2.0
// The memory of a gradient method must name its tensors, or it could not be saved.
// expect: GradientMethod
// expect: state\.fields
#include <htl/gradient/fork.hpp>

struct MyMethod {
  struct State {
    at::Tensor mean;
  };
  at::Tensor weights(const htl::TaskGramian& gramian, State&) const { return gramian.matrix; }
};

htl::GradientFork<MyMethod> adjusted{nullptr};
