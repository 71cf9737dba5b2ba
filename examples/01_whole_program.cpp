// SPDX-License-Identifier: Apache-2.0
// A whole program: tasks, a model from the blocks, one backward a step, predictions in the label's unit. The second run loads what the first one saved.
// run: train
// run: predict
#include <htl/data/batch_loader.hpp>
#include <htl/htl.hpp>
#include <htl/io/module_state.hpp>
#include <htlnet/data/synthetic_dataset.hpp>

#include <torch/torch.h>

#include <cstdio>
#include <string>

// [model]
struct NetImpl : torch::nn::Module {  // an ordinary LibTorch module
  NetImpl(const htl::FeatureMap& features, const htl::TaskSet& tasks)
      : embedding(register_module("embedding", htl::FieldEmbedding(features, /*dim=*/10))),
        fork(register_module("fork", htl::GradientFork<htl::CoreTask>(tasks))),
        graph(register_module("graph", htl::TaskGraph<>(tasks, htl::TaskGraphOptions(embedding->width()).tower({128, 64, 32})))) {}
  htl::TaskOutputs forward(const htl::Batch& batch) {
    return graph->forward(fork->split(embedding->lookup(batch)));  // one view a task; the identity under no-grad
  }
  htl::FieldEmbedding embedding{nullptr};
  htl::GradientFork<htl::CoreTask> fork{nullptr};
  htl::TaskGraph<> graph{nullptr};  // template parameters replace tower, label embedding, fusion
};
TORCH_MODULE(Net);
// [model]

int main(int argc, char** argv) {
  torch::manual_seed(1);
  const htlnet::Dataset data = htlnet::synthetic_dataset({.scenario = htlnet::Scenario::video, .rows = 40'000, .seed = 1});
  // [tasks]
  const auto tasks = htl::TaskSet{htl::binary("click"), htl::binary("long_view").after("click"),
                                  htl::regression("watch_time").after("click", "long_view").core().transform(htl::z_score())}
                         .fitted(data.train.labels());  // a new value: the transforms carry their statistics
  // [tasks]

  Net net(data.features, tasks);
  if (std::string(argc > 1 ? argv[1] : "train") == "train") {
    // [training]
    htl::HybridLoss loss(tasks);
    htl::RowAdagrad rows(net->embedding, {.lr = 0.05});
    torch::optim::AdamW dense(htl::dense_parameters(*net), 1e-3);
    htl::BatchLoader train(data.train, {.batch_size = 512, .seed = 1});
    for (int epoch = 0; epoch < 3; ++epoch)
      for (const htl::Batch& batch : train) {
        dense.zero_grad();
        const auto losses = loss(net(batch), batch.labels);  // one scalar a task: masks, weights, transforms
        htl::backward(losses, net->fork);                    // looks at who reaches what, then one backward
        rows.step();
        dense.step();
      }
    // [training]
  } else {
    htl::load_module("net.safetensors", *net);
  }

  // [prediction]
  net->eval();
  torch::NoGradGuard no_grad;
  const htl::Batch& test = data.test.all();
  const htl::Predictions predictions = tasks.predict(net(test));  // predictions["watch_time"] in seconds
  // [prediction]
  htl::TaskMetrics metrics(tasks);
  metrics.add(predictions, test.labels);
  const auto values = metrics.values();
  std::printf("click AUC %s 0.6, watch time NRMSE %s 1\n", values["click"]["auc"] > 0.6 ? "above" : "below",
              values["watch_time"]["nrmse"] < 1.0 ? "below" : "above");
  if (std::string(argc > 1 ? argv[1] : "train") == "train") {
    htl::save_module("net.safetensors", *net);
    htl::save_safetensors("predictions.safetensors", {predictions, {}});
  } else {
    bool same = true;
    for (const auto& [name, value] : htl::load_safetensors("predictions.safetensors").tensors) same = same && torch::equal(value, predictions[name]);
    std::printf("the loaded weights predict %s\n", same ? "the same" : "something else");
  }
  return 0;
}
