// SPDX-License-Identifier: Apache-2.0
// One user against N candidates on one thread, HTLNet over 43 fields of which 31 are the user's: op by op with LibTorch's functions, our modules, and Ranker,
// all under inference mode with the same weights. Each first compares its predictions with the modules' in fp64: beyond 1e-5 it stops with an error.
// Interleave for fair ratios: --benchmark_enable_random_interleaving=true --benchmark_repetitions=9.
#include <htl/embedding/field_embedding.hpp>
#include <htl/serve/ranker.hpp>
#include <htl/transfer/task_graph.hpp>

#include <ATen/Parallel.h>
#include <benchmark/benchmark.h>
#include <torch/torch.h>

namespace {

constexpr int64_t dim = 10, shared_count = 31, field_count = 43, label_dim = 10, rep = 128;

struct Model {
  explicit Model(int64_t rows)
      : tasks{htl::binary("click"), htl::binary("long_view"), htl::regression("watch_time").transform(htl::ZScoreTransform{12.0, 20.0}).core()} {
    torch::manual_seed(1);
    for (int64_t f = 0; f < field_count; ++f) {
      sizes.push_back(f == 0 || f == shared_count ? rows / 2 : 10 + 7 * f);  // a user and an item, and what is known of them
      names.push_back(std::to_string(f));
    }
    embedding = htl::FieldEmbedding(htl::FieldEmbeddingOptions(sizes, dim).names(names).initial_sd(0.3));
    graph = htl::TaskGraph<>(tasks, htl::TaskGraphOptions(field_count * dim));
    graph->eval();
  }
  htl::TaskSet tasks;
  std::vector<int64_t> sizes;
  std::vector<std::string> names;
  htl::FieldEmbedding embedding{nullptr};
  htl::TaskGraph<> graph{nullptr};
};

at::Tensor random_ids(const Model& model, int64_t rows, int64_t first, int64_t last) {
  std::vector<at::Tensor> columns;
  for (int64_t f = first; f < last; ++f) columns.push_back(torch::randint(model.sizes[static_cast<size_t>(f)], {rows}, torch::kInt));
  return torch::stack(columns, 1);
}

/// The network as a user of LibTorch writes it, over the modules' weights: an embedding a field, torch::cat, torch::linear, one function after the other.
class OpByOp {
 public:
  explicit OpByOp(const Model& model) {
    int64_t row = 0;
    for (const int64_t size : model.sizes) {
      tables_.push_back(model.embedding->weight.detach().narrow(0, row, size));
      row += size;
    }
    for (const auto& parameter : model.graph->named_parameters()) weights_.emplace(parameter.key(), parameter.value().detach());
    for (const char* task : {"click", "long_view"}) labels_.push_back(weights_.at("label_embeddings." + std::string(task) + ".weight"));
  }
  htl::Predictions operator()(const at::Tensor& ids) const {
    std::vector<at::Tensor> looked_up;
    for (int64_t f = 0; f < field_count; ++f) looked_up.push_back(torch::embedding(tables_[static_cast<size_t>(f)], ids.select(1, f)));
    const at::Tensor view = torch::cat(looked_up, 1);
    std::vector<at::Tensor> representations, labels;
    htl::Predictions predictions;
    for (const std::string task : {"click", "long_view", "watch_time"}) {
      at::Tensor x = view;
      if (!representations.empty())
        x = torch::cat({view, fuse("fusions." + task + ".representation", representations), fuse("fusions." + task + ".label", labels)}, 1);
      for (int l = 0; l < 3; ++l) {
        x = torch::relu(linear("towers." + task + ".layers." + std::to_string(l), x));
        if (l == 0) representations.push_back(x);
      }
      const at::Tensor logit = linear("towers." + task + ".output", x);
      predictions.set(task, task == "watch_time" ? logit.squeeze(1) * 20.0 + 12.0 : logit.squeeze(1).sigmoid());
      if (task == "watch_time") break;
      const at::Tensor u = torch::exp(-logit), q = (1 - u - logit * u) / (1 - u).square();  // the mean of σ(logit + logistic noise)
      labels.push_back(torch::cat({q, 1 - q}, 1).matmul(labels_[labels.size()]));
    }
    return predictions;
  }

