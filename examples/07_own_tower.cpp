// SPDX-License-Identifier: Apache-2.0
// A tower of your own in the task graph: any module that is made from TowerOptions and returns output and representation. Here a cross network.
#include <htl/loss/hybrid_loss.hpp>
#include <htl/metrics/task_metrics.hpp>
#include <htl/transfer/task_graph.hpp>

#include <torch/torch.h>

#include <cstdio>
#include <numeric>
#include <vector>

// [tower]
/// x_{l+1} = x_0 ⊙ (W x_l + b) + x_l, then one hidden layer, which is also what later tasks read.
class CrossTowerImpl : public torch::nn::Cloneable<CrossTowerImpl> {
 public:
  explicit CrossTowerImpl(const htl::TowerOptions& tower_options) : options(tower_options) { CrossTowerImpl::reset(); }
  void reset() override {
    const int64_t width = std::accumulate(options.inputs().begin(), options.inputs().end(), int64_t{0});
    cross = register_module("cross", torch::nn::Linear(width, width));
    hidden = register_module("hidden", torch::nn::Linear(width, options.hidden().front()));
    output = register_module("output", torch::nn::Linear(options.hidden().front(), options.output_width()));
  }
  htl::TowerOutput forward(const std::vector<at::Tensor>& parts) {  // the task's view first, then what flows in from other tasks
    const at::Tensor x = torch::cat(parts, 1), h = hidden->forward(x * cross->forward(x) + x).relu();
    return {output->forward(h), h};
  }
  int64_t representation_width() const { return options.hidden().front(); }
  htl::TowerOptions options;
  torch::nn::Linear cross{nullptr}, hidden{nullptr}, output{nullptr};
};
TORCH_MODULE(CrossTower);
static_assert(htl::TaskTower<CrossTower>);  // a member that is missing would be named here
// [tower]

htl::Labels label(const at::Tensor& x) {
  const at::Tensor score = 3 * x.select(1, 0) * x.select(1, 1) + 3 * x.select(1, 2) * x.select(1, 3);  // products, which a cross layer is made for
  const at::Tensor click = torch::rand({x.size(0)}).lt(score.sigmoid()).to(torch::kFloat);
  return htl::Labels().set("click", {click}).set("watch_time", {click * (score + 20)});
}

int main() {
  torch::manual_seed(1);
  const auto tasks =
      htl::TaskSet{htl::binary("click"), htl::regression("watch_time").after("click").transform(htl::z_score())}.fitted(label(torch::randn({10'000, 8})));
  // [graph]
  htl::TaskGraph<CrossTower> graph(tasks, htl::TaskGraphOptions(/*input_width=*/8).tower({16}));
  // [graph]
  htl::HybridLoss loss(tasks);
  torch::optim::Adam optimizer(graph->parameters(), 1e-2);
  for (int step = 0; step < 400; ++step) {
    const at::Tensor x = torch::randn({256, 8});
    optimizer.zero_grad();
    loss(graph->forward(x), label(x)).sum().backward();
    optimizer.step();
  }

  graph->eval();
  const torch::NoGradGuard no_grad;
  const at::Tensor x = torch::randn({10'000, 8});
  htl::TaskMetrics metrics(tasks);
  metrics.add(tasks.predict(graph->forward(x)), label(x));
  const auto values = metrics.values();
  std::printf("click AUC %s 0.8, watch time NRMSE %s 0.9\n", values["click"]["auc"] > 0.8 ? "above" : "below",
              values["watch_time"]["nrmse"] < 0.9 ? "below" : "above");
  for (const auto& parameter : graph->named_parameters())
    if (parameter.key().ends_with("cross.weight")) std::printf("%s %s\n", parameter.key().c_str(), htl::shape_of(*parameter).c_str());
  return 0;
}
