// SPDX-License-Identifier: Apache-2.0
// What a training step of each model of examples/models costs beside an equal one that is written by hand of LibTorch's modules and operators: the same table
// and optimizers, 43 fields of KuaiRand's shape, a click, a long view and a watch time, the plain sum. A pair whose dense parameters are not as many is an
// error. Interleave for fair ratios: --benchmark_enable_random_interleaving=true --benchmark_repetitions=9.
#include "by_hand.hpp"
#include "side_by_side/workload.hpp"

#include <examples/models/models.hpp>

#include <htl/loss/hybrid_loss.hpp>
#include <htl/optim/dense_parameters.hpp>
#include <htl/optim/fused_adam.hpp>
#include <htl/optim/row_adagrad.hpp>

#include <benchmark/benchmark.h>
#include <torch/torch.h>

namespace {

using by_hand::Tensor;
using by_hand::Tensors;
using by_hand::Widths;

constexpr int64_t width = 430;

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
  std::shared_ptr<by_hand::Trunk> trunk;
  std::shared_ptr<by_hand::Top> top;
  Losses losses = plain;
};
std::shared_ptr<Plain> plain_net(const std::string& model, const htl::FieldEmbeddingOptions& fields) {
  const auto net = std::make_shared<Plain>();
  const bool is_transfer = model.starts_with("htlnet");
  const auto has = [&](const char* part) { return model.find(part) != std::string::npos; };
  net->trunk = std::make_shared<by_hand::Nothing>();
  if (has("shared_bottom") || has("dbmtl")) net->trunk = std::make_shared<by_hand::Bottom>(width);
  if (has("mmoe")) net->trunk = std::make_shared<by_hand::Mixture>(width, 4);
  if (has("ple") || has("adatt")) net->trunk = std::make_shared<by_hand::Levels>(width, has("adatt"), has("adatt") ? 2 : 1);
  if (has("cross_stitch")) net->trunk = std::make_shared<by_hand::Stitch>(width);
  const bool has_trunk = !std::dynamic_pointer_cast<by_hand::Nothing>(net->trunk);
  const int64_t input = has_trunk ? 64 : width;
  const Widths hidden = has_trunk ? Widths{64, 32} : Widths{128, 64, 32};
  if (is_transfer) net->top = std::make_shared<by_hand::Transfer>(input, hidden);
  if (has("aitm")) net->top = std::make_shared<by_hand::Attending>(width, /*chain=*/false);
  if (has("dbmtl")) net->top = std::make_shared<by_hand::Relations>(64, /*chain=*/false);
  if (!net->top) net->top = std::make_shared<by_hand::Towers>(input, hidden, Widths{1, has("escm2") ? 2 : 1, 1});
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
  if (dense_numbers(*net) != dense_numbers(*plain_net(model, work.fields()))) return state.SkipWithError("the models are not of one size");
  const htl::HybridLoss loss(tasks);
  steps(state, *net, work, [&](const htl::Batch& batch) { net->backward(loss(net->forward(batch), batch.labels)); });
}

void by_hand_steps(benchmark::State& state, const std::string& model) {
  const Workload work(state.range(0));
  const std::shared_ptr<Plain> net = plain_net(model, work.fields());
  const htl::AnyLabelTransform z_score = work.tasks["watch_time"].transform();
  steps(state, *net, work, [&](const htl::Batch& batch) {
    const Tensors labels{batch.labels["click"].value, batch.labels["long_view"].value, z_score.apply(batch.labels["watch_time"].value)};
    net->losses(net->top->forward(net->trunk->forward(net->embedding->forward(batch))), labels).backward();
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
