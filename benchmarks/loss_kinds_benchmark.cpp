// SPDX-License-Identifier: Apache-2.0
// What each loss costs in one pass, forward and backward, beside the same formula composed of LibTorch's operators with mask and weights.
#include <htl/loss/built_in_losses.hpp>
#include <htl/task/spec_text.hpp>

#include <benchmark/benchmark.h>
#include <torch/torch.h>

#include <string>

namespace {

/// A loss as its registry names it, and which labels suit it.
struct Kind {
  std::string spec;
  enum { number, count, positive, inflated, event, classes, ranks, seconds } label;
};

const std::vector<Kind> kinds = {
    {"binary_cross_entropy", Kind::event},
    {"binary_cross_entropy:smoothing=0.1", Kind::event},
    {"focal", Kind::event},
    {"focal:gamma=1.5,alpha=0.25", Kind::event},
    {"softmax_cross_entropy:classes=5", Kind::classes},
    {"softmax_cross_entropy:classes=5,smoothing=0.1", Kind::classes},
    {"coral:classes=5", Kind::classes},
    {"coral:classes=5,ordered=true,predicts=rank", Kind::ranks},
    {"squared", Kind::number},
    {"huber", Kind::number},
    {"absolute", Kind::number},
    {"log_cosh", Kind::number},
    {"squared_log", Kind::positive},
    {"quantile:q=0.9", Kind::number},
    {"quantiles:levels=0.1;0.5;0.9", Kind::number},
    {"poisson", Kind::count},
    {"tweedie", Kind::inflated},
    {"tweedie:form=deviance", Kind::inflated},
    {"tweedie:form=likelihood", Kind::inflated},
    {"gamma", Kind::positive},
    {"gamma:shape=2", Kind::positive},
    {"zero_inflated_gamma", Kind::inflated},
    {"log_normal", Kind::positive},
    {"ziln", Kind::inflated},
    {"ziln:like=easy_rec", Kind::inflated},
    {"weighted_logistic:form=odds", Kind::seconds},
    {"weighted_logistic", Kind::seconds},
    {"d2q:duration=duration", Kind::seconds},
    {"cread", Kind::seconds},
    {"tpm", Kind::seconds},
    {"bucket_softmax", Kind::seconds},
    {"gaussian_mixture", Kind::number},
    {"exponential_gaussian_mixture", Kind::seconds},
    {"entire_space:given=click", Kind::event},
    {"inverse_propensity:given=click", Kind::event},
    {"doubly_robust:given=click", Kind::event},
    {"order_calibration:after=click", Kind::event},
    {"distillation:teacher=click", Kind::event},
    {"distillation:teacher=click,form=multiclass,classes=5", Kind::classes},
    {"pairwise_ranking:group=user", Kind::seconds},
};

at::Tensor labels_of(const Kind& kind, int64_t rows, int64_t width) {
  const at::Tensor positive = torch::randn({rows}).exp();
  switch (kind.label) {
    case Kind::number:
      return torch::randn({rows});
    case Kind::count:
      return (torch::rand({rows}) * torch::rand({rows}) * 40).floor();
    case Kind::positive:
      return positive;
    case Kind::inflated:
      return positive * (torch::rand({rows}) < .5);
    case Kind::event:
      return (torch::rand({rows}) < .3).to(at::kFloat);
    case Kind::classes:
      return torch::randint(0, 5, {rows}, at::kLong);
    case Kind::ranks:
      return torch::randint(0, width + 1, {rows}, at::kFloat);
    case Kind::seconds:
      return 300 * torch::rand({rows}) * torch::rand({rows}) * (torch::rand({rows}) < .8);
  }
  return {};
}

void loss_kind(benchmark::State& state, const Kind& kind, bool one_pass) {
  torch::manual_seed(1);
  const int64_t rows = state.range(0);
  htl::AnyLoss loss = htl::built_in_losses().make(htl::parse_spec(kind.spec));
  if (rows > 1024 && !one_pass && loss.name() == "pairwise_ranking") return state.SkipWithError("its operators take every pair of rows");
  const at::Tensor output = torch::randn({rows, loss.output_width()}).requires_grad_(), label = labels_of(kind, rows, loss.output_width());
  const at::Tensor weight = torch::rand({rows}) * (torch::rand({rows}) < .8), share = weight / weight.sum();
  htl::Named<at::Tensor> context;  // columns and the task that losses may read
  context.set("duration", 300 * torch::rand({rows})).set("user", torch::randint(rows / 16 + 1, {rows}, at::kLong));
  htl::Labels labels;
  labels.set("click", {(torch::rand({rows}) < .4).to(at::kFloat)});
  htl::TaskOutputs outputs;
  outputs.set("click", torch::randn({rows, loss.name() == "distillation" ? loss.output_width() : 1}).requires_grad_());
  loss = loss.fitted({label}, context);
  const htl::LossInput input{output, label, label, weight, context, &outputs, &labels};
  for (auto _ : state) {
    const at::Tensor value = one_pass ? loss.reduced(input, share) : htl::weighted_sum(loss.per_row(input), share);
    value.backward();
    output.mutable_grad().reset();
    for (auto& [name, other] : outputs) other.mutable_grad().reset();
  }
}

const int registered = [] {
  for (const Kind& kind : kinds)
    for (const bool one_pass : {true, false})
      benchmark::RegisterBenchmark((kind.spec + (one_pass ? "/one_pass" : "/operators")).c_str(),
                                   [&kind, one_pass](benchmark::State& state) { loss_kind(state, kind, one_pass); })
          ->ArgName("rows")
          ->Arg(1024)
          ->Arg(65536)
          ->Unit(benchmark::kMicrosecond)
          ->UseRealTime();
  return 0;
}();

}  // namespace
