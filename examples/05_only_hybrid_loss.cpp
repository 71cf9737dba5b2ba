// SPDX-License-Identifier: Apache-2.0
// Only the hybrid loss, on the outputs of a user's own model: masks, weights, labels that exist only after an event, and a transform with its way back.
#include <htl/loss/hybrid_loss.hpp>

#include <torch/torch.h>

#include <cstdio>
#include <limits>

struct Rows {
  at::Tensor x;
  htl::Labels labels;
};

Rows draw(int64_t rows) {
  const at::Tensor x = torch::randn({rows, 8}), nothing = torch::full({rows}, std::numeric_limits<float>::quiet_NaN());
  const at::Tensor click = torch::rand({rows}).lt(x.select(1, 0).sigmoid());
  const at::Tensor seconds = (3 + x.select(1, 1)).exp(), stars = (2.5 + x.select(1, 2)).clamp(0, 4).to(torch::kLong);
  const at::Tensor answered = torch::rand({rows}).lt(0.2), weight = 1 + torch::rand({rows});  // a survey: few answer, and answers are re-weighted
  htl::Labels labels;
  // [labels]
  labels.set("click", {click.to(torch::kFloat)});
  labels.set("watch_time", {seconds.where(click, nothing)});  // nobody watches without a click
  labels.set("stars", {stars, answered, weight});
  // [labels]
  return {x, labels};
}

int main() {
  torch::manual_seed(1);
  // [tasks]
  const auto tasks =
      htl::TaskSet{htl::binary("click"), htl::regression("watch_time").transform(htl::log1p()).observed_when("click"), htl::multiclass("stars", 5).weight(0.5)};
  const htl::HybridLoss loss(tasks);
  // [tasks]

  torch::nn::Sequential model(torch::nn::Linear(8, 64), torch::nn::ReLU(), torch::nn::Linear(64, 1 + 1 + 5));  // the user's own
  torch::optim::Adam optimizer(model->parameters(), 1e-2);
  const auto outputs_of = [&](const at::Tensor& x) {
    const std::vector<at::Tensor> parts = model->forward(x).split_with_sizes({1, 1, 5}, 1);
    return htl::TaskOutputs().set("click", parts[0]).set("watch_time", parts[1]).set("stars", parts[2]);
  };

  const Rows first = draw(512);
  const htl::TaskOutputs outputs = outputs_of(first.x);
  const htl::TaskLosses losses = loss(outputs, first.labels);
  const at::Tensor clicked = first.labels["click"].value.nonzero().squeeze(1);
  const at::Tensor by_hand =
      torch::mse_loss(outputs["watch_time"].squeeze(1).index_select(0, clicked), first.labels["watch_time"].value.index_select(0, clicked).log1p());
  std::printf("the loss of watch_time is the mean over the clicks alone: %s\n", torch::allclose(losses["watch_time"], by_hand) ? "yes" : "no");

  htl::Labels unanswered = first.labels;
  unanswered.set("stars", {first.labels["stars"].value, torch::zeros({512}, torch::kBool)});
  const htl::TaskLosses without = loss(outputs, unanswered);
  std::printf("a batch without an answer: the loss of stars is %g, the task is %s\n", without["stars"].item<double>(),
              without.active[2].item<bool>() ? "active" : "not active");

  for (int step = 0; step < 400; ++step) {
    const Rows rows = draw(512);
    optimizer.zero_grad();
    loss(outputs_of(rows.x), rows.labels).sum().backward();  // or each alone: loss(…)["click"]
    optimizer.step();
  }

  const torch::NoGradGuard no_grad;
  const Rows test = draw(10'000);
  const htl::Predictions predictions = tasks.predict(outputs_of(test.x));  // probabilities, seconds, probabilities of each class
  const at::Tensor seconds = test.labels["watch_time"].value, watched = test.labels["click"].value.gt(0.5);
  const double error = (predictions["watch_time"] - seconds).abs().index({watched}).mean().item<double>();
  const double constant = (seconds - seconds.index({watched}).median()).abs().index({watched}).mean().item<double>();
  const double right = predictions["stars"].argmax(1).eq(test.labels["stars"].value).to(torch::kFloat).mean().item<double>();
  std::printf("watch time: error in seconds %s a third of the best constant's; stars: %s 70 %% right\n", error < constant / 3 ? "below" : "above",
              right > 0.7 ? "above" : "below");
  return 0;
}
