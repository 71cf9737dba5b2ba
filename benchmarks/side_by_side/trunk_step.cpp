// SPDX-License-Identifier: Apache-2.0
// One training step of a dense 512-512 bottom under four towers 64-1, with exact task gradients of the bottom: what torchjd_step.py --model trunk does. Prints
// a JSON line as the other programs of this folder.
#include <htlnet/machine.hpp>

#include <htl/gradient/backward.hpp>
#include <htl/nn/tower.hpp>
#include <htl/optim/clip.hpp>
#include <htl/optim/fused_adam.hpp>
#include <htl/weighting/built_in_methods.hpp>

#include <torch/nn/functional/loss.h>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <chrono>
#include <iostream>
#include <string>
#include <vector>

int main(int argc, char** argv) {
  int64_t batch = 1024, steps = 100, warmup = 10, threads = 2, rows = 0;
  double clip = 1.0;
  std::string matrix = "auto", adjuster = "upgrad";
  CLI::App app("A step with exact task gradients of a dense bottom");
  app.add_option("--batch", batch);
  app.add_option("--steps", steps);
  app.add_option("--warmup", warmup);
  app.add_option("--threads", threads);
  app.add_option("--rows", rows, "Of tables, which this model has none of; compare.py gives it");
  app.add_option("--clip", clip);
  app.add_option("--matrix", matrix);
  app.add_option("--adjuster", adjuster);
  CLI11_PARSE(app, argc, argv);
  htlnet::keep_freed_memory();
  at::set_num_threads(static_cast<int>(threads));
  at::manual_seed(1);
  const std::string backend = htlnet::choose_matrix_backend(matrix).name;

  constexpr int64_t width = 512, tasks = 4;
  std::vector<htl::TaskSpec> specs;
  for (int64_t t = 0; t < tasks; ++t) specs.push_back(htl::regression(std::to_string(t)).core(t + 1 == tasks));
  const htl::TaskSet set(specs);
  htl::Mlp bottom(htl::MlpOptions(width, {width, width}));
  std::vector<htl::Tower> towers;
  std::vector<at::Tensor> parameters = bottom->parameters();
  for (int64_t t = 0; t < tasks; ++t) {
    towers.emplace_back(htl::TowerOptions(width, 1).hidden({64}));
    for (const at::Tensor& parameter : towers.back()->parameters()) parameters.push_back(parameter);
  }
  htl::GradientFork<htl::AnyWeighting> fork(set, htl::built_in_methods().make(htl::parse_spec(adjuster)));
  htl::FusedAdam optimizer(parameters, {.lr = 1e-3});
  std::vector<at::Tensor> inputs, labels;
  for (int i = 0; i < 16; ++i) {
    inputs.push_back(at::randn({batch, width}));
    labels.push_back(at::randn({tasks, batch}));
  }
  std::vector<double> milliseconds;
  for (int64_t step = 0; step < warmup + steps; ++step) {
    const auto at = static_cast<size_t>(step % 16);
    const auto start = std::chrono::steady_clock::now();
    optimizer.zero_grad();
    const std::vector<at::Tensor> views = fork->split(bottom->forward(inputs[at]));
    htl::TaskLosses losses;
    for (size_t t = 0; t < towers.size(); ++t)
      losses.set(std::to_string(t), torch::nn::functional::mse_loss(towers[t]->forward(views[t]).output.squeeze(1), labels[at][static_cast<int64_t>(t)]));
    htl::backward(losses, fork, htl::shared(bottom));
    if (clip > 0.0) htl::clip_grad_norm({}, parameters, clip);
    optimizer.step();
    if (step >= warmup) milliseconds.push_back(std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count());
  }
  std::nth_element(milliseconds.begin(), milliseconds.begin() + static_cast<std::ptrdiff_t>(milliseconds.size() / 2), milliseconds.end());
  const double median = milliseconds[milliseconds.size() / 2];
  std::cout << nlohmann::json{{"program", "htl"},      {"batch", batch},
                              {"matrix", backend},     {"steps", steps},
                              {"threads", threads},    {"clip", clip},
                              {"ms_per_step", median}, {"samples_per_second", static_cast<double>(batch) / median * 1e3},
                              {"adjuster", adjuster}}
                   .dump()
            << "\n";
}
