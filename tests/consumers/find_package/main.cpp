// SPDX-License-Identifier: Apache-2.0
// A project of a user: tasks, labels, a fitted transform, predictions in the label's unit.
#include <torch/torch.h>
#include <htl/htl.hpp>

#include <cstdio>

int main() {
  const auto unfitted = htl::TaskSet{htl::binary("click"), htl::regression("watch_time").after("click").transform(htl::z_score())};
  htl::Labels labels;
  labels.set("click", {torch::tensor({1.0, 0.0, 1.0})}).set("watch_time", {torch::tensor({4.0, 6.0, 8.0})});
  const htl::TaskSet tasks = unfitted.fitted(labels);

  htl::TaskOutputs outputs;
  outputs.set("click", torch::zeros({3, 1})).set("watch_time", torch::zeros({3, 1}));
  const htl::Predictions predictions = tasks.predict(outputs);
  const double click = predictions["click"][0].item<double>();
  const double seconds = predictions["watch_time"][0].item<double>();
  std::printf("click %.2f, watch_time %.2f\n", click, seconds);
  return click == 0.5 && seconds == 6.0 ? 0 : 1;
}
