// SPDX-License-Identifier: Apache-2.0
// What a training step of each model of examples/models costs beside an equal one that is written by hand of LibTorch's modules and operators: the same table
// and optimizers, 43 fields of KuaiRand's shape, a click, a long view and a watch time, the plain sum. A pair whose dense parameters are not as many is an
// error. Interleave for fair ratios: --benchmark_enable_random_interleaving=true --benchmark_repetitions=9.
#include "side_by_side/workload.hpp"

#include <examples/models/models.hpp>

#include <htl/loss/hybrid_loss.hpp>
#include <htl/optim/dense_parameters.hpp>
#include <htl/optim/fused_adam.hpp>
#include <htl/optim/row_adagrad.hpp>

#include <benchmark/benchmark.h>
#include <torch/torch.h>

namespace {

using at::Tensor;
using torch::nn::Linear;
using Tensors = std::vector<Tensor>;
using Widths = std::vector<int64_t>;

constexpr int64_t width = 430, count = 3;

/// Linear layers with ReLU, as a user writes them.
struct Layers : torch::nn::Module {
  std::vector<Linear> all;
  Layers(int64_t input, const Widths& hidden) {
    for (const int64_t outputs : hidden) {
      all.push_back(register_module(std::to_string(all.size()), Linear(input, outputs)));
      input = outputs;
    }
  }
  Tensor operator()(Tensor x) {
    for (Linear& layer : all) x = torch::relu(layer(x));
    return x;
  }
};

/// What stands above a representation a task.
struct Top : torch::nn::Module {
  virtual Tensors operator()(const Tensors& views) = 0;
  std::shared_ptr<Layers> layers(const std::string& name, int64_t input, const Widths& hidden) {
    return register_module(name, std::make_shared<Layers>(input, hidden));
  }
};

/// Towers that know nothing of each other.
struct Towers final : Top {
  std::vector<std::shared_ptr<Layers>> hidden;
  std::vector<Linear> outputs;
  Towers(int64_t input, const Widths& widths, const Widths& output_widths = {1, 1, 1}) {
    for (size_t t = 0; t < count; ++t) {
      hidden.push_back(layers("tower" + std::to_string(t), input, widths));
      outputs.push_back(register_module("output" + std::to_string(t), Linear(widths.back(), output_widths[t])));
    }
  }
  Tensors operator()(const Tensors& views) override {
    Tensors out;
    for (size_t t = 0; t < count; ++t) out.push_back(outputs[t]((*hidden[t])(views[t])));
    return out;
  }
};

/// HTLNet's transfer along click → long view → watch time, with cuts as the library has them.
struct Transfer final : Top {
  static constexpr int64_t dim = 10;
  std::vector<std::vector<Linear>> towers;
  Tensors tables;
  std::vector<Linear> of_rep, of_label;
  std::vector<Linear> scores;  // query and key of representations, then of labels
  Transfer(int64_t input, const Widths& hidden) {
    const int64_t rep = hidden.front();
    const auto linear = [&](const std::string& name, int64_t in, int64_t out) { return register_module(name, Linear(in, out)); };
    for (int t = 0; t < 3; ++t) {
      const std::string name = std::to_string(t);
      Widths widths{input + (t > 0 ? rep + dim : 0)};
      widths.insert(widths.end(), hidden.begin(), hidden.end());
      widths.push_back(1);
      towers.emplace_back();
      for (size_t l = 0; l + 1 < widths.size(); ++l) towers.back().push_back(linear("tower" + name + "_" + std::to_string(l), widths[l], widths[l + 1]));
      if (t == 2) break;
      tables.push_back(register_parameter("table" + name, torch::randn({2, dim})));
      of_rep.push_back(linear("of_rep" + name, rep, rep));
      of_label.push_back(linear("of_label" + name, dim, dim));
    }
    for (const auto& [name, size] : {std::pair{"rep", rep}, {"label", dim}})
      for (const char* part : {"_query", "_key"}) scores.push_back(linear(std::string(name) + part, size, size));
  }
  static Tensor fuse(const Tensors& u, Linear& query, Linear& key, Linear& value) {
    if (u.size() == 1) return value(u[0]);
    const Tensor items = torch::stack(u, 1);
    const Tensor weights = ((query(items) * key(items)).sum(2) / std::sqrt(static_cast<double>(items.size(2)))).softmax(1);
    return (weights.unsqueeze(2) * value(items)).sum(1);
  }
  Tensors operator()(const Tensors& views) override {
    Tensors outputs, reps, labels;
    for (size_t t = 0; t < count; ++t) {
      Tensor x = views[t];
      if (t > 0) x = torch::cat({x, fuse(reps, scores[0], scores[1], of_rep[t - 1]), fuse(labels, scores[2], scores[3], of_label[t - 1])}, 1);
      for (size_t l = 0; l + 1 < towers[t].size(); ++l) {
        x = torch::relu(towers[t][l](x));
        if (l == 0) reps.push_back(x.detach());
      }
      outputs.push_back(towers[t].back()(x));
      if (t == 2) break;
      const Tensor u = torch::rand_like(outputs[t]).clamp_(1e-7, 1 - 1e-7), q = torch::sigmoid(outputs[t].detach() + u.log() - (1 - u).log());
      labels.push_back(q * tables[t][0] + (1 - q) * tables[t][1]);
    }
    return outputs;
  }
};

/// AITM: each task attends to what all before it hand over.
struct Attending final : Top {
  std::vector<std::shared_ptr<Layers>> towers;
  std::vector<std::vector<std::shared_ptr<Layers>>> transfers;
  std::vector<std::vector<Linear>> maps;
  std::vector<Linear> outputs;
  Attending() {
    for (size_t t = 0; t < count; ++t) {
      const std::string name = std::to_string(t);
      towers.push_back(layers("tower" + name, width, {128, 64, 32}));
      outputs.push_back(register_module("output" + name, Linear(32, 1)));
      transfers.emplace_back();
      maps.emplace_back();
      for (size_t u = 0; u < t; ++u) transfers[t].push_back(layers("transfer" + std::to_string(u) + name, 32, {32}));
      for (const char* part : {"query", "key", "value"})
        if (t > 0) maps[t].push_back(register_module(part + name, Linear(torch::nn::LinearOptions(32, 32).bias(false))));
    }
  }
  Tensors operator()(const Tensors& views) override {
    Tensors out, known;
    for (size_t t = 0; t < count; ++t) {
      Tensors items{(*towers[t])(views[t])};
      for (size_t u = 0; u < t; ++u) items.push_back((*transfers[t][u])(known[u]));
      Tensor z = items[0];
      if (t > 0) {
        const Tensor stacked = torch::stack(items, 1);
        const Tensor weights = ((maps[t][0](stacked) * maps[t][1](stacked)).sum(2) / std::sqrt(32.0)).softmax(1);
        z = (weights.unsqueeze(2) * maps[t][2](stacked)).sum(1);
      }
      out.push_back(outputs[t](z));
      known.push_back(z);
    }
    return out;
  }
};

/// DBMTL above a bottom.
struct Relations final : Top {
  std::vector<std::shared_ptr<Layers>> networks, relations;
  std::vector<Linear> outputs;
  Relations() {
    for (size_t t = 0; t < count; ++t) {
      const std::string name = std::to_string(t);
      networks.push_back(layers("task" + name, 64, {64}));
      relations.push_back(layers("relation" + name, 64 + 32 * static_cast<int64_t>(t), {32}));
      outputs.push_back(register_module("output" + name, Linear(32, 1)));
    }
  }
  Tensors operator()(const Tensors& views) override {
    Tensors out, known;
    for (size_t t = 0; t < count; ++t) {
      Tensors parts{(*networks[t])(views[t])};
      parts.insert(parts.end(), known.begin(), known.end());
      known.push_back((*relations[t])(parts.size() == 1 ? parts[0] : torch::cat(parts, 1)));
      out.push_back(outputs[t](known.back()));
    }
    return out;
  }
};

/// What stands between the embeddings and the towers: a representation a task.
struct Trunk : torch::nn::Module {
  virtual Tensors operator()(const Tensor& x) = 0;
  std::shared_ptr<Layers> layers(const std::string& name, int64_t input, const Widths& hidden) {
    return register_module(name, std::make_shared<Layers>(input, hidden));
  }
  Linear gate(const std::string& name, int64_t input, int64_t experts) {
    return register_module(name, Linear(torch::nn::LinearOptions(input, experts).bias(false)));
  }
};
struct Nothing final : Trunk {
  Tensors operator()(const Tensor& x) override { return Tensors(count, x); }
};
struct Bottom final : Trunk {
  std::shared_ptr<Layers> shared = layers("shared", width, {128, 64});
  Tensors operator()(const Tensor& x) override { return Tensors(count, (*shared)(x)); }
};
struct Mixture final : Trunk {
  std::vector<std::shared_ptr<Layers>> experts;
  std::vector<Linear> gates;
  Mixture() {
    for (int e = 0; e < 4; ++e) experts.push_back(layers("expert" + std::to_string(e), width, {128, 64}));
    for (size_t t = 0; t < count; ++t) gates.push_back(gate("gate" + std::to_string(t), width, 4));
  }
  Tensors operator()(const Tensor& x) override {
    Tensors outputs, weights;
    for (const auto& expert : experts) outputs.push_back((*expert)(x));
    for (Linear& one : gates) weights.push_back(one(x).softmax(1));
    return torch::bmm(torch::stack(weights, 1), torch::stack(outputs, 1)).unbind(1);
  }
};
/// PLE of one expert a task and a shared one, or AdaTT of two experts a task.
struct Levels final : Trunk {
  bool is_adatt;
  std::vector<std::vector<std::vector<std::shared_ptr<Layers>>>> experts;  // [level][stream][expert]
  std::vector<std::vector<Linear>> gates;
  std::vector<Tensors> residuals;
  explicit Levels(bool adatt) : is_adatt(adatt) {
    int64_t input = width;
    const size_t each = is_adatt ? 2 : 1;
    for (const int64_t output : {128, 64}) {
      const std::string level = std::to_string(experts.size());
      experts.emplace_back();
      gates.emplace_back();
      residuals.emplace_back();
      for (size_t s = 0; s < count + (is_adatt ? 0 : 1); ++s) {
        const std::string name = level + "_" + std::to_string(s);
        experts.back().emplace_back();
        for (size_t e = 0; e < each; ++e) experts.back().back().push_back(layers("expert" + name + std::to_string(e), input, {output}));
        if (is_adatt) residuals.back().push_back(register_parameter("residual" + name, torch::rand({2, 1})));
        if (is_adatt || s < count || output == 128) gates.back().push_back(gate("gate" + name, input, is_adatt ? 6 : s < count ? 2 : 4));
      }
      input = output;
    }
  }
  Tensors operator()(const Tensor& x) override {
    Tensors streams(count + 1, x);
    for (size_t l = 0; l < experts.size(); ++l) {
      std::vector<Tensors> out;
      Tensors all, next;
      for (size_t s = 0; s < experts[l].size(); ++s) {
        out.emplace_back();
        for (const auto& expert : experts[l][s]) out[s].push_back((*expert)(streams[s]));
        all.insert(all.end(), out[s].begin(), out[s].end());
      }
      for (size_t s = 0; s < gates[l].size(); ++s) {
        Tensors read = all;
        if (!is_adatt && s < count) {
          read = out[s];
          read.insert(read.end(), out[count].begin(), out[count].end());
        }
        next.push_back(torch::bmm(gates[l][s](streams[s]).softmax(1).unsqueeze(1), torch::stack(read, 1)).squeeze(1));
        if (is_adatt) next[s] = next[s] + (torch::stack(out[s], 1) * residuals[l][s]).sum(1);
      }
      next.resize(count + 1);
      streams = next;
    }
    streams.pop_back();
    return streams;
  }
};
struct Stitch final : Trunk {
  std::vector<std::vector<std::shared_ptr<Layers>>> all;
  Tensors stitches;
  Stitch() {
    int64_t input = width;
    for (const int64_t output : {128, 64}) {
      const std::string level = std::to_string(all.size());
      all.emplace_back();
      for (size_t t = 0; t < count; ++t) all.back().push_back(layers("layer" + level + std::to_string(t), input, {output}));
      stitches.push_back(register_parameter("stitch" + level, torch::rand({count, count})));
      input = output;
    }
  }
  Tensors operator()(const Tensor& x) override {
    Tensors streams(count, x);
    for (size_t l = 0; l < all.size(); ++l) {
      Tensors hidden;
      for (size_t t = 0; t < count; ++t) hidden.push_back((*all[l][t])(streams[t]));
      streams = torch::matmul(stitches[l], torch::stack(hidden, 1)).unbind(1);
    }
    return streams;
  }
};

/// The losses of a step, of outputs and the labels click, long view and z-scored watch time.
using Losses = std::function<Tensor(const Tensors&, const Tensors&)>;
Tensor log_loss(const Tensor& output, const Tensor& label) { return torch::binary_cross_entropy_with_logits(output.squeeze(1), label); }
Tensor plain(const Tensors& x, const Tensors& y) { return log_loss(x[0], y[0]) + log_loss(x[1], y[1]) + torch::mse_loss(x[2].squeeze(1), y[2]); }
Tensor of_product(const Tensor& first, const Tensor& second, const Tensor& label) {
  return torch::binary_cross_entropy((first.sigmoid() * second.sigmoid()).clamp(1e-7, 1 - 1e-7), label);
}
Tensor entire_space(const Tensors& x, const Tensors& y) {
  return log_loss(x[0], y[0]) + of_product(x[0].squeeze(1), x[1].squeeze(1), y[1]) + torch::mse_loss(x[2].squeeze(1), y[2]);
}
Tensor doubly_robust(const Tensors& x, const Tensors& y) {
  const Tensor click = x[0].squeeze(1), view = x[1].select(1, 0), imputed = torch::nn::functional::softplus(x[1].select(1, 1));
  const Tensor weight = y[0] * click.detach().sigmoid().clamp_min(1e-6).reciprocal().clamp_max(15),
               error = torch::binary_cross_entropy_with_logits(view, y[1], {}, {}, at::Reduction::None);
  const Tensor off = error - imputed, risk = (imputed + weight * off + weight * off.square()).mean();
  return log_loss(x[0], y[0]) + of_product(click, view, y[1]) + 0.01 * risk + torch::mse_loss(x[2].squeeze(1), y[2]);
}
Tensor in_order(const Tensors& x, const Tensors& y) { return plain(x, y) + 0.6 * (x[1].sigmoid() - x[0].sigmoid()).relu().mean(); }

struct Plain : torch::nn::Module {
  htl::FieldEmbedding embedding{nullptr};
  std::shared_ptr<Trunk> trunk;
  std::shared_ptr<Top> top;
  Losses losses = plain;
};
std::shared_ptr<Plain> by_hand(const std::string& model, const htl::FieldEmbeddingOptions& fields) {
  const auto net = std::make_shared<Plain>();
  const bool is_transfer = model.starts_with("htlnet");
  const auto has = [&](const char* part) { return model.find(part) != std::string::npos; };
  net->trunk = std::make_shared<Nothing>();
  if (has("shared_bottom") || has("dbmtl")) net->trunk = std::make_shared<Bottom>();
  if (has("mmoe")) net->trunk = std::make_shared<Mixture>();
  if (has("ple") || has("adatt")) net->trunk = std::make_shared<Levels>(has("adatt"));
  if (has("cross_stitch")) net->trunk = std::make_shared<Stitch>();
  const bool has_trunk = !std::dynamic_pointer_cast<Nothing>(net->trunk);
  const int64_t input = has_trunk ? 64 : width;
  const Widths hidden = has_trunk ? Widths{64, 32} : Widths{128, 64, 32};
  if (is_transfer) net->top = std::make_shared<Transfer>(input, hidden);
  if (has("aitm")) net->top = std::make_shared<Attending>();
  if (has("dbmtl")) net->top = std::make_shared<Relations>();
  if (!net->top) net->top = std::make_shared<Towers>(input, hidden, Widths{1, has("escm2") ? 2 : 1, 1});
  if (has("esmm")) net->losses = entire_space;
  if (has("escm2")) net->losses = doubly_robust;
  if (has("aitm")) net->losses = in_order;
  net->embedding = net->register_module("embedding", htl::FieldEmbedding(fields));
  net->register_module("trunk", net->trunk);
  net->register_module("top", net->top);
  return net;
}

int64_t dense_numbers(const torch::nn::Module& net) {
  int64_t numbers = 0;
  for (const Tensor& parameter : htl::dense_parameters(net)) numbers += parameter.numel();
  return numbers;
}

/// Batches in memory, and the tasks fitted to them.
struct Workload {
  side_by_side::Vocabulary vocabulary = side_by_side::kuairand_shape(36'000);
  std::vector<htl::Batch> batches;
  htl::TaskSet tasks;
  explicit Workload(int64_t rows) : tasks({htl::binary("click"), htl::binary("long_view"), htl::regression("watch_time").core().transform(htl::z_score())}) {
    torch::manual_seed(1);
    const htl::TableData all = side_by_side::random_rows(vocabulary, 8 * rows);
    tasks = tasks.fitted(all.labels());
    for (int64_t b = 0; b < 8; ++b) batches.push_back(all.slice(b * rows, (b + 1) * rows).all());
  }
  htl::FieldEmbeddingOptions fields() const { return {vocabulary, 10}; }
};

/// Steps of a net over the batches: `losses` is its forward.
template <class Net>
void steps(benchmark::State& state, Net& net, const Workload& work, const std::function<void(const htl::Batch&)>& differentiate) {
  htl::RowAdagrad rows{htl::RowTables(net)};
  htl::FusedAdam dense(htl::dense_parameters(net));
  size_t next = 0;
  for (auto _ : state) {
    dense.zero_grad();
    differentiate(work.batches[next++ % work.batches.size()]);
    rows.step();
    dense.step();
  }
  state.counters["samples/s"] = benchmark::Counter(static_cast<double>(state.range(0)), benchmark::Counter::kIsIterationInvariantRate);
}

void ours(benchmark::State& state, const std::string& model) {
  const Workload work(state.range(0));
  const models::NamedModel named = models::all_models()[model];
  const htl::TaskSet tasks = named.tasks(work.tasks);
  const std::shared_ptr<models::Model> net = named.make({tasks, work.fields()});
  if (dense_numbers(*net) != dense_numbers(*by_hand(model, work.fields()))) return state.SkipWithError("the models are not of one size");
  const htl::HybridLoss loss(tasks);
  steps(state, *net, work, [&](const htl::Batch& batch) { net->backward(loss(net->forward(batch), batch.labels)); });
}

void by_hand_steps(benchmark::State& state, const std::string& model) {
  const Workload work(state.range(0));
  const std::shared_ptr<Plain> net = by_hand(model, work.fields());
  const htl::AnyLabelTransform z_score = work.tasks["watch_time"].transform();
  steps(state, *net, work, [&](const htl::Batch& batch) {
    const Tensors labels{batch.labels["click"].value, batch.labels["long_view"].value, z_score.apply(batch.labels["watch_time"].value)};
    net->losses((*net->top)((*net->trunk)(net->embedding->forward(batch))), labels).backward();
  });
}

const bool registered = [] {
  for (const std::string& model : models::all_models().names())
    for (const bool is_ours : {true, false})
      benchmark::RegisterBenchmark((model + (is_ours ? "_ours" : "_by_hand")).c_str(), is_ours ? ours : by_hand_steps, model)
          ->ArgName("rows")
          ->Arg(1024)
          ->Arg(4096)
          ->Unit(benchmark::kMicrosecond)
          ->UseRealTime();
  return true;
}();

}  // namespace
