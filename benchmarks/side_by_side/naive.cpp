// SPDX-License-Identifier: Apache-2.0
// The straightforward trainer of naive.py in C++: plain torch modules, one backward of the sum and one more for each task, dense shared gradients,
// dense Adam. Prints one JSON line.
//   naive --rows 36000 --batch 1024 --steps 200 --warmup 20 --threads 2 --matrix default|medium --clip 1
#include <torch/torch.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <iostream>
#include <map>
#include <string>
#include <vector>

namespace {

using torch::Tensor;
constexpr double kAlpha = 1.0, kGamma = 0.5, kClipRatio = 100.0;
constexpr size_t kTasks = 3, kCore = 2;

std::vector<int64_t> field_sizes(int64_t rows) {
  const std::vector<int64_t> small = {2, 3, 3, 7, 8, 8, 9, 24, 2, 7, 50, 100, 340, 7, 2, 3, 5, 32, 32, 32};
  std::vector<int64_t> sizes = {rows * 3 / 4, rows / 5};
  for (size_t f = 0; f < 41; ++f) sizes.push_back(small[f % small.size()]);
  return sizes;
}

struct Batch {
  Tensor ids, click, view, watch;
};

std::vector<Batch> make_batches(const std::vector<int64_t>& sizes, int64_t batch, int64_t count) {
  const int64_t n = batch * count;
  std::vector<Tensor> columns;
  for (const int64_t size : sizes)
    columns.push_back((torch::rand({n}).pow(size > 1000 ? 2.0 : 1.0) * static_cast<double>(size)).to(torch::kLong).clamp_max(size - 1));
  const Tensor ids = torch::stack(columns, 1), click = (torch::rand({n}) < 0.44).to(torch::kFloat), view = click * (torch::rand({n}) < 0.7).to(torch::kFloat);
  Tensor watch = click * torch::randn({n}).exp() * 30;
  watch = (watch - watch.mean()) / watch.std(/*unbiased=*/false);
  std::vector<Batch> batches;
  for (int64_t i = 0; i < count; ++i) {
    const auto part = [&](const Tensor& x) { return x.narrow(0, i * batch, batch).clone(); };
    batches.push_back({part(ids), part(click), part(view), part(watch)});
  }
  return batches;
}

struct TowerImpl : torch::nn::Module {
  explicit TowerImpl(int64_t width)
      : first(register_module("first", torch::nn::Linear(width, 128))),
        second(register_module("second", torch::nn::Linear(128, 64))),
        third(register_module("third", torch::nn::Linear(64, 32))),
        last(register_module("last", torch::nn::Linear(32, 1))) {}
  std::pair<Tensor, Tensor> forward(const Tensor& x) {
    const Tensor representation = torch::relu(first(x));
    return {last(torch::relu(third(torch::relu(second(representation))))), representation};
  }
  torch::nn::Linear first, second, third, last;
};
TORCH_MODULE(Tower);

/// Two rows mixed by a Gumbel-Softmax sample of the predicted label.
struct LabelEmbeddingImpl : torch::nn::Module {
  explicit LabelEmbeddingImpl(int64_t dim) : rows(register_parameter("rows", torch::randn({2, dim}))) {}
  Tensor forward(const Tensor& logit) {
    const Tensor uniform = torch::rand_like(logit).clamp(1e-6, 1 - 1e-6), q = torch::sigmoid(logit + uniform.log() - (1 - uniform).log());
    return q * rows[0] + (1 - q) * rows[1];
  }
  Tensor rows;
};
TORCH_MODULE(LabelEmbedding);

/// Attention over the preceding tasks' vectors; the value map runs once, on the mixture.
struct FusionImpl : torch::nn::Module {
  FusionImpl(int64_t width, size_t sources) : value(register_module("value", torch::nn::Linear(width, width))) {
    if (sources < 2) return;
    query = register_module("query", torch::nn::Linear(width, width));
    key = register_module("key", torch::nn::Linear(width, width));
  }
  Tensor forward(const std::vector<Tensor>& sources) {
    if (sources.size() == 1) return value(sources[0]);
    const Tensor u = torch::stack(sources, 1);
    const Tensor weights = torch::softmax((query(u) * key(u)).sum(2, true) / std::sqrt(static_cast<double>(u.size(2))), 1);
    return value((weights * u).sum(1));
  }
  torch::nn::Linear value, query{nullptr}, key{nullptr};
};
TORCH_MODULE(Fusion);

struct HtlNetImpl : torch::nn::Module {
  explicit HtlNetImpl(const std::vector<int64_t>& sizes, int64_t dim = 10, int64_t label_dim = 10) {
    for (size_t f = 0; f < sizes.size(); ++f) {
      embeddings.push_back(register_module("embedding" + std::to_string(f), torch::nn::Embedding(sizes[f], dim)));
      torch::nn::init::normal_(embeddings.back()->weight, 0.0, 0.01);
    }
    const int64_t width = static_cast<int64_t>(sizes.size()) * dim;
    for (size_t t = 0; t < kTasks; ++t) {
      const std::string name = std::to_string(t);
      towers.push_back(register_module("tower" + name, Tower(t == 0 ? width : width + 128 + label_dim)));
      if (t + 1 < kTasks) labels.push_back(register_module("label" + name, LabelEmbedding(label_dim)));
      if (t > 0) representation_fusions.push_back(register_module("representation_fusion" + name, Fusion(128, t)));
      if (t > 0) label_fusions.push_back(register_module("label_fusion" + name, Fusion(label_dim, t)));
    }
  }
  std::vector<Tensor> forward(const Tensor& ids) {
    std::vector<Tensor> fields, outputs, representations, embedded;
    for (size_t f = 0; f < embeddings.size(); ++f) fields.push_back(embeddings[f](ids.select(1, static_cast<int64_t>(f))));
    const Tensor e = torch::cat(fields, 1);
    for (size_t t = 0; t < kTasks; ++t) {
      const Tensor x = t == 0 ? e : torch::cat({e, representation_fusions[t - 1](representations), label_fusions[t - 1](embedded)}, 1);
      const auto [output, representation] = towers[t](x);
      outputs.push_back(output.squeeze(1));
      if (t + 1 == kTasks) break;
      representations.push_back(representation.detach());
      embedded.push_back(labels[t](output.detach()));
    }
    return outputs;
  }
  std::vector<torch::nn::Embedding> embeddings;
  std::vector<Tower> towers;
  std::vector<LabelEmbedding> labels;
  std::vector<Fusion> representation_fusions, label_fusions;
};
TORCH_MODULE(HtlNet);

/// The tasks' shared gradients, flat → the shared gradient: project on conflict, scale towards the core's norm, sum.
Tensor adjust(const std::vector<Tensor>& gradients) {
  const Tensor core = gradients[kCore], core_norm = core.norm();
  Tensor total = core.clone();
  for (size_t t = 0; t < kTasks; ++t) {
    if (t == kCore) continue;
    Tensor gradient = gradients[t];
    const Tensor ratio = (core_norm / gradient.norm()).clamp(1 / kClipRatio, kClipRatio), dot = gradient.dot(core);
    if (dot.item<float>() < 0) gradient = gradient - kAlpha * dot / core_norm.square() * core;
    total += kGamma * ratio * gradient + (1 - kGamma) * gradient;
  }
  return total;
}

}  // namespace

