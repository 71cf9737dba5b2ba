// SPDX-License-Identifier: Apache-2.0
/// @file experts_test.cpp
/// @brief MixtureOfExperts, ProgressiveLayeredExtraction, AdaTT, CrossStitch: golden numbers, loops in fp64, degenerate cases, who trains whom, exact task
/// gradients. What they are made of, their state and sentences: mixing_test.cpp.
#include <htl/gradient/backward.hpp>
#include <htl/nn/adatt.hpp>
#include <htl/nn/cross_stitch.hpp>
#include <htl/nn/mixture_of_experts.hpp>
#include <htl/nn/mlp.hpp>
#include <htl/nn/progressive_layered_extraction.hpp>

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>
#include <support/dense_rows.hpp>
#include <support/given.hpp>
#include <support/modules.hpp>
#include <support/seeded.hpp>

#include <functional>
#include <set>

namespace htl {
namespace {

using at::Tensor;
using test::close;
using test::randomize;
using test::reached;
using test::same_bits;
using Tensors = std::vector<Tensor>;
using Parameters = torch::OrderedDict<std::string, Tensor>;

Tensors leaves_of(const torch::nn::Module& module) { return module.parameters(); }

/// The outputs of n MLPs, one after the other, from the parameters of a ParallelMlp. With own inputs MLP i reads its columns of x.
Tensors loop_of_mlps(const Parameters& p, const std::string& name, const Tensor& x, int64_t count, const std::vector<int64_t>& hidden, bool is_gate = false,
                     bool own_inputs = false) {
  Tensors result;
  for (int64_t i = 0; i < count; ++i) {
    Tensor h = own_inputs ? x.narrow(1, i * (x.size(1) / count), x.size(1) / count) : x;
    for (size_t l = 0; l < hidden.size(); ++l) {
      const std::string layer = name + std::to_string(l);
      const Tensor& all = p[layer + ".weight"];
      const bool is_last = l + 1 == hidden.size();
      const Tensor weight = all.dim() == 3 ? all[i] : all.narrow(0, i * hidden[l], hidden[l]);
      h = h.mm(weight.t());
      if (!(is_gate && is_last)) {
        const Tensor& bias = p[layer + ".bias"];
        h = (h + (bias.dim() == 2 ? bias[i] : bias.narrow(0, i * hidden[l], hidden[l]))).relu();
      }
    }
    result.push_back(h);
  }
  return result;
}
/// Σ_e w_e E_e.
Tensor loop_of_mixture(const Tensor& weights, const Tensors& experts) {
  Tensor sum = at::zeros_like(experts[0]);
  for (size_t e = 0; e < experts.size(); ++e) sum = sum + weights.narrow(1, static_cast<int64_t>(e), 1) * experts[e];
  return sum;
}
std::vector<int64_t> with(std::vector<int64_t> hidden, int64_t last) {
  hidden.push_back(last);
  return hidden;
}

Tensors loop_of(MixtureOfExperts& net, const Tensor& x) {
  const MixtureOfExpertsOptions& o = net->options;
  const Parameters p = net->named_parameters();
  const Tensors experts = loop_of_mlps(p, "experts.", x, o.experts(), o.expert());
  const Tensors gates = o.experts() == 1 ? Tensors{} : loop_of_mlps(p, "gates.", x, o.one_gate() ? 1 : o.tasks(), with(o.gate(), o.experts()), true);
  Tensors result;
  for (size_t t = 0; t < static_cast<size_t>(o.tasks()); ++t)
    result.push_back(gates.empty() ? experts[0] : loop_of_mixture(gates[o.one_gate() ? 0 : t].softmax(1), experts));
  return result;
}

/// PLE and AdaTT: streams, whose experts an output reads, and whether own experts are added.
Tensors loop_of_levels(const Parameters& p, const Tensor& x, int64_t tasks, const std::vector<std::vector<int64_t>>& levels,
                       const std::vector<std::vector<int64_t>>& counts, const std::vector<std::vector<std::vector<size_t>>>& reads,
                       const std::vector<int64_t>& gate, bool residual) {
  Tensors streams(counts[0].size(), x);
  for (size_t l = 0; l < levels.size(); ++l) {
    const std::string level = "level_" + std::to_string(l) + ".";
    const auto name = [&](size_t s) { return static_cast<int64_t>(s) < tasks ? std::to_string(s) : std::string("shared"); };
    std::vector<Tensors> experts;
    for (size_t s = 0; s < counts[l].size(); ++s)
      experts.push_back(counts[l][s] > 0 ? loop_of_mlps(p, level + "experts_" + name(s) + ".", streams[s], counts[l][s], levels[l]) : Tensors{});
    Tensors next;
    for (size_t s = 0; s < reads[l].size(); ++s) {
      Tensors read;
      for (const size_t from : reads[l][s]) read.insert(read.end(), experts[from].begin(), experts[from].end());
      const auto width = static_cast<int64_t>(read.size());
      const Tensor weights = width == 1 ? at::ones({x.size(0), 1}, at::kDouble)
                                        : loop_of_mlps(p, level + "gate_" + name(s) + ".", streams[s], 1, with(gate, width), true)[0].softmax(1);
      next.push_back(loop_of_mixture(weights, read));
      if (!residual) continue;
      for (size_t e = 0; e < experts[s].size(); ++e)
        next[s] = next[s] + (experts[s].size() == 1 ? experts[s][e] : p[level + "residual_" + name(s)][static_cast<int64_t>(e)] * experts[s][e]);
    }
    for (size_t s = 0; s < next.size(); ++s) streams[s] = next[s];
  }
  streams.resize(static_cast<size_t>(tasks));
  return streams;
}
Tensors loop_of(ProgressiveLayeredExtraction& net, const Tensor& x) {
  const ProgressiveLayeredExtractionOptions& o = net->options;
  const auto tasks = static_cast<size_t>(o.tasks());
  std::vector<std::vector<int64_t>> levels, counts;
  std::vector<std::vector<std::vector<size_t>>> reads;
  for (size_t l = 0; l < o.levels().size(); ++l) {
    levels.push_back(o.levels()[l].expert);
    counts.emplace_back(tasks, o.levels()[l].specific);
    counts.back().push_back(o.levels()[l].shared);
    reads.emplace_back();
    std::vector<size_t> all;
    for (size_t t = 0; t <= tasks; ++t) {
      if (t < tasks) reads[l].push_back({t, tasks});
      all.push_back(t);
    }
    bool is_followed = false;
    for (size_t later = l + 1; later < o.levels().size(); ++later) is_followed = is_followed || o.levels()[later].shared > 0;
    if (is_followed) reads[l].push_back(all);
  }
  return loop_of_levels(net->named_parameters(), x, o.tasks(), levels, counts, reads, o.gate(), false);
}
Tensors loop_of(AdaTT& net, const Tensor& x) {
  const AdaTTOptions& o = net->options;
  std::vector<int64_t> count(static_cast<size_t>(o.tasks()), o.experts());
  if (o.shared() > 0) count.push_back(o.shared());
  std::vector<size_t> all;
  for (size_t s = 0; s < count.size(); ++s) all.push_back(s);
  const std::vector<std::vector<int64_t>> counts(o.levels().size(), count);
  std::vector<std::vector<std::vector<size_t>>> reads(o.levels().size(), std::vector<std::vector<size_t>>(all.size(), all));
  reads.back().resize(static_cast<size_t>(o.tasks()));
  return loop_of_levels(net->named_parameters(), x, o.tasks(), o.levels(), counts, reads, o.gate(), o.residual());
}
Tensors loop_of(CrossStitch& net, const Tensor& x) {
  const CrossStitchOptions& o = net->options;
  const Parameters p = net->named_parameters();
  Tensors streams{x};
  for (size_t l = 0; l < o.levels().size(); ++l) {
    const Tensors h = loop_of_mlps(p, "level_" + std::to_string(l) + ".", at::cat(streams, 1), o.tasks(), o.levels()[l], false, l > 0);
    streams.clear();
    for (int64_t t = 0; t < o.tasks(); ++t) streams.push_back(loop_of_mixture(p["stitch_" + std::to_string(l)][t].unsqueeze(0).expand({x.size(0), -1}), h));
  }
  return streams;
}

/// Outputs and all gradients of ours against the loop's, for random cotangents.
template <class Net>
void expect_equal_to_loop(Net& net, test::Random& random, const Tensor& x, const std::string& where) {
  const Tensor leaf = x.clone().requires_grad_();
  const Tensors ours = net->forward(leaf), theirs = loop_of(net, leaf);
  ASSERT_EQ(ours.size(), theirs.size());
  Tensors cotangents, leaves = leaves_of(*net);
  leaves.push_back(leaf);
  for (size_t t = 0; t < ours.size(); ++t) {
    ASSERT_TRUE(close(ours[t], theirs[t])) << where << ", task " << t;
    cotangents.push_back(random.normal(ours[t].sizes()));
  }
  const auto by_us = torch::autograd::grad(ours, leaves, cotangents, true, false, true),
             by_them = torch::autograd::grad(theirs, leaves, cotangents, false, false, true);
  const auto of = [](const Tensor& gradient, const Tensor& leaf_of) { return gradient.defined() ? gradient : at::zeros_like(leaf_of); };
  for (size_t i = 0; i < leaves.size(); ++i)
    ASSERT_TRUE(close(of(by_us[i], leaves[i]), of(by_them[i], leaves[i]), 1e-11, 1e-11)) << where << ", leaf " << i << " of shape " << leaves[i].sizes();
}

/// One input 1, so that a gate's weights are its logits; experts that give their biases. ReLU wants experts ≥ 0: all second components are raised by 1.
template <class Net>
void set(Net& net, const std::vector<std::pair<std::string, std::vector<double>>>& values) {
  net->to(at::kDouble);
  const at::NoGradGuard no_grad;
  for (Tensor& parameter : net->parameters()) parameter.zero_();
  auto parameters = net->named_parameters();
  for (const auto& [name, of] : values) parameters[name].copy_(at::tensor(of, at::kDouble).view(parameters[name].sizes()));
}
const Tensor one = at::ones({1, 1}, at::kDouble);
::testing::AssertionResult is_golden(const Tensor& row, double first, double second, double raised = 1.0) {
  return close(row, at::tensor({first, second + raised}, at::kDouble).unsqueeze(0), 0.0, 1e-6);
}

TEST(MixtureOfExperts, GivesTheGoldenNumbers) {
  MixtureOfExperts net(MixtureOfExpertsOptions(1, 2).experts(3).expert({2}));
  set(net, {{"experts.0.bias", {1, 3, 3, 0, 0, 2}}, {"gates.0.weight", {.2, -.3, 1, 0, 0, 0}}});
  net->keep_gates();
  EXPECT_TRUE(is_golden(net->forward(one)[0], .735788, .9444));
  EXPECT_TRUE(close(net->gates()[0][0], at::tensor({.260955, .158277, .580767}, at::kDouble), 0.0, 1e-6));
}

TEST(ProgressiveLayeredExtraction, GivesTheGoldenNumbersOfCgc) {
  // a second level that passes the shared stream on: one shared expert with the identity
  ProgressiveLayeredExtraction net(ProgressiveLayeredExtractionOptions(1, 2).levels({{.expert = {2}}, {.expert = {2}, .specific = 0, .shared = 1}}));
  set(net, {{"level_0.experts_0.0.bias", {1, 3}},
            {"level_0.experts_1.0.bias", {3, 0}},
            {"level_0.experts_shared.0.bias", {0, 2}},
            {"level_0.gate_0.0.weight", {.2, 1}},
            {"level_0.gate_1.0.weight", {-.3, 1}},
            {"level_0.gate_shared.0.weight", {.2, -.3, 1}},
            {"level_1.experts_shared.0.weight", {1, 0, 0, 1}}});
  EXPECT_TRUE(is_golden(net->forward(one)[1], .735788, .9444));
  ProgressiveLayeredExtraction cgc(ProgressiveLayeredExtractionOptions(1, 2).levels({{.expert = {2}}}));
  set(cgc, {{"level_0.experts_0.0.bias", {1, 3}},
            {"level_0.experts_1.0.bias", {3, 0}},
            {"level_0.experts_shared.0.bias", {0, 2}},
            {"level_0.gate_0.0.weight", {.2, 1}},
            {"level_0.gate_1.0.weight", {-.3, 1}}});
  EXPECT_TRUE(is_golden(cgc->forward(one)[0], .310026, 1.310026));
  EXPECT_TRUE(is_golden(cgc->forward(one)[1], .642495, .57167));
}

TEST(AdaTT, GivesTheGoldenNumbers) {
  AdaTT net(AdaTTOptions(1, 3).levels({{2}}).experts(1));
  set(net, {{"level_0.experts_0.0.bias", {1, 3}},
            {"level_0.experts_1.0.bias", {3, 0}},
            {"level_0.experts_2.0.bias", {0, 2}},
            {"level_0.gate_0.0.weight", {.2, -.3, 1}}});
  EXPECT_TRUE(is_golden(net->forward(one)[0], 1.735788, 2.9444, 2.0));
}

TEST(SharedBlocks, EqualLoopsOverExpertsTasksAndLevels) {
  test::Random random(5);
  for (int trial = 0; trial < 30; ++trial) {
    const int64_t width = random.integer(1, 7), tasks = random.integer(1, 4), rows = random.pick<int64_t>({1, 4, 33});
    const Tensor x = random.normal({rows, width});
    const std::string where = "trial " + std::to_string(trial);
    const std::vector<int64_t> gate = random.chance(.4) ? std::vector<int64_t>{3} : std::vector<int64_t>{};
    const std::vector<int64_t> expert = random.chance(.5) ? std::vector<int64_t>{5, 3} : std::vector<int64_t>{4};
    MixtureOfExperts mmoe(MixtureOfExpertsOptions(width, tasks).experts(random.integer(1, 4)).expert(expert).gate(gate).one_gate(random.chance(.3)));
    randomize(mmoe, random);
    expect_equal_to_loop(mmoe, random, x, where + " MMoE");
    std::vector<ExtractionLevel> levels;
    for (int64_t l = random.integer(1, 3); l > 0; --l) {
      levels.push_back({.expert = expert, .specific = random.integer(0, 2), .shared = random.integer(0, 2)});
      if (levels.back().specific + levels.back().shared == 0) levels.back().shared = 1;
    }
    ProgressiveLayeredExtraction ple(ProgressiveLayeredExtractionOptions(width, tasks).levels(levels).gate(gate));
    randomize(ple, random);
    expect_equal_to_loop(ple, random, x, where + " PLE");
    AdaTT adatt(AdaTTOptions(width, tasks)
                    .levels(random.chance(.5) ? std::vector<std::vector<int64_t>>{{4}, {3}} : std::vector<std::vector<int64_t>>{expert})
                    .experts(random.integer(1, 3))
                    .shared(random.integer(0, 2))
                    .residual(random.chance(.8))
                    .gate(gate));
    randomize(adatt, random);
    expect_equal_to_loop(adatt, random, x, where + " AdaTT");
    CrossStitch stitch(CrossStitchOptions(width, tasks).levels({{4, 3}, {2}, {3}}));
    randomize(stitch, random);
    expect_equal_to_loop(stitch, random, x, where + " CrossStitch");
  }
}

TEST(SharedBlocks, ReadPartsAsTheirConcatenation) {
  test::Random random(6);
  const Tensor a = random.normal({5, 3}), b = random.normal({5, 2});
  const auto check = [&](auto net) {
    randomize(net, random);
    const Tensors ours = net->forward({a, b}), theirs = loop_of(net, at::cat({a, b}, 1));
    for (size_t t = 0; t < ours.size(); ++t) EXPECT_TRUE(close(ours[t], theirs[t]));
  };
  check(MixtureOfExperts(MixtureOfExpertsOptions({3, 2}, 2).experts(2)));
  check(ProgressiveLayeredExtraction(ProgressiveLayeredExtractionOptions({3, 2}, 2)));
  check(AdaTT(AdaTTOptions({3, 2}, 2)));
  check(CrossStitch(CrossStitchOptions({3, 2}, 2)));
}

TEST(MixtureOfExperts, StacksUponAnother) {
  test::Random random(13);
  MixtureOfExperts lower(MixtureOfExpertsOptions(6, 4).experts(3).expert({5})), upper(MixtureOfExpertsOptions({5, 5, 5, 5}, 2).experts(3).expert({4}));
  randomize(lower, random);
  randomize(upper, random);
  const Tensor x = random.normal({8, 6});
  const Tensors ours = upper->forward(lower->forward(x)), theirs = loop_of(upper, at::cat(loop_of(lower, x), 1));
  for (size_t t = 0; t < 2; ++t) EXPECT_TRUE(close(ours[t], theirs[t]));
}

/// The same layers as an Mlp, by their names.
template <class Net>
Mlp mlp_of(Net& net, const std::string& name, int64_t width, const std::vector<int64_t>& hidden, int64_t which = 0) {
  Mlp mlp(MlpOptions(width, hidden));
  mlp->to(at::kDouble);
  const at::NoGradGuard no_grad;
  const Parameters from = net->named_parameters();
  auto to = mlp->named_parameters();
  for (size_t l = 0; l < hidden.size(); ++l) {
    const std::string layer = std::to_string(l);
    const Tensor& weight = from[name + layer + ".weight"];
    const Tensor& bias = from[name + layer + ".bias"];
    to[layer + ".weight"].copy_(weight.dim() == 3 ? weight[which] : weight.narrow(0, which * hidden[l], hidden[l]));
    to[layer + ".bias"].copy_(bias.dim() == 2 ? bias[which] : bias.narrow(0, which * hidden[l], hidden[l]));
  }
  return mlp;
}

TEST(SharedBlocks, CollapseToSimplerOnesWhereNothingIsLeftToMix) {
  test::Random random(7);
  const Tensor x = random.normal({9, 6});
  // one expert is a shared bottom, and has no gate
  MixtureOfExperts bottom(MixtureOfExpertsOptions(6, 3).experts(1).expert({5, 4}));
  randomize(bottom, random);
  EXPECT_EQ(bottom->parameters().size(), 4U);
  for (const Tensor& representation : bottom->forward(x)) EXPECT_TRUE(close(representation, mlp_of(bottom, "experts.", 6, {5, 4})->forward(x)));
  // own experts alone: tasks apart
  ProgressiveLayeredExtraction apart(
      ProgressiveLayeredExtractionOptions(6, 2).levels({{.expert = {5}, .specific = 1, .shared = 0}, {.expert = {4}, .specific = 1, .shared = 0}}));
  randomize(apart, random);
  EXPECT_EQ(apart->parameters().size(), 8U);
  const Tensors separate = apart->forward(x);
  for (const std::string task : {"0", "1"}) {
    const Tensor first = mlp_of(apart, "level_0.experts_" + task + ".", 6, {5})->forward(x);
    EXPECT_TRUE(close(separate[task == "1"], mlp_of(apart, "level_1.experts_" + task + ".", 5, {4})->forward(first)));
  }
  // shared experts alone: MMoE
  ProgressiveLayeredExtraction level(ProgressiveLayeredExtractionOptions(6, 2).levels({{.expert = {5, 4}, .specific = 0, .shared = 3}}));
  MixtureOfExperts mmoe(MixtureOfExpertsOptions(6, 2).experts(3).expert({5, 4}));
  randomize(level, random);
  mmoe->to(at::kDouble);
  {
    const at::NoGradGuard no_grad;
    auto from = level->named_parameters(), to = mmoe->named_parameters();
    for (const std::string name : {"0.weight", "0.bias", "1.weight", "1.bias"}) to["experts." + name].copy_(from["level_0.experts_shared." + name]);
    to["gates.0.weight"].copy_(at::cat({from["level_0.gate_0.0.weight"], from["level_0.gate_1.0.weight"]}));
  }
  for (size_t t = 0; t < 2; ++t) EXPECT_TRUE(close(level->forward(x)[t], mmoe->forward(x)[t]));
  // one task with one expert: a plain MLP, which AdaTT adds to itself
  AdaTT single(AdaTTOptions(6, 1).levels({{5, 4}}).experts(1));
  randomize(single, random);
  EXPECT_TRUE(close(single->forward(x)[0], 2.0 * mlp_of(single, "level_0.experts_0.", 6, {5, 4})->forward(x)));
  single->options.residual(false);
  AdaTT plain(single->options);
  randomize(plain, random);
  EXPECT_TRUE(close(plain->forward(x)[0], mlp_of(plain, "level_0.experts_0.", 6, {5, 4})->forward(x)));
  // an identity stitches nothing
  CrossStitch unstitched(CrossStitchOptions(6, 3).levels({{5, 4}}).own(1.0));
  unstitched->to(at::kDouble);
  for (size_t t = 0; t < 3; ++t) EXPECT_TRUE(close(unstitched->forward(x)[t], mlp_of(unstitched, "level_0.", 6, {5, 4}, static_cast<int64_t>(t))->forward(x)));
  const Tensor given = random.normal({3, 3}, 1.0, at::kFloat);
  EXPECT_TRUE(same_bits(CrossStitch(CrossStitchOptions(6, 3).initial(given))->stitch(1), given));
  // one gate for all is one mixture for all
  MixtureOfExperts one_gate(MixtureOfExpertsOptions(6, 3).one_gate(true));
  const Tensors same = one_gate->forward(x.to(at::kFloat));
  EXPECT_TRUE(same[0].is_same(same[2]));
}

TEST(SharedBlocks, StartWithExpertsThatDiffer) {
  const auto all_differ = [](const Tensor& weights) {
    for (int64_t i = 0; i < weights.size(0); ++i)
      for (int64_t j = 0; j < i; ++j)
        if (at::equal(weights[i], weights[j])) return false;
    return true;
  };
  MixtureOfExperts net(MixtureOfExpertsOptions(6, 2).experts(5).expert({4, 3}));
  const auto parameters = net->named_parameters();
  EXPECT_TRUE(all_differ(parameters["experts.0.weight"].view({5, -1})));
  EXPECT_TRUE(all_differ(parameters["experts.1.weight"]));
  EXPECT_TRUE(all_differ(parameters["gates.0.weight"].view({2, -1})));
  // each as torch::nn::Linear starts, from U(−1/√D, 1/√D)
  for (const auto& [name, bound] : std::vector<std::pair<std::string, double>>{{"experts.0.weight", 1 / std::sqrt(6.0)}, {"experts.1.weight", .5}}) {
    const double largest = parameters[name].abs().max().item<double>();
    EXPECT_LE(largest, bound);
    EXPECT_GT(largest, .8 * bound);
  }
  AdaTT adatt(AdaTTOptions(6, 2).experts(4));
  EXPECT_LE(adatt->named_parameters()["level_0.residual_0"].abs().max().item<double>(), .5);
  EXPECT_TRUE(close(CrossStitch(CrossStitchOptions(6, 3))->stitch(1), at::tensor({.9, .05, .05, .05, .9, .05, .05, .05, .9}).view({3, 3}), 0.0, 1e-7));
}

TEST(SharedBlocks, TrainWhatATaskReadsAndNothingElse) {
  test::Random random(8);
  const Tensor x = random.normal({200, 6});
  const auto check = [&](auto net, const std::function<bool(const std::string& name, size_t task)>& is_read) {
    net->to(at::kDouble);
    std::set<std::string> by_any;
    for (size_t task = 0; task < 2; ++task) {
      const std::set<std::string> names = reached(net, x, task);
      by_any.insert(names.begin(), names.end());
      for (const auto& item : net->named_parameters()) EXPECT_EQ(names.contains(item.key()), is_read(item.key(), task)) << item.key() << ", task " << task;
    }
    EXPECT_EQ(by_any.size(), net->parameters().size());
  };
  check(MixtureOfExperts(MixtureOfExpertsOptions(6, 2).experts(3).gate({4})), [](const std::string&, size_t) { return true; });
  const auto of_other = [](const std::string& name, size_t task, const std::string& what) {
    return name.find(what + (task == 0 ? "1" : "0")) != std::string::npos;
  };
  check(ProgressiveLayeredExtraction(ProgressiveLayeredExtractionOptions(6, 2).levels({{.expert = {8}, .specific = 2}, {.expert = {7}, .specific = 2}})),
        [&](const std::string& name, size_t task) {
          // through the shared stream a task reads the first level's experts of all tasks
          return !of_other(name, task, "gate_") && !(name.find("level_1") == 0 && of_other(name, task, "experts_"));
        });
  check(AdaTT(AdaTTOptions(6, 2).shared(1)), [&](const std::string& name, size_t task) {
    return name.find("level_0") == 0 || (!of_other(name, task, "gate_") && !of_other(name, task, "residual_"));
  });
  check(CrossStitch(CrossStitchOptions(6, 2)), [](const std::string&, size_t) { return true; });
  // of a stacked gate only the task's own rows
  MixtureOfExperts net(MixtureOfExpertsOptions(6, 2).experts(3));
  net->to(at::kDouble);
  reached(net, x, 0);
  const Tensor gradient = net->named_parameters()["gates.0.weight"].grad();
  EXPECT_TRUE(gradient.narrow(0, 0, 3).any().item<bool>());
  EXPECT_FALSE(gradient.narrow(0, 3, 3).any().item<bool>());
}

/// Tasks over a block over a table: the fork's Gramian and gradient against T whole backwards.
template <class Net>
void expect_exact_task_gradients(Net net, test::Random& random) {
  const int64_t tasks = 3, rows = 11, width = 6;
  randomize(net, random);
  const RowTable table(random.normal({7, width / 2}).requires_grad_(), "items");
  const FieldBatch batch = FieldBatch::of(random.ids({rows, 2}, 7));
  const Tensor heads = random.normal({tasks, net->representation_width()}), target = random.normal({tasks, rows});
  const auto losses_of = [&](const Tensor& x) {
    const Tensors representations = net->forward(x);
    Tensors losses;
    for (int64_t t = 0; t < tasks; ++t) losses.push_back((representations[static_cast<size_t>(t)].mv(heads[t]) - target[t]).square().mean());
    return losses;
  };
  GradientFork<test::Given> fork(TaskSet{regression("a"), regression("b"), regression("c")}, {.values = {1.0, -.7, 2.0}});
  TaskLosses losses;
  const Tensors ours = losses_of(lookup(table, batch).values());
  for (size_t t = 0; t < 3; ++t) losses.set(std::string(1, static_cast<char>('a' + t)), ours[t]);
  const GradientReport report = backward(losses, fork, shared(net, table));

  Tensors leaves = leaves_of(*net), jacobian, got;
  leaves.push_back(table.weight().detach().clone().requires_grad_());
  for (const Tensor& loss : losses_of(at::embedding(leaves.back(), batch.ids).view({rows, width}))) {
    const auto gradients = torch::autograd::grad({loss}, leaves, {}, true, false, true);
    Tensors flat;
    for (size_t i = 0; i < leaves.size(); ++i) flat.push_back((gradients[i].defined() ? gradients[i] : at::zeros_like(leaves[i])).flatten());
    jacobian.push_back(at::cat(flat));
  }
  for (const Tensor& parameter : leaves_of(*net)) got.push_back((parameter.grad().defined() ? parameter.grad() : at::zeros_like(parameter)).flatten());
  got.push_back(test::dense_gradient(table).flatten());
  const Tensor j = at::stack(jacobian);
  EXPECT_TRUE(close(report.gramian, j.mm(j.t()), 1e-10, 1e-10));
  EXPECT_TRUE(close(at::cat(got), at::tensor({1.0, -.7, 2.0}, at::kDouble).matmul(j), 1e-10, 1e-10));
}

TEST(SharedBlocks, GiveTheForkExactTaskGradients) {
  test::Random random(9);
  expect_exact_task_gradients(MixtureOfExperts(MixtureOfExpertsOptions(6, 3).experts(3).expert({5, 4})), random);
  expect_exact_task_gradients(ProgressiveLayeredExtraction(ProgressiveLayeredExtractionOptions(6, 3).levels({{.expert = {5}}, {.expert = {4, 3}}})), random);
  expect_exact_task_gradients(AdaTT(AdaTTOptions(6, 3).levels({{5}, {4}}).shared(1)), random);
  expect_exact_task_gradients(CrossStitch(CrossStitchOptions(6, 3).levels({{5}, {4, 3}})), random);
}

}  // namespace
}  // namespace htl
