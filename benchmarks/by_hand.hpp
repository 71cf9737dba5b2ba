// SPDX-License-Identifier: Apache-2.0
/// @file by_hand.hpp
/// @brief Architectures as a user of LibTorch writes them, of its modules and operators, which the benchmarks hold the library's beside. Three tasks.
#pragma once

#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace by_hand {

using at::Tensor;
using torch::nn::Linear;
using Tensors = std::vector<Tensor>;
using Widths = std::vector<int64_t>;

inline constexpr size_t count = 3;

/// Linear layers with ReLU.
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

/// A module of parts with names.
struct Parts : torch::nn::Module {
  std::shared_ptr<Layers> layers(const std::string& name, int64_t input, const Widths& hidden) {
    return register_module(name, std::make_shared<Layers>(input, hidden));
  }
  Linear linear(const std::string& name, int64_t input, int64_t outputs, bool bias = true) {
    return register_module(name, Linear(torch::nn::LinearOptions(input, outputs).bias(bias)));
  }
};

// ---- one tensor in, a representation a task out

struct Trunk : Parts {
  virtual Tensors forward(const Tensor& x) = 0;
};

struct Nothing final : Trunk {
  Tensors forward(const Tensor& x) override { return Tensors(count, x); }
};

struct Bottom final : Trunk {
  std::shared_ptr<Layers> shared;
  explicit Bottom(int64_t input) : shared(layers("shared", input, {128, 64})) {}
  Tensors forward(const Tensor& x) override { return Tensors(count, (*shared)(x)); }
};

/// MMoE.
struct Mixture final : Trunk {
  std::vector<std::shared_ptr<Layers>> experts;
  std::vector<Linear> gates;
  Mixture(int64_t input, int64_t number) {
    for (int64_t e = 0; e < number; ++e) experts.push_back(layers("expert" + std::to_string(e), input, {128, 64}));
    for (size_t t = 0; t < count; ++t) gates.push_back(linear("gate" + std::to_string(t), input, number, false));
  }
  Tensors forward(const Tensor& x) override {
    Tensors outputs, weights;
    for (const auto& expert : experts) outputs.push_back((*expert)(x));
    for (Linear& gate : gates) weights.push_back(gate(x).softmax(1));
    return torch::bmm(torch::stack(weights, 1), torch::stack(outputs, 1)).unbind(1);
  }
};

