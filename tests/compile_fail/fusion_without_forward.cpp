// SPDX-License-Identifier: Apache-2.0
// A user's fusion must fuse: forward takes all sources at once.
// expect: TaskFusion
// expect: unit->forward\(sources\)
#include <htl/transfer/task_graph.hpp>

struct MyFusionImpl : torch::nn::Module {
  explicit MyFusionImpl(const htl::InformationFusionOptions&) {}
  at::Tensor forward(const at::Tensor& source) { return source; }
};
TORCH_MODULE(MyFusion);

htl::TaskGraph<htl::Tower, htl::LabelEmbedding, MyFusion> graph{nullptr};
