// SPDX-License-Identifier: Apache-2.0
// A user's tower must say how wide its representation is.
// expect: TaskTower
// expect: tower->representation_width\(\)
#include <htl/transfer/task_graph.hpp>

struct MyTowerImpl : torch::nn::Module {
  explicit MyTowerImpl(const htl::TowerOptions&) {}
  htl::TowerOutput forward(const std::vector<at::Tensor>&) { return {}; }
};
TORCH_MODULE(MyTower);

htl::TaskGraph<MyTower> graph{nullptr};
