// SPDX-License-Identifier: Apache-2.0
// A balancer's method that means to hear the losses after a step must be one that does.
// expect: expected a BalanceObserver
#include <htl/balance/balancer.hpp>

struct MyMethod {
  struct State {
    at::Tensor mean;
    template <class Visit>
    void fields(Visit&& visit) {
      visit("mean", mean);
    }
  };
  at::Tensor weights(const htl::BalanceInput& input, State&) const { return input.losses; }
  void observe(State&, const at::Tensor& losses) const;  // the other way round
};

htl::Balancer<MyMethod> balancer{nullptr};