int main(int argc, char** argv) {
  std::map<std::string, std::string> options = {{"--rows", "36000"}, {"--batch", "1024"}, {"--steps", "200"},     {"--warmup", "20"},
                                                {"--threads", "2"},  {"--clip", "1"},     {"--matrix", "default"}};
  for (int i = 1; i < argc; i += 2) {
    if (!options.count(argv[i]) || i + 1 == argc) {
      std::cerr << "usage: naive [--rows N] [--batch N] [--steps N] [--warmup N] [--threads N] [--clip NORM] [--matrix default|medium]\n";
      return 2;
    }
    options[argv[i]] = argv[i + 1];
  }
  const auto number = [&](const char* name) { return static_cast<int64_t>(std::strtoll(options[name].c_str(), nullptr, 10)); };
  const int64_t rows = number("--rows"), batch = number("--batch"), steps = number("--steps"), warmup = number("--warmup");
  const double clip = std::strtod(options["--clip"].c_str(), nullptr);
  torch::set_num_threads(static_cast<int>(number("--threads")));
  if (options["--matrix"] == "medium") at::globalContext().setFloat32MatmulPrecision("medium");
  torch::manual_seed(1);

  const std::vector<int64_t> sizes = field_sizes(rows);
  const std::vector<Batch> batches = make_batches(sizes, batch, 16);
  HtlNet model(sizes);
  const std::vector<Tensor> parameters = model->parameters();
  std::vector<Tensor> shared;
  for (const auto& embedding : model->embeddings) shared.push_back(embedding->weight);
  torch::optim::Adam optimizer(parameters, torch::optim::AdamOptions(1e-3));

  const auto step = [&](const Batch& data) {
    for (const Tensor& parameter : parameters) parameter.mutable_grad().reset();  // optimizer.zero_grad() refuses gradients that are views
    const std::vector<Tensor> outputs = model(data.ids);
    const std::vector<Tensor> losses = {torch::binary_cross_entropy_with_logits(outputs[0], data.click),
                                        torch::binary_cross_entropy_with_logits(outputs[1], data.view), torch::mse_loss(outputs[2], data.watch)};
    const Tensor loss = losses[0] + losses[1] + losses[2];
    loss.backward({}, /*retain_graph=*/true);
    std::vector<Tensor> gradients;
    for (const Tensor& task_loss : losses) {
      std::vector<Tensor> parts;
      for (const Tensor& part : torch::autograd::grad({task_loss}, shared, {}, /*retain_graph=*/true)) parts.push_back(part.flatten());
      gradients.push_back(torch::cat(parts));
    }
    const Tensor adjusted = adjust(gradients);
    int64_t start = 0;
    for (Tensor& parameter : shared) {
      parameter.mutable_grad() = adjusted.narrow(0, start, parameter.numel()).view_as(parameter);
      start += parameter.numel();
    }
    if (clip > 0) torch::nn::utils::clip_grad_norm_(parameters, clip);
    optimizer.step();
    return loss.item<double>();
  };

  std::vector<double> milliseconds;
  double loss = 0;
  for (int64_t i = 0; i < warmup + steps; ++i) {
    const auto start = std::chrono::steady_clock::now();
    loss = step(batches[static_cast<size_t>(i) % batches.size()]);
    if (i >= warmup) milliseconds.push_back(std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count());
  }
  std::sort(milliseconds.begin(), milliseconds.end());
  const double median = (milliseconds[milliseconds.size() / 2] + milliseconds[(milliseconds.size() - 1) / 2]) / 2;
  std::cout << "{\"program\": \"naive.cpp\", \"rows\": " << rows << ", \"batch\": " << batch << ", \"matrix\": \"" << options["--matrix"]
            << "\", \"steps\": " << steps << ", \"threads\": " << number("--threads") << ", \"clip\": " << clip << ", \"ms_per_step\": " << median
            << ", \"samples_per_second\": " << static_cast<double>(batch) / median * 1e3 << ", \"loss\": " << loss << "}\n";
}