/// PLE of two levels with `each` experts a stream, or AdaTT of the same experts without shared ones.
struct Levels final : Trunk {
  bool is_adatt;
  std::vector<std::vector<std::vector<std::shared_ptr<Layers>>>> experts;  // [level][stream][expert]
  std::vector<std::vector<Linear>> gates;
  std::vector<Tensors> residuals;
  Levels(int64_t input, bool adatt, int64_t each) : is_adatt(adatt) {
    const auto tasks = static_cast<int64_t>(count);
    for (const int64_t output : {128, 64}) {
      const std::string level = std::to_string(experts.size());
      experts.emplace_back();
      gates.emplace_back();
      residuals.emplace_back();
      for (size_t s = 0; s < count + (is_adatt ? 0 : 1); ++s) {
        const std::string name = level + "_" + std::to_string(s);
        experts.back().emplace_back();
        for (int64_t e = 0; e < each; ++e) experts.back().back().push_back(layers("expert" + name + std::to_string(e), input, {output}));
        if (is_adatt) residuals.back().push_back(register_parameter("residual" + name, torch::rand({each, 1})));
        const int64_t read = is_adatt ? tasks * each : s < count ? 2 * each : (tasks + 1) * each;
        if (is_adatt || s < count || output == 128) gates.back().push_back(linear("gate" + name, input, read, false));
      }
      input = output;
    }
  }
  Tensors forward(const Tensor& x) override {
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

/// Cross-stitch.
struct Stitch final : Trunk {
  std::vector<std::vector<std::shared_ptr<Layers>>> all;
  Tensors stitches;
  explicit Stitch(int64_t input) {
    for (const int64_t output : {128, 64}) {
      const std::string level = std::to_string(all.size());
      all.emplace_back();
      for (size_t t = 0; t < count; ++t) all.back().push_back(layers("layer" + level + std::to_string(t), input, {output}));
      stitches.push_back(register_parameter("stitch" + level, torch::rand({count, count})));
      input = output;
    }
  }
  Tensors forward(const Tensor& x) override {
    Tensors streams(count, x);
    for (size_t l = 0; l < all.size(); ++l) {
      Tensors hidden;
      for (size_t t = 0; t < count; ++t) hidden.push_back((*all[l][t])(streams[t]));
      streams = torch::matmul(stitches[l], torch::stack(hidden, 1)).unbind(1);
    }
    return streams;
  }
};

// ---- a view a task in, its output out

struct Top : Parts {
  virtual Tensors forward(const Tensors& views) = 0;
  Tensors forward(const Tensor& x) { return forward(Tensors(count, x)); }
};

/// Towers that know nothing of each other.
struct Towers final : Top {
  std::vector<std::shared_ptr<Layers>> hidden;
  std::vector<Linear> outputs;
  Towers(int64_t input, const Widths& widths, const Widths& output_widths = {1, 1, 1}) {
    for (size_t t = 0; t < count; ++t) {
      hidden.push_back(layers("tower" + std::to_string(t), input, widths));
      outputs.push_back(linear("output" + std::to_string(t), widths.back(), output_widths[t]));
    }
  }
  using Top::forward;
  Tensors forward(const Tensors& views) override {
    Tensors out;
    for (size_t t = 0; t < count; ++t) out.push_back(outputs[t]((*hidden[t])(views[t])));
    return out;
  }
};

/// HTLNet's transfer: click → long view → watch time, each after all before it, with cuts as the library has them; every step is recorded by autograd.
struct Transfer final : Top {
  static constexpr int64_t dim = 10;
  std::vector<std::vector<Linear>> towers;
  Tensors tables;
  std::vector<Linear> of_rep, of_label;
  std::vector<Linear> scores;  // query and key of representations, then of labels
  Transfer(int64_t input, const Widths& hidden) {
    const int64_t rep = hidden.front();
    for (size_t t = 0; t < count; ++t) {
      const std::string name = std::to_string(t);
      Widths widths{input + (t > 0 ? rep + dim : 0)};
      widths.insert(widths.end(), hidden.begin(), hidden.end());
      widths.push_back(1);
      towers.emplace_back();
      for (size_t l = 0; l + 1 < widths.size(); ++l) towers.back().push_back(linear("tower" + name + "_" + std::to_string(l), widths[l], widths[l + 1]));
      if (t + 1 == count) break;
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
  using Top::forward;
  Tensors forward(const Tensors& views) override {
    Tensors outputs, reps, labels;
    for (size_t t = 0; t < count; ++t) {
      Tensor x = views[t];
      if (t > 0) x = torch::cat({x, fuse(reps, scores[0], scores[1], of_rep[t - 1]), fuse(labels, scores[2], scores[3], of_label[t - 1])}, 1);
      for (size_t l = 0; l + 1 < towers[t].size(); ++l) {
        x = torch::relu(towers[t][l](x));
        if (l == 0) reps.push_back(x.detach());
      }
      outputs.push_back(towers[t].back()(x));
      if (t + 1 == count) break;
      const Tensor u = torch::rand_like(outputs[t]).clamp_(1e-7, 1 - 1e-7), q = torch::sigmoid(outputs[t].detach() + u.log() - (1 - u).log());
      labels.push_back(q * tables[t][0] + (1 - q) * tables[t][1]);
    }
    return outputs;
  }
};

/// AITM: each task attends to what those before it hand over: all of them, or the last.
struct Attending final : Top {
  std::vector<std::shared_ptr<Layers>> towers;
  std::vector<std::vector<std::shared_ptr<Layers>>> transfers;  // of each task, from those that it reads
  std::vector<std::vector<Linear>> maps;
  std::vector<Linear> outputs;
  bool is_chain;
  Attending(int64_t input, bool chain) : is_chain(chain) {
    for (size_t t = 0; t < count; ++t) {
      const std::string name = std::to_string(t);
      towers.push_back(layers("tower" + name, input, {128, 64, 32}));
      outputs.push_back(linear("output" + name, 32, 1));
      transfers.emplace_back();
      maps.emplace_back();
      for (size_t u = first(t); u < t; ++u) transfers[t].push_back(layers("transfer" + std::to_string(u) + name, 32, {32}));
      for (const char* part : {"query", "key", "value"})
        if (t > 0) maps[t].push_back(linear(part + name, 32, 32, false));
    }
  }
  size_t first(size_t task) const { return is_chain && task > 0 ? task - 1 : 0; }
  using Top::forward;
  Tensors forward(const Tensors& views) override {
    Tensors out, known;
    for (size_t t = 0; t < count; ++t) {
      Tensors items{(*towers[t])(views[t])};
      for (size_t u = first(t); u < t; ++u) items.push_back((*transfers[t][u - first(t)])(known[u]));
      known.push_back(t == 0 ? items[0] : attend(torch::stack(items, 1), maps[t]));
      out.push_back(outputs[t](known[t]));
    }
    return out;
  }
  static Tensor attend(const Tensor& items, std::vector<Linear>& maps) {
    const Tensor weights = ((maps[0](items) * maps[1](items)).sum(2) / std::sqrt(32.0)).softmax(1);
    return (weights.unsqueeze(2) * maps[2](items)).sum(1);
  }
};

/// DBMTL's networks and relations: of all tasks before, or the last.
struct Relations final : Top {
  std::vector<std::shared_ptr<Layers>> networks, relations;
  std::vector<Linear> outputs;
  bool is_chain;
  Relations(int64_t input, bool chain) : is_chain(chain) {
    for (size_t t = 0; t < count; ++t) {
      const std::string name = std::to_string(t);
      networks.push_back(layers("task" + name, input, {64}));
      relations.push_back(layers("relation" + name, 64 + 32 * static_cast<int64_t>(is_chain ? std::min<size_t>(t, 1) : t), {32}));
      outputs.push_back(linear("output" + name, 32, 1));
    }
  }
  using Top::forward;
  Tensors forward(const Tensors& views) override {
    Tensors out, known;
    for (size_t t = 0; t < count; ++t) {
      Tensors parts{(*networks[t])(views[t])};
      parts.insert(parts.end(), is_chain && t > 0 ? known.end() - 1 : known.begin(), known.end());
      known.push_back((*relations[t])(parts.size() == 1 ? parts[0] : torch::cat(parts, 1)));
      out.push_back(outputs[t](known.back()));
    }
    return out;
  }
};

}  // namespace by_hand
