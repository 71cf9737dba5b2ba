// SPDX-License-Identifier: Apache-2.0
// A user's label embedding is made from LabelEmbeddingOptions, for every discrete task anew.
// expect: TaskLabelEmbedding
// expect: LabelEmbeddingOptions
#include <htl/transfer/task_graph.hpp>

struct MyEmbeddingImpl : torch::nn::Module {
  explicit MyEmbeddingImpl(const std::string&) {}
  at::Tensor forward(const at::Tensor& logits) { return logits; }
};
TORCH_MODULE(MyEmbedding);

htl::TaskGraph<htl::Tower, MyEmbedding> graph{nullptr};
