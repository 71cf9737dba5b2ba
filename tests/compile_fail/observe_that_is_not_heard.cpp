// SPDX-License-Identifier: Apache-2.0
// A method that means to hear the losses after a step must be one that does.
// expect: expected a LossObserver
#include <htl/gradient/fork.hpp>

struct MyMethod {
  struct State {
    at::Tensor mean;
    template <class Visit>
    void fields(Visit&& visit) {
      visit("mean", mean);
    }
  };
  at::Tensor weights(const htl::TaskGramian& gramian, State&) const { return gramian.matrix[0]; }
  void observe(State&, const at::Tensor& losses) const;  // the other way round
};

htl::GradientFork<MyMethod> adjusted{nullptr};
