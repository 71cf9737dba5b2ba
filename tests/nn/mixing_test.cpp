// SPDX-License-Identifier: Apache-2.0
/// @file mixing_test.cpp
/// @brief What mixtures of experts are made of: GroupedDense, ParallelMlp, weighted sums, gate dropout, ExpertLoad; by loops and by tensors. And
/// the blocks' state, bits and sentences.
#include <htl/nn/adatt.hpp>
#include <htl/nn/cross_stitch.hpp>
#include <htl/nn/mixture_of_experts.hpp>
#include <htl/nn/mlp.hpp>
#include <htl/nn/progressive_layered_extraction.hpp>

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/serialize.h>
#include <support/gradcheck.hpp>
#include <support/seeded.hpp>

#include <sstream>

namespace htl {
namespace {

using at::Tensor;
using test::close;
using test::same_bits;
using test::sentence_of;
using Tensors = std::vector<Tensor>;

/// Σ_e w_e E_e.
Tensor loop_of_mixture(const Tensor& weights, const Tensors& experts) {
  Tensor sum = at::zeros_like(experts[0]);
  for (size_t e = 0; e < experts.size(); ++e) sum = sum + weights.narrow(1, static_cast<int64_t>(e), 1) * experts[e];
  return sum;
}

TEST(GroupedDense, IsALinearLayerAGroupByLoopsAndByTensorsAlike) {
  test::Random random(1);
  for (int trial = 0; trial < 60; ++trial) {
    const int64_t groups = random.integer(1, 5), inputs = random.integer(1, 6), outputs = random.integer(1, 7), rows = random.pick<int64_t>({0, 1, 9, 300});
    const bool relu = random.chance(.5), with_bias = random.chance(.7);
    GroupedDense layer(GroupedDenseOptions(groups, inputs, outputs).bias(with_bias).activation(relu ? Activation::relu : Activation::none));
    layer->to(at::kDouble);
    const Tensor x = (random.chance(.5) ? random.normal({groups * inputs, rows}).t() : random.normal({rows, groups * inputs})).requires_grad_();
    Tensors leaves = layer->parameters(), parts;
    leaves.push_back(x);
    for (int64_t g = 0; g < groups; ++g)
      parts.push_back(at::linear(x.narrow(1, g * inputs, inputs), layer->weight[g], with_bias ? std::optional<Tensor>(layer->bias[g]) : std::nullopt));
    const Tensor expected = relu ? at::cat(parts, 1).relu() : at::cat(parts, 1), cotangent = random.normal({rows, groups * outputs});
    const auto reference = torch::autograd::grad({expected}, leaves, {cotangent}, true);
    for (const Tensor& ours : {layer->forward(x), detail::grouped_linear_tensors(x, layer->weight, layer->bias, relu, 0.0, std::nullopt)}) {
      EXPECT_TRUE(close(ours, expected));
      const auto gradients = torch::autograd::grad({ours}, leaves, {cotangent});
      for (size_t i = 0; i < leaves.size(); ++i) EXPECT_TRUE(close(gradients[i], reference[i])) << "trial " << trial << ", leaf " << i;
    }
  }
}

TEST(GroupedDense, DropsOutputsAndPassesNoGradientThroughThem) {
  at::Generator generator = at::detail::createCPUGenerator(1);
  GroupedDense layer(GroupedDenseOptions(3, 4, 5).activation(Activation::relu).dropout(.4).generator(generator));
  test::Random random(2);
  layer->to(at::kDouble);
  const auto run = [&](const Tensors& in) {
    generator.set_current_seed(7);
    return layer->forward(in[0]);
  };
  EXPECT_TRUE(test::gradcheck_module(run, *layer, {random.normal({6, 12})}));
  layer->eval();
  const Tensor x = random.normal({500, 12}), kept = layer->forward(x);
  layer->train();
  const Tensor dropped = layer->forward(x);
  const double share = at::logical_and(dropped == 0, kept > 0).sum().item<double>() / (kept > 0).sum().item<double>();
  EXPECT_NEAR(share, .4, .03);
  EXPECT_TRUE(close(dropped.where(dropped != 0, 0.0), (kept / .6).where(dropped != 0, 0.0)));
}

TEST(ParallelMlp, IsSeveralMlpsWithTheSameOrTheirOwnInputs) {
  test::Random random(12);
  for (const bool own_inputs : {false, true}) {
    ParallelMlp all(ParallelMlpOptions({4}, 3, {5, 2}).own_inputs(own_inputs));
    all->to(at::kDouble);
    const Tensor x = random.normal({7, own_inputs ? 12 : 4}), out = all->forward(x);
    const auto parameters = all->named_parameters();
    for (int64_t i = 0; i < 3; ++i) {
      Mlp alone(MlpOptions(4, {5, 2}));
      alone->to(at::kDouble);
      const at::NoGradGuard no_grad;
      for (auto& item : alone->named_parameters()) {
        const Tensor& of = parameters[item.key()];
        item.value().copy_(of.sizes().slice(1) == item.value().sizes() ? of[i] : of.narrow(0, i * item.value().size(0), item.value().size(0)));
      }
      EXPECT_TRUE(close(out.narrow(1, 2 * i, 2), alone->forward(own_inputs ? x.narrow(1, 4 * i, 4) : x)));
    }
  }
  EXPECT_EQ(sentence_of([] {
              ParallelMlp(ParallelMlpOptions({4, 2}, 3, {5}).own_inputs(true));
            }),
            "htl::ParallelMlp: expected one part with own_inputs, got 2");
  EXPECT_EQ(sentence_of([] { ParallelMlp(ParallelMlpOptions({4}, 0, {5})); }), "htl::ParallelMlp: expected at least one MLP, got 0");
}

TEST(Mix, EqualsItsSumByLoopsAndByTensorsWhateverReadsWhat) {
  test::Random random(3);
  for (int trial = 0; trial < 150; ++trial) {
    const int64_t width = random.integer(1, 5), rows = random.pick<int64_t>({0, 1, 5, 70});
    Tensors blocks, leaves;
    detail::MixReads reads;
    int64_t columns = 0;
    for (int64_t k = random.integer(1, 4); k > 0; --k) {
      const int64_t count = random.integer(1, 3) * width;
      const Tensor wide = random.normal({rows, count + 3});
      leaves.push_back((random.chance(.5) ? wide.narrow(1, 2, count) : random.normal({rows, count})).detach().requires_grad_());
      blocks.push_back(leaves.back());
    }
    const bool is_same = random.chance(.3);
    for (int64_t s = random.integer(1, 4); s > 0; --s) {
      std::vector<int64_t> read;
      for (size_t k = 0; k < blocks.size(); ++k)
        if (is_same || random.chance(.6)) read.push_back(static_cast<int64_t>(k));
      if (read.empty()) read.push_back(0);
      for (const int64_t k : read) columns += blocks[static_cast<size_t>(k)].size(1) / width;
      reads.push_back(read);
    }
    const bool is_one_row = random.chance(.3);
    leaves.push_back(random.normal({is_one_row ? 1 : rows, columns}).requires_grad_());
    const Tensor weights = is_one_row ? leaves.back().expand({rows, columns}) : leaves.back();
    Tensors expected, cotangents;
    int64_t column = 0;
    for (const auto& read : reads) {
      Tensors experts;
      for (const int64_t k : read)
        for (const Tensor& expert : blocks[static_cast<size_t>(k)].split(width, 1)) experts.push_back(expert);
      expected.push_back(loop_of_mixture(weights.narrow(1, column, static_cast<int64_t>(experts.size())), experts));
      column += static_cast<int64_t>(experts.size());
      cotangents.push_back(random.normal({rows, width}));
    }
    const bool joined = random.chance(.5);
    // Some losses may be silent: their mixtures then get no gradient at all
    Tensors heard, heard_cotangents;
    std::vector<size_t> which;
    for (size_t s = 0; s < reads.size(); ++s)
      if (joined || random.chance(.7) || s + 1 == reads.size()) which.push_back(s);
    for (const size_t s : which) {
      heard.push_back(expected[s]);
      heard_cotangents.push_back(cotangents[s]);
    }
    const auto reference = torch::autograd::grad(heard, leaves, heard_cotangents, true, false, true);
    for (const bool by_loops : {true, false}) {
      const Tensors ours = by_loops ? detail::mix(weights, blocks, width, reads, joined) : detail::mix_tensors(weights, blocks, width, reads, joined);
      Tensors outputs, given;
      if (joined) {
        ASSERT_EQ(ours.size(), 1U);
        EXPECT_TRUE(close(ours[0], at::cat(expected, 1)));
        outputs = ours;
        given = {at::cat(cotangents, 1)};
      } else {
        ASSERT_EQ(ours.size(), reads.size());
        for (size_t s = 0; s < ours.size(); ++s) EXPECT_TRUE(close(ours[s], expected[s])) << "trial " << trial << ", mixture " << s;
        for (const size_t s : which) outputs.push_back(ours[s]);
        given = heard_cotangents;
      }
      const auto gradients = torch::autograd::grad(outputs, leaves, given, false, false, true);
      for (size_t i = 0; i < leaves.size(); ++i) {
        if (!reference[i].defined()) {
          EXPECT_TRUE(!gradients[i].defined() || !gradients[i].any().item<bool>());
        } else {
          EXPECT_TRUE(close(gradients[i], reference[i])) << "trial " << trial << ", leaf " << i << ", loops " << by_loops;
        }
      }
    }
  }
}

TEST(GateDropout, LeavesASoftmaxOfTheRestAndNeverDropsAll) {
  test::Random random(4);
  const int64_t rows = 3000, experts = 3;
  const Tensor logits = random.normal({rows, 2 * experts}), full = logits.view({rows, 2, experts}).softmax(2);
  at::Generator generator = at::detail::createCPUGenerator(5);
  for (const double p : {.2, .9}) {
    const Tensor weights = detail::gate_weights(logits, experts, p, generator).view({rows, 2, experts});
    const Tensor kept = (weights > 0).to(at::kDouble), of_rest = full * kept;
    EXPECT_TRUE(close(weights, of_rest / of_rest.sum(2, true)));
    EXPECT_TRUE(close(weights.sum(2), at::ones({rows, 2}, at::kDouble)));
    const double expected = p - p * p * p;  // all three would go: none does
    EXPECT_NEAR(1.0 - kept.mean().item<double>(), expected, .015);
  }
  EXPECT_TRUE(close(detail::gate_weights(logits, experts, 0.0, generator).view({rows, 2, experts}), full));
  const auto draw = [&](int threads) {
    const int before = at::get_num_threads();
    at::set_num_threads(threads);
    const Tensor result = detail::gate_weights(logits, experts, .5, at::detail::createCPUGenerator(6));
    at::set_num_threads(before);
    return result;
  };
  EXPECT_TRUE(same_bits(draw(1), draw(2)));
}

TEST(GateDropout, ActsInTrainingOnly) {
  MixtureOfExperts net(MixtureOfExpertsOptions(4, 2).experts(3).expert({5}).gate_dropout(.5));
  ProgressiveLayeredExtraction levels(ProgressiveLayeredExtractionOptions(4, 2).gate_dropout(.5));
  const Tensor x = at::randn({200, 4});
  net->keep_gates();
  levels->keep_gates();
  net->forward(x);
  levels->forward(x);
  EXPECT_TRUE((net->gates() == 0).any().item<bool>());
  EXPECT_TRUE((levels->gates(0)[1] == 0).any().item<bool>());
  net->eval();
  levels->eval();
  net->forward(x);
  levels->forward(x);
  EXPECT_TRUE((net->gates() > 0).all().item<bool>());
  EXPECT_TRUE((levels->gates(0)[1] > 0).all().item<bool>());
}

TEST(ExpertLoad, TellsWhoIsUsed) {
  const Tensor gates = at::tensor({.5, .5, 0., 1., 0., 0., .25, .5, .25, 1., 0., 0.}, at::kDouble).view({2, 2, 3});
  const ExpertLoad load = expert_load(gates);
  EXPECT_TRUE(close(load.mean, at::tensor({.375, .5, .125, 1., 0., 0.}, at::kDouble).view({2, 3})));
  EXPECT_TRUE(close(load.top[1], at::tensor({1., 0., 0.}, at::kDouble)));
  EXPECT_TRUE(close(load.importance, at::tensor({.6875, .25, .0625}, at::kDouble)));
  EXPECT_NEAR(load.variation.item<double>(), std::sqrt((.6875 * .6875 + .25 * .25 + .0625 * .0625) * 3 - 1), 1e-12);
  EXPECT_NEAR(expert_load(at::full({4, 5}, .2, at::kDouble)).variation.item<double>(), 0.0, 1e-12);
  MixtureOfExperts net(MixtureOfExpertsOptions(4, 3).experts(5));
  net->forward(at::randn({7, 4}));
  EXPECT_FALSE(net->gates().defined());
  EXPECT_EQ(sentence_of([&] { expert_load(net->gates()); }),
            "htl::expert_load: expected gates of shape [any, T, n] with at least one row, got undefined; keep them by keep_gates() before forward");
  net->keep_gates();
  net->forward(at::randn({7, 4}));
  EXPECT_EQ(net->gates().sizes(), (std::vector<int64_t>{7, 3, 5}));
  EXPECT_TRUE(close(expert_load(net->gates()).mean.sum(1), at::ones(3), 0.0, 1e-6));
}

TEST(SharedBlocks, CloneSaveLoadAndRepeatTheirBits) {
  const auto check = [](auto make, const std::vector<std::string>& names) {
    at::manual_seed(4);
    auto net = make(), other = make();
    const Tensor x = at::randn({400, 6});
    const Tensors expected = net->forward(x);
    auto copy = std::dynamic_pointer_cast<typename decltype(net)::ContainedType>(net->clone());
    std::stringstream stream;
    torch::save(net, stream);
    torch::load(other, stream);
    EXPECT_EQ(net->named_parameters().keys(), names);
    const auto step = [&](int count) {
      const int threads = at::get_num_threads();
      at::set_num_threads(count);
      net->zero_grad();
      Tensors results = net->forward(x);
      at::stack(results).square().mean().backward();
      for (const Tensor& parameter : net->parameters()) results.push_back(parameter.grad().clone());
      at::set_num_threads(threads);
      return results;
    };
    const Tensors once = step(1), again = step(2);
    for (size_t i = 0; i < once.size(); ++i) EXPECT_TRUE(same_bits(once[i], again[i])) << "tensor " << i;
    {
      const at::NoGradGuard no_grad;
      for (Tensor& parameter : net->parameters()) parameter.zero_();
    }
    const Tensors of_copy = copy->forward(x), of_other = other->forward(x);
    for (size_t t = 0; t < expected.size(); ++t) {
      EXPECT_TRUE(same_bits(of_copy[t], expected[t])) << "a clone shares nothing";
      EXPECT_TRUE(same_bits(of_other[t], expected[t]));
      EXPECT_TRUE(same_bits(once[t], expected[t]));
    }
    copy->to(at::kDouble);  // what a clone holds is what it registered
    EXPECT_EQ(copy->forward(x.to(at::kDouble))[0].scalar_type(), at::kDouble);
    copy->to(at::kBFloat16);
    EXPECT_TRUE(close(copy->forward(x.to(at::kBFloat16))[0], expected[0], .1, .05));
    at::autocast::set_autocast_enabled(at::kCPU, true);
    const Tensor cast = other->forward(x)[0];
    at::autocast::set_autocast_enabled(at::kCPU, false);
    at::autocast::clear_cache();
    EXPECT_TRUE(close(cast, expected[0], .1, .05));
    for (const Tensor& none : other->forward(x.narrow(0, 0, 0))) EXPECT_EQ(none.size(0), 0);
  };
  check([] { return MixtureOfExperts(MixtureOfExpertsOptions(6, 2).experts(3).gate({4})); },
        {"experts.0.weight", "experts.0.bias", "experts.1.weight", "experts.1.bias", "gates.0.weight", "gates.0.bias", "gates.1.weight"});
  check(
      [] {
        return ProgressiveLayeredExtraction(ProgressiveLayeredExtractionOptions(6, 2).levels({{.expert = {8}}, {.expert = {4}}}));
      },
      {"level_0.experts_0.0.weight", "level_0.experts_0.0.bias", "level_0.experts_1.0.weight", "level_0.experts_1.0.bias", "level_0.experts_shared.0.weight",
       "level_0.experts_shared.0.bias", "level_0.gate_0.0.weight", "level_0.gate_1.0.weight", "level_0.gate_shared.0.weight", "level_1.experts_0.0.weight",
       "level_1.experts_0.0.bias", "level_1.experts_1.0.weight", "level_1.experts_1.0.bias", "level_1.experts_shared.0.weight", "level_1.experts_shared.0.bias",
       "level_1.gate_0.0.weight", "level_1.gate_1.0.weight"});
  check([] { return AdaTT(AdaTTOptions(6, 2).levels({{4}})); },
        {"level_0.residual_0", "level_0.residual_1", "level_0.experts_0.0.weight", "level_0.experts_0.0.bias", "level_0.experts_1.0.weight",
         "level_0.experts_1.0.bias", "level_0.gate_0.0.weight", "level_0.gate_1.0.weight"});
  check([] { return CrossStitch(CrossStitchOptions(6, 2)); },
        {"stitch_0", "stitch_1", "level_0.0.weight", "level_0.0.bias", "level_1.0.weight", "level_1.0.bias"});
}

TEST(SharedBlocks, PrintThemselvesAndSayWhatIsWrong) {
  std::ostringstream text;
  text << *MixtureOfExperts(MixtureOfExpertsOptions(430, 3).experts(2).expert({8, 4}).gate_dropout(.1));
  EXPECT_EQ(text.str(),
            "htl::MixtureOfExperts(inputs=[430], tasks=3, experts=2, expert=[8, 4], gate=[], gate_dropout=0.1)(\n"
            "  (experts): htl::ParallelMlp(inputs=[430], count=2, hidden=[8, 4])(\n"
            "    (0): htl::Dense(inputs=[430], outputs=16, relu)\n"
            "    (1): htl::GroupedDense(groups=2, inputs=8, outputs=4, relu)\n"
            "  )\n"
            "  (gates): htl::ParallelMlp(inputs=[430], count=3, hidden=[2])(\n"
            "    (0): htl::Dense(inputs=[430], outputs=6)\n"
            "  )\n"
            ")");
  EXPECT_EQ(sentence_of([] { MixtureOfExperts(MixtureOfExpertsOptions(4, 0)); }), "htl::MixtureOfExperts: expected at least one task, got 0");
  EXPECT_EQ(sentence_of([] { MixtureOfExperts(MixtureOfExpertsOptions(4, 1).experts(0)); }), "htl::MixtureOfExperts: expected at least one expert, got 0");
  EXPECT_EQ(sentence_of([] { MixtureOfExperts(MixtureOfExpertsOptions(4, 1).gate_dropout(1.0)); }),
            "htl::MixtureOfExperts: expected gate_dropout in [0, 1), got 1");
  EXPECT_EQ(sentence_of([] { MixtureOfExperts(MixtureOfExpertsOptions(4, 1).expert({})); }),
            "htl::ParallelMlp: expected at least one layer, got none; give widths such as {128, 64}");
  EXPECT_EQ(sentence_of([] {
              MixtureOfExperts(MixtureOfExpertsOptions(4, 2))->forward(at::ones({2, 3}));
            }),
            "htl::Dense: expected input part 0 of shape [any, 4], got [2, 3]");
  EXPECT_EQ(sentence_of([] { ProgressiveLayeredExtraction(ProgressiveLayeredExtractionOptions(4, 2).levels({{.specific = 0, .shared = 0}})); }),
            "htl::ProgressiveLayeredExtraction: expected experts in level 0, got 0 specific and 0 shared ones");
  EXPECT_EQ(sentence_of([] { ProgressiveLayeredExtraction(ProgressiveLayeredExtractionOptions(4, 2).levels({})); }),
            "htl::ProgressiveLayeredExtraction: expected at least one level, got none");
  EXPECT_EQ(sentence_of([] { AdaTT(AdaTTOptions(4, 2).levels({})); }), "htl::AdaTT: expected at least one level, got none; give widths such as {{128}, {64}}");
  EXPECT_EQ(sentence_of([] { CrossStitch(CrossStitchOptions(4, 2).levels({{}})); }), "htl::CrossStitch: expected at least one layer in level 0, got none");
  EXPECT_EQ(sentence_of([] { CrossStitch(CrossStitchOptions(4, 2).initial(at::eye(3))); }),
            "htl::CrossStitch: expected an initial stitch of shape [2, 2], got [3, 3]");
  EXPECT_EQ(sentence_of([] { GroupedDense(GroupedDenseOptions(2, 0, 1)); }),
            "htl::GroupedDense: expected groups, inputs and outputs of at least 1, got 2, 0 and 1");
  const Tensor x = at::ones({2, 4}).requires_grad_(), y = MixtureOfExperts(MixtureOfExpertsOptions(4, 2).experts(2))->forward(x)[0].sum();
  EXPECT_NE(sentence_of([&] { torch::autograd::grad({y}, {x}, {}, true, /*create_graph=*/true); }).find("has no second derivative"), std::string::npos);
}

}  // namespace
}  // namespace htl
