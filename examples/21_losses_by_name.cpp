// SPDX-License-Identifier: Apache-2.0
// One label, mostly 0 with a long tail, under losses and label transforms that a configuration could name: which of them predict the mean.
#include <htl/loss/built_in_losses.hpp>
#include <htl/loss/hybrid_loss.hpp>
#include <htl/metrics/regression_error.hpp>
#include <htl/nn/tower.hpp>
#include <htl/task/built_in_calibrators.hpp>
#include <htl/task/built_in_transforms.hpp>

#include <torch/torch.h>

#include <cstdio>
#include <string>

struct Rows {
  at::Tensor x;
  htl::Labels labels;
};

/// Spend: bought or not by the first feature, log-normal by the second.
Rows draw(int64_t rows) {
  const at::Tensor x = torch::randn({rows, 2}), buys = torch::rand({rows}).lt((x.select(1, 0) - 1).sigmoid()).to(torch::kFloat);
  Rows result{x, {}};
  result.labels.set("spend", {buys * (1.5 + .7 * x.select(1, 1) + .6 * torch::randn({rows})).exp()});
  return result;
}

int main() {
  torch::manual_seed(1);
  const Rows train = draw(20'000), valid = draw(20'000), test = draw(20'000);
  std::printf("%-52s %s\n", "loss, label transform, calibrator", "mean prediction / mean label");
  const std::string choices[][3] = {{"squared", "z_score", "none"},
                                    {"squared", "chained:first=log1p,second=z_score", "none"},
                                    {"squared", "chained:first=log1p,second=z_score", "scale"},
                                    {"huber:delta=0.5", "z_score", "none"},
                                    {"tweedie:power=1.5", "none", "none"},
                                    {"ziln", "none", "none"},
                                    {"quantile:q=0.5", "none", "none"}};
  for (const auto& [loss_text, transform_text, calibrator_text] : choices) {
    torch::manual_seed(2);
    // [task]
    const htl::TaskSpec spend = htl::regression("spend")
                                    .loss(htl::built_in_losses().make(htl::parse_spec(loss_text)))                 // "tweedie:power=1.5"
                                    .transform(htl::built_in_transforms().make(htl::parse_spec(transform_text)));  // "chained:first=log1p,second=z_score"
    htl::TaskSet tasks = htl::TaskSet{calibrator_text == "none" ? spend : spend.calibration(htl::built_in_calibrators().make(calibrator_text))};
    tasks = tasks.fitted(train.labels);                                            // statistics of the training labels
    htl::Tower tower(htl::TowerOptions(2, tasks[0].output_width()).hidden({32}));  // a likelihood may want several numbers a row
    // [task]
    const htl::HybridLoss loss(tasks);
    torch::optim::Adam optimizer(tower->parameters(), .01);
    for (int step = 0; step < 400; ++step) {
      optimizer.zero_grad();
      loss(htl::TaskOutputs().set("spend", tower->forward(train.x).output), train.labels)["spend"].backward();
      optimizer.step();
    }
    const torch::NoGradGuard no_grad;
    const auto outputs = [&](const Rows& rows) { return htl::TaskOutputs().set("spend", tower->forward(rows.x).output); };
    // [calibrate]
    tasks = tasks.calibrated(outputs(valid), valid.labels);  // on rows that the model was not trained on
    const at::Tensor prediction = tasks.predict(outputs(test))["spend"];
    // [calibrate]
    htl::RegressionError error;
    error.add(prediction, test.labels["spend"]);
    const double ratio = error.ratio();
    std::printf("%-52s %s\n", (loss_text + ", " + transform_text + ", " + calibrator_text).c_str(),
                ratio < .7                  ? "far too low"
                : std::abs(ratio - 1) < .15 ? "near 1"
                                            : "?");
  }
  return 0;
}
