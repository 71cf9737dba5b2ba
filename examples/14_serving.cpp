// SPDX-License-Identifier: Apache-2.0
// Serving: one user against many candidates, by several threads, over a table that stays in its file, with weights that are checked and swapped under traffic.
#include <htl/embedding/field_embedding.hpp>
#include <htl/io/mapped_safetensors.hpp>
#include <htl/io/module_state.hpp>
#include <htl/serve/live_ranker.hpp>
#include <htl/transfer/task_graph.hpp>

#include <torch/torch.h>

#include <cstdio>
#include <string>
#include <thread>
#include <vector>

struct Features {  // anything with names() and sizes(), a htl::FeatureMap for one
  std::vector<std::string> names() const { return {"user", "hour", "item", "topic"}; }
  std::vector<int64_t> sizes() const { return {1000, 24, 5000, 40}; }
};

struct NetImpl : torch::nn::Module {
  htl::FieldEmbedding embedding{register_module("embedding", htl::FieldEmbedding(htl::FieldEmbeddingOptions(Features(), 8).initial_sd(0.5)))};
  htl::TaskGraph<> graph{register_module("graph", make_graph())};
  static htl::TaskGraph<> make_graph() { return {{htl::binary("click"), htl::regression("watch_time").core()}, htl::TaskGraphOptions(32).tower({32, 16})}; }
};
TORCH_MODULE(Net);

/// One user at one hour, and n items.
htl::RankRequest request(int64_t n) {
  const at::Tensor user = torch::tensor({7, 21}).view({1, 2}), items = torch::stack({torch::arange(n) * 31 % 5000, torch::arange(n) % 40}, 1);
  return {.shared = htl::FieldBatch::of(user), .candidates = htl::FieldBatch::of(items)};
}

/// What a training leaves behind: weights, and golden requests with the predictions of the model itself.
void save_model(int seed, const std::string& name) {
  torch::manual_seed(seed);
  Net net;
  net->eval();
  htl::save_module(name + ".safetensors", net);
  const htl::RankRequest golden = request(20);
  const at::Tensor rows = torch::cat({golden.shared.ids.expand({20, 2}), golden.candidates.ids}, 1);
  htl::GoldenRequests requests;
  requests.add(golden, net->graph->tasks().predict(net->graph->forward(net->embedding->forward({htl::FieldBatch::of(rows)}))));
  htl::save_safetensors(name + ".golden.safetensors", {requests.tensors(), {}});
}

// [load]
std::shared_ptr<const htl::Ranker> load_ranker(const std::string& name) {
  const htl::TensorFile file = htl::map_safetensors(name + ".safetensors");  // the table stays in the file
  htl::TaskGraph<> graph = NetImpl::make_graph();
  htl::load_module_state(*graph, htl::child_state(file.tensors, "graph"));
  return std::make_shared<htl::Ranker>(htl::RankerTable(file.tensors["embedding.weight"], Features()), graph,
                                       htl::RankerOptions().shared_fields({"user", "hour"}));
}
// [load]

int main() {
  save_model(1, "monday");
  save_model(2, "tuesday");
  // [serve]
  const auto golden = [](const std::string& name) { return htl::GoldenRequests(htl::load_safetensors(name + ".golden.safetensors").tensors); };
  htl::LiveRanker live(load_ranker("monday"), golden("monday"));
  const auto serve = [&live] {
    htl::RankerBuffers buffers;  // one a thread
    int64_t best = 0;
    for (int i = 0; i < 20; ++i) best = live.rank(request(500), buffers)["watch_time"].argmax().item<int64_t>();
    return best;
  };
  std::thread other(serve);
  live.swap(load_ranker("tuesday"), golden("tuesday"));  // requests that have begun are answered by monday's
  other.join();
  std::printf("the best of 500 items is number %d\n", static_cast<int>(serve()));
  // [serve]
  try {
    live.swap(load_ranker("monday"), golden("tuesday"));
  } catch (const c10::Error& error) {
    std::printf("refused, and tuesday's weights still serve: number %d\n", static_cast<int>(serve()));
  }
}