 private:
  at::Tensor linear(const std::string& name, const at::Tensor& x) const { return torch::linear(x, weights_.at(name + ".weight"), weights_.at(name + ".bias")); }
  at::Tensor fuse(const std::string& unit, const std::vector<at::Tensor>& sources) const {
    if (sources.size() == 1) return linear(unit + ".value", sources[0]);
    const at::Tensor u = torch::stack(sources, 1);
    const at::Tensor scores = (linear(unit + ".query", u) * linear(unit + ".key", u)).sum(2) / std::sqrt(static_cast<double>(u.size(2)));
    return (scores.softmax(1).unsqueeze(2) * linear(unit + ".value", u)).sum(1);
  }
  std::vector<at::Tensor> tables_, labels_;
  std::map<std::string, at::Tensor> weights_;
};

const Model& model_of(int64_t rows) {
  static std::map<int64_t, Model> models;
  return models.try_emplace(rows, rows).first->second;
}

/// @param predict (user [1, 31], candidates [N, 12]) → predictions
template <class Predict>
void rank(benchmark::State& state, const Predict& predict) {
  const int64_t candidates = state.range(0), requests = 64;
  const Model& model = model_of(state.range(1));
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  const c10::InferenceMode inference;
  std::vector<at::Tensor> users, items;
  for (int64_t r = 0; r < requests; ++r) {
    users.push_back(random_ids(model, 1, 0, shared_count));
    items.push_back(random_ids(model, candidates, shared_count, field_count));
  }
  htl::TaskGraph<> exact(std::static_pointer_cast<htl::TaskGraphImpl<>>(model.graph->clone()));
  exact->to(torch::kDouble);
  exact->eval();
  htl::FieldEmbedding table = model.embedding;
  const at::Tensor ids = torch::cat({users[0].expand({candidates, shared_count}), items[0]}, 1);
  const htl::Predictions expected = model.tasks.predict(exact->forward(table->lookup(htl::FieldBatch::of(ids)).values().to(torch::kDouble)));
  const htl::Predictions found = predict(model, users[0], items[0]);
  for (const auto& [name, value] : expected) {
    const double worst = (found[name] - value).abs().div(value.abs().clamp_min(1.0)).max().template item<double>();
    if (!(worst <= 1e-5)) state.SkipWithError(("predictions of " + name + " differ by " + std::to_string(worst)).c_str());
  }
  size_t r = 0;
  for (auto _ : state) {
    benchmark::DoNotOptimize(predict(model, users[r], items[r]));
    r = (r + 1) % static_cast<size_t>(requests);
  }
  state.SetItemsProcessed(state.iterations() * candidates);
  at::set_num_threads(threads);
}

at::Tensor joined(const at::Tensor& user, const at::Tensor& items) { return torch::cat({user.expand({items.size(0), shared_count}), items}, 1); }

void BM_op_by_op(benchmark::State& state) {
  const OpByOp net(model_of(state.range(1)));
  rank(state, [&](const Model&, const at::Tensor& user, const at::Tensor& items) { return net(joined(user, items)); });
}
void BM_modules(benchmark::State& state) {
  htl::FieldEmbedding embedding = model_of(state.range(1)).embedding;
  htl::TaskGraph<> graph = model_of(state.range(1)).graph;
  rank(state, [&](const Model& model, const at::Tensor& user, const at::Tensor& items) {
    return model.tasks.predict(graph->forward(embedding->lookup(htl::FieldBatch::of(joined(user, items))).values()));
  });
}
void BM_ranker(benchmark::State& state) {
  const Model& model = model_of(state.range(1));
  const htl::Ranker ranker(model.embedding, model.graph,
                           htl::RankerOptions().shared_fields(std::vector<std::string>(model.names.begin(), model.names.begin() + shared_count)));
  htl::RankerBuffers buffers;
  rank(state, [&](const Model&, const at::Tensor& user, const at::Tensor& items) -> const htl::Predictions& {
    return ranker.rank({.shared = htl::FieldBatch::of(user), .candidates = htl::FieldBatch::of(items)}, buffers);
  });
}

// N candidates, rows of the table
BENCHMARK(BM_op_by_op)->ArgsProduct({{1, 100, 500, 1000}, {36000}})->Args({500, 4000000})->Unit(benchmark::kMicrosecond);
BENCHMARK(BM_modules)->ArgsProduct({{1, 100, 500, 1000}, {36000}})->Args({500, 4000000})->Unit(benchmark::kMicrosecond);
BENCHMARK(BM_ranker)->ArgsProduct({{1, 100, 500, 1000}, {36000}})->Args({500, 4000000})->Unit(benchmark::kMicrosecond);

}  // namespace
