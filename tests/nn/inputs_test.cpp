// SPDX-License-Identifier: Apache-2.0
/// @file inputs_test.cpp
/// @brief PeriodicEmbedding, PiecewiseLinearEmbedding with quantile_edges(), TargetAttention: against loops in fp64 and differences, padding and empty
/// histories, histories from tables, exact task gradients, state, sentences.
#include <htl/embedding/field_embedding.hpp>
#include <htl/gradient/backward.hpp>
#include <htl/nn/periodic_embedding.hpp>
#include <htl/nn/piecewise_linear_embedding.hpp>
#include <htl/nn/target_attention.hpp>

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/serialize.h>
#include <support/dense_rows.hpp>
#include <support/given.hpp>
#include <support/gradcheck.hpp>
#include <support/modules.hpp>
#include <support/seeded.hpp>

#include <limits>
#include <sstream>

namespace htl {
namespace {

using at::Tensor;
using test::close;
using test::randomize;
using test::same_bits;
using test::sentence_of;
using Tensors = std::vector<Tensor>;
using Parameters = torch::OrderedDict<std::string, Tensor>;

double number(const Tensor& tensor, std::initializer_list<int64_t> place) {
  Tensor at_place = tensor.detach();
  for (const int64_t index : place) at_place = at_place[index];
  return at_place.item<double>();
}
/// act(W_i p_i + b_i), number by number; p [B, N, K].
Tensor loop_of_linear(const Parameters& p, const Tensor& inputs, bool relu) {
  Tensors columns;
  for (int64_t i = 0; i < inputs.size(1); ++i) columns.push_back(at::linear(inputs.select(1, i), p["linear.weight"][i], p["linear.bias"][i]));
  const Tensor all = at::cat(columns, 1);
  return relu ? all.relu() : all;
}

TEST(PeriodicEmbedding, IsSinesAndCosinesOfEachNumber) {
  test::Random random(1);
  for (const int64_t dim : {0, 3})
    for (const Activation activation : {Activation::relu, Activation::none}) {
      PeriodicEmbedding net(PeriodicEmbeddingOptions(4, 2).dim(dim).activation(activation));
      randomize(net, random);
      const Tensor x = random.normal({5, 4});
      Tensor waves = at::zeros({5, 4, 4}, at::kDouble);
      for (int64_t b = 0; b < 5; ++b)
        for (int64_t i = 0; i < 4; ++i)
          for (int64_t k = 0; k < 2; ++k) {
            const double angle = 2.0 * std::acos(-1.0) * number(net->frequencies, {i, k}) * number(x, {b, i});
            waves[b][i][k] = std::sin(angle);
            waves[b][i][2 + k] = std::cos(angle);
          }
      const Tensor expected = dim == 0 ? waves.view({5, 16}) : loop_of_linear(net->named_parameters(), waves, activation == Activation::relu);
      EXPECT_TRUE(close(net->forward(x), expected));
      EXPECT_EQ(net->width(), expected.size(1));
      EXPECT_TRUE(test::gradcheck_module([&](const Tensors& in) { return net->forward(in[0]); }, *net, {x}));
    }
}

TEST(PeriodicEmbedding, DrawsItsFrequenciesWithTheGivenSpread) {
  at::manual_seed(3);
  for (const double sigma : {.01, 1.0}) {
    PeriodicEmbedding net(PeriodicEmbeddingOptions(50, 40).sigma(sigma));
    EXPECT_NEAR(net->frequencies.std().item<double>(), sigma, .08 * sigma);
  }
}

TEST(QuantileEdges, AreTheDistinctQuantilesOfEachColumn) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  // numpy.quantile([0, 1, 2, 3, 10], [0, .25, .5, .75, 1]) and of [5, 5, 5, 7]
  const Tensor numbers = at::tensor({3., 5., 0., 5., 10., nan, 2., 7., 1., 5.}, at::kDouble).view({5, 2});
  EXPECT_EQ(quantile_edges(numbers, 4), (std::vector<std::vector<double>>{{0, 1, 2, 3, 10}, {5, 5.5, 7}}));
  EXPECT_EQ(quantile_edges(numbers.to(at::kFloat), 3), (std::vector<std::vector<double>>{{0, 1 + 1. / 3., 2 + 2. / 3., 10}, {5, 7}}));
  test::Random random(2);
  const Tensor many = random.normal({4000, 1});
  const auto edges = quantile_edges(many, 8)[0];
  ASSERT_EQ(edges.size(), 9U);
  for (size_t m = 0; m < 8; ++m) EXPECT_NEAR((at::logical_and(many >= edges[m], many < edges[m + 1])).sum().item<double>(), 500, 2);
  EXPECT_EQ(sentence_of([&] {
              quantile_edges(at::ones({3, 2}), 4);
            }),
            "htl::quantile_edges: column 0 has fewer than two different numbers, so it says nothing; leave it out");
  EXPECT_EQ(sentence_of([&] {
              quantile_edges(at::tensor({0., 1. / 0.}).view({2, 1}), 4);
            }),
            "htl::quantile_edges: column 0 has infinite numbers; clip them or make them missing (NaN)");
  EXPECT_EQ(sentence_of([&] { quantile_edges(numbers, 0); }), "htl::quantile_edges: expected at least one bin, got 0");
}

TEST(PiecewiseLinearEmbedding, SaysHowFarANumberHasComeInEachBin) {
  PiecewiseLinearEmbedding net(PiecewiseLinearEmbeddingOptions({{0, 1, 3}, {-1, 1}}));
  EXPECT_EQ(net->width(), 4);
  // the first bin goes on below its edge, the last above; bins that a number has not are 0
  const Tensor x = at::tensor({-.5, 0., 2., -3., 4., 3.}, at::kDouble).view({3, 2});
  EXPECT_TRUE(close(net->forward(x), at::tensor({-.5, 0., .5, 0., 1., .5, -1., 0., 1., 1.5, 2., 0.}, at::kDouble).view({3, 4})));
  test::Random random(3);
  for (int trial = 0; trial < 20; ++trial) {
    const int64_t features = random.integer(1, 4);
    std::vector<std::vector<double>> edges;
    for (int64_t i = 0; i < features; ++i) edges.push_back(quantile_edges(random.normal({30, 1}), random.integer(1, 6))[0]);
    PiecewiseLinearEmbedding plain{PiecewiseLinearEmbeddingOptions(edges)};
    const Tensor numbers = random.normal({20, features}, 1.5), values = plain->forward(numbers).view({20, features, plain->bins()});
    // piece by piece the way adds up to the number: Σ_m (b_m − b_{m−1}) e_m = x − b_0
    EXPECT_TRUE(close((values * plain->edges.diff(1, 1)).sum(2), numbers - plain->edges.select(1, 0)));
    for (int64_t i = 0; i < features; ++i)
      for (int64_t b = 0; b < 20; ++b)
        for (size_t m = 0; m < static_cast<size_t>(plain->bins()); ++m) {
          const std::vector<double>& of = edges[static_cast<size_t>(i)];
          double expected = 0.0;
          if (m + 1 < of.size()) {
            expected = (number(numbers, {b, i}) - of[m]) / (of[m + 1] - of[m]);
            if (m > 0) expected = std::max(expected, 0.0);
            if (m + 2 < of.size()) expected = std::min(expected, 1.0);
          }
          EXPECT_NEAR(number(values, {b, i, static_cast<int64_t>(m)}), expected, 1e-12);
        }
    PiecewiseLinearEmbedding mapped(PiecewiseLinearEmbeddingOptions(edges).dim(2).activation(Activation::none));
    randomize(mapped, random);
    EXPECT_TRUE(close(mapped->forward(numbers), loop_of_linear(mapped->named_parameters(), values, false)));
    if (trial == 0) {
      EXPECT_TRUE(test::gradcheck_module([&](const Tensors& in) { return mapped->forward(in[0]); }, *mapped, {numbers}));
    }
  }
}

TEST(PiecewiseLinearEmbedding, KeepsItsEdgesThroughTypesClonesAndFiles) {
  at::manual_seed(4);
  const std::vector<std::vector<double>> edges{{1.7e9, 1.7e9 + 60, 1.7e9 + 3600}, {0.1, 0.2}};
  const auto make = [&](double shift) {
    std::vector<std::vector<double>> shifted = edges;
    shifted[1][1] += shift;
    return PiecewiseLinearEmbedding(PiecewiseLinearEmbeddingOptions(shifted).dim(3));
  };
  PiecewiseLinearEmbedding net = make(0.0), other = make(0.3);
  const Tensor x = at::tensor({1.7e9 + 30, .15}, at::kDouble).unsqueeze(0);
  net->to(at::kBFloat16);
  net->to(at::kDouble);
  EXPECT_EQ(net->edges.scalar_type(), at::kDouble);
  EXPECT_EQ(number(net->edges, {0, 1}), 1.7e9 + 60);
  const Tensor expected = net->forward(x);
  auto copy = std::dynamic_pointer_cast<PiecewiseLinearEmbeddingImpl>(net->clone());
  std::stringstream stream;
  torch::save(net, stream);
  other->to(at::kDouble);
  torch::load(other, stream);
  EXPECT_TRUE(same_bits(copy->forward(x), expected));
  EXPECT_TRUE(same_bits(other->forward(x), expected)) << "the edges come from the file";
  net->edges.zero_();
  EXPECT_TRUE(same_bits(copy->forward(x), expected)) << "a clone shares nothing";
  copy->to(at::kFloat);
  EXPECT_EQ(copy->edges.scalar_type(), at::kDouble);
  EXPECT_EQ(copy->forward(x.to(at::kFloat)).scalar_type(), at::kFloat);
  EXPECT_EQ(net->named_parameters().keys(), (std::vector<std::string>{"linear.weight", "linear.bias"}));
  EXPECT_EQ(net->named_buffers().keys(), (std::vector<std::string>{"edges"}));
}

TEST(NumericEmbeddings, PrintThemselvesAndSayWhatIsWrong) {
  std::ostringstream text;
  text << *PeriodicEmbedding(PeriodicEmbeddingOptions(4, 2)) << "\n" << *PiecewiseLinearEmbedding(PiecewiseLinearEmbeddingOptions({{0, 1, 2}}));
  EXPECT_EQ(text.str(),
            "htl::PeriodicEmbedding(features=4, frequencies=2, dim=0, sigma=0.1)\n"
            "htl::PiecewiseLinearEmbedding(features=1, bins=2, dim=0)");
  EXPECT_EQ(sentence_of([] { PeriodicEmbedding(PeriodicEmbeddingOptions(0, 2)); }),
            "htl::PeriodicEmbedding: expected at least one number and one frequency, got 0 and 2");
  EXPECT_EQ(sentence_of([] { PeriodicEmbedding(PeriodicEmbeddingOptions(1, 2).sigma(0)); }), "htl::PeriodicEmbedding: expected sigma > 0, got 0");
  EXPECT_EQ(sentence_of([] {
              PeriodicEmbedding(PeriodicEmbeddingOptions(1, 2))->forward(at::ones({3, 2}));
            }),
            "htl::PeriodicEmbedding: expected numbers of shape [any, 1], got [3, 2]");
  using Edges = std::vector<std::vector<double>>;
  const auto made = [](const Edges& edges) { return sentence_of([&] { PiecewiseLinearEmbedding{PiecewiseLinearEmbeddingOptions(edges)}; }); };
  EXPECT_EQ(made({}), "htl::PiecewiseLinearEmbedding: expected edges of at least one number, got none");
  EXPECT_EQ(made({{0, 1}, {1}}), "htl::PiecewiseLinearEmbedding: expected at least 2 edges for number 1, got 1");
  EXPECT_EQ(made({{0, 2, 2}}), "htl::PiecewiseLinearEmbedding: expected finite edges that rise for number 0, got [0, 2, 2]");
}

/// A history in every form, and the formula entry by entry.
struct History {
  Tensor padded, mask, lengths, target, entries, offsets;
  History(test::Random& random, int64_t rows, int64_t length, int64_t dim, bool in_front) {
    padded = random.normal({rows, length, dim});
    target = random.normal({rows, dim});
    lengths = random.ids({rows}, length + 1);
    if (rows > 0) lengths[0] = 0;
    mask = in_front ? at::arange(length).unsqueeze(0) < lengths.unsqueeze(1) : random.mask({rows, length}, .6);
    const Tensor counts = mask.sum(1);
    offsets = at::cat({at::zeros({1}, at::kLong), counts.cumsum(0)});
    entries = padded.reshape({rows * length, dim}).index_select(0, mask.reshape({-1}).nonzero().squeeze(1));
  }
};
std::pair<Tensor, Tensor> loop_of(TargetAttention& net, const Tensor& entries, const Tensor& offsets, const Tensor& target) {
  const Parameters p = net->named_parameters();
  Tensors rows, weights;
  for (int64_t b = 0; b < target.size(0); ++b) {
    const int64_t first = offsets[b].item<int64_t>(), count = offsets[b + 1].item<int64_t>() - first;
    const Tensor h = entries.narrow(0, first, count), t = target[b].unsqueeze(0).expand_as(h);
    Tensor hidden = at::linear(at::cat({h, t, h - t, h * t}, 1), p["first.weight"], p["first.bias"]).relu();
    for (int l = 0; p.contains("rest." + std::to_string(l) + ".weight"); ++l)
      hidden = at::linear(hidden, p["rest." + std::to_string(l) + ".weight"], p["rest." + std::to_string(l) + ".bias"]).relu();
    Tensor w = at::linear(hidden, p["output.weight"], p["output.bias"]);
    if (net->options.softmax()) w = w.softmax(0);
    rows.push_back((w * h).sum(0));
    weights.push_back(w.squeeze(1));
  }
  return {at::stack(rows), at::cat(weights)};
}

TEST(TargetAttention, EqualsItsFormulaForPaddedHistoriesAndBags) {
  test::Random random(5);
  for (int trial = 0; trial < 40; ++trial) {
    const int64_t rows = random.integer(1, 7), length = random.integer(1, 6), dim = random.integer(1, 5);
    const bool in_front = random.chance(.5), softmax = random.chance(.5);
    History in(random, rows, length, dim, in_front);
    TargetAttention net(TargetAttentionOptions(dim).hidden(random.pick<std::vector<int64_t>>({{4}, {5, 3}})).softmax(softmax));
    randomize(net, random);
    net->keep_weights();
    Tensors leaves = net->parameters();
    const Tensor target = in.target.clone().requires_grad_(), entries = in.entries.clone().requires_grad_(), cotangent = random.normal({rows, dim});
    leaves.push_back(target);
    leaves.push_back(entries);
    const auto [expected, weights] = loop_of(net, entries, in.offsets, target);
    const auto reference = torch::autograd::grad({expected}, leaves, {cotangent});
    const auto compare = [&](const Tensor& ours, const Tensor& of_entries, const std::string& form) {
      EXPECT_TRUE(close(ours, expected)) << "trial " << trial << ", " << form;
      Tensors ours_leaves = leaves;
      ours_leaves.back() = of_entries;
      const auto gradients = torch::autograd::grad({ours}, ours_leaves, {cotangent});
      for (size_t i = 0; i + 1 < leaves.size(); ++i) EXPECT_TRUE(close(gradients[i], reference[i], 1e-11, 1e-11)) << form << ", leaf " << i;
      const Tensor of = gradients.back().dim() == 3 ? gradients.back().reshape({rows * length, dim}).index_select(0, in.mask.reshape({-1}).nonzero().squeeze(1))
                                                    : gradients.back();
      EXPECT_TRUE(close(of, reference.back(), 1e-11, 1e-11)) << form;
    };
    compare(net->forward_bags(entries, in.offsets, target), entries, "bags");
    EXPECT_TRUE(close(net->kept_weights(), weights));
    const Tensor padded = in.padded.clone().requires_grad_();
    compare(net->forward(padded, target, in.mask), padded, "mask");
    EXPECT_TRUE(close(net->kept_weights().masked_select(in.mask), weights));
    EXPECT_FALSE(net->kept_weights().masked_fill(in.mask, 0.0).any().item<bool>());
    if (in_front) compare(net->forward_lengths(padded, target, in.lengths), padded, "lengths");
    // the way of other devices
    const Tensor row = at::arange(rows).repeat_interleave(in.offsets.diff());
    const auto scores_of = [&](const Tensor& hidden) {
      const Parameters p = net->named_parameters();
      Tensor h = hidden;
      if (p.contains("rest.0.weight")) h = at::linear(h, p["rest.0.weight"], p["rest.0.bias"]).relu();
      return at::linear(h, p["output.weight"], p["output.bias"]).squeeze(1);
    };
    const Tensor weight = net->named_parameters()["first.weight"], bias = net->named_parameters()["first.bias"];
    const Tensor hidden = detail::entry_layer_tensors(entries, target, row, weight, bias, 0.0, std::nullopt);
    compare(detail::bag_sum_tensors(scores_of(hidden), entries, row, rows, softmax, {}).first, entries, "tensors");
    const Tensor all = in.padded.reshape({rows * length, dim}).requires_grad_(), valid = in.mask.reshape({-1});
    const Tensor all_rows = at::arange(rows).repeat_interleave(length);
    const auto [out, of_all] = detail::bag_sum_tensors(scores_of(detail::entry_layer_tensors(all, target, all_rows, weight, bias, 0.0, std::nullopt)), all,
                                                       all_rows, rows, softmax, valid);
    const Tensor gradient = torch::autograd::grad({out}, {all}, {cotangent})[0];
    EXPECT_TRUE(close(out, expected)) << "masked tensors";
    EXPECT_TRUE(close(gradient.index_select(0, valid.nonzero().squeeze(1)), reference.back(), 1e-11, 1e-11)) << "masked tensors";
    EXPECT_FALSE(gradient.masked_fill(valid.unsqueeze(1), 0.0).any().item<bool>());
  }
}

TEST(TargetAttention, WithoutAMaskTakesEveryEntry) {
  test::Random random(6);
  TargetAttention net(TargetAttentionOptions(3));
  randomize(net, random);
  const Tensor history = random.normal({4, 5, 3}), target = random.normal({4, 3});
  EXPECT_TRUE(same_bits(net->forward(history, target), net->forward(history, target, at::ones({4, 5}, at::kBool))));
  EXPECT_TRUE(close(net->forward(history, target), loop_of(net, history.reshape({20, 3}), at::arange(5) * 5, target).first));
}

TEST(TargetAttention, GivesZerosForEmptyHistoriesAndLooksAtNoPadding) {
  test::Random random(7);
  for (const bool softmax : {false, true}) {
    TargetAttention net(TargetAttentionOptions(3).softmax(softmax));
    randomize(net, random);
    const Tensor history = random.normal({3, 4, 3}), mask = at::zeros({3, 4}, at::kBool);
    mask[1].fill_(true);
    history[0].fill_(std::numeric_limits<double>::quiet_NaN());
    history[2].fill_(std::numeric_limits<double>::infinity());
    history.requires_grad_();
    const Tensor target = random.normal({3, 3}).requires_grad_();
    const Tensor out = net->forward(history, target, mask);
    EXPECT_TRUE(same_bits(out[0], at::zeros(3, at::kDouble)));
    EXPECT_TRUE(same_bits(out[2], at::zeros(3, at::kDouble)));
    EXPECT_TRUE(out.isfinite().all().item<bool>());
    out.square().sum().backward();
    for (const Tensor& gradient : {history.grad(), target.grad()}) {
      EXPECT_TRUE(gradient.isfinite().all().item<bool>());
      EXPECT_FALSE(gradient[0].any().item<bool>());
      EXPECT_TRUE(gradient[1].any().item<bool>());
    }
    for (const Tensor& parameter : net->parameters()) EXPECT_TRUE(parameter.grad().isfinite().all().item<bool>());
    // nothing at all
    net->zero_grad();
    const Tensor none = net->forward_bags(at::zeros({0, 3}, at::kDouble), at::zeros({4}, at::kLong), target);
    EXPECT_TRUE(same_bits(none, at::zeros({3, 3}, at::kDouble)));
    none.sum().backward();
    EXPECT_EQ(net->forward(at::zeros({0, 4, 3}, at::kDouble), at::zeros({0, 3}, at::kDouble)).sizes(), (std::vector<int64_t>{0, 3}));
    EXPECT_EQ(net->forward(at::zeros({2, 0, 3}, at::kDouble), at::zeros({2, 3}, at::kDouble)).sizes(), (std::vector<int64_t>{2, 3}));
  }
}

TEST(TargetAttention, AgreesWithFiniteDifferencesAlsoUnderDropout) {
  test::Random random(8);
  for (const bool softmax : {false, true})
    for (const double dropout : {0.0, .3}) {
      at::Generator generator = at::detail::createCPUGenerator(1);
      TargetAttention net(TargetAttentionOptions(2).hidden({6, 5}).softmax(softmax).dropout(dropout).generator(generator));
      randomize(net, random, 1.0);
      const Tensor offsets = at::tensor({0, 2, 2, 5}, at::kLong);
      const auto run = [&](const Tensors& in) {
        generator.set_current_seed(5);
        return net->forward_bags(in[0], offsets, in[1]);
      };
      EXPECT_TRUE(test::gradcheck_module(run, *net, {random.normal({5, 2}), random.normal({3, 2})})) << "softmax " << softmax << ", dropout " << dropout;
    }
}

TEST(TargetAttention, ReadsHistoriesOfAFieldFromTheTableOfAllFields) {
  test::Random random(9);
  at::manual_seed(9);
  FieldEmbedding embedding(FieldEmbeddingOptions({5, 9}, 4).frozen_zero(true).initial_sd(.5));
  TargetAttention net(TargetAttentionOptions(4));
  net->to(at::kFloat);
  const Tensor history = at::tensor({3, 1, 0, 0, 0, 0, 8, 8, 2}, at::kLong).view({3, 3});  // 0 = nothing
  const Tensor ids = at::tensor({1, 7, 2, 3, 4, 4}, at::kLong).view({3, 2});
  const FieldRows field = embedding->fields()[1];
  const Tensor target = embedding->lookup(FieldBatch::of(ids)).values().narrow(1, 4, 4);
  const Tensor padded = htl::lookup(embedding->table(), FieldBatch::of(history), std::vector<FieldRows>(3, field)).values().view({3, 3, 4});
  const Tensor by_mask = net->forward(padded, target, history != 0);
  const Tensor entries = htl::lookup(embedding->table(), FieldBatch::of(at::tensor({3, 1, 8, 8, 2}, at::kLong).unsqueeze(1)), {field}).values();
  const Tensor by_bags = net->forward_bags(entries, at::tensor({0, 2, 2, 5}, at::kLong), target);
  EXPECT_TRUE(close(by_mask, by_bags, 1e-5, 1e-6));
  by_mask.square().sum().backward();
  const Tensor of_mask = test::dense_gradient(embedding->table());
  embedding->table().gradient().clear();
  by_bags.square().sum().backward();
  EXPECT_TRUE(close(test::dense_gradient(embedding->table()), of_mask, 1e-4, 1e-6));
  EXPECT_TRUE(of_mask[5 + 8].any().item<bool>());
  EXPECT_FALSE(of_mask[5].any().item<bool>()) << "what stands for nothing is not trained";
}

TEST(InputBlocks, GiveTheForkExactTaskGradients) {
  test::Random random(10);
  const int64_t rows = 6, length = 4, dim = 3;
  TargetAttention attention(TargetAttentionOptions(dim).hidden({5, 4}));
  PeriodicEmbedding periodic(PeriodicEmbeddingOptions(2, 3).dim(2));
  PiecewiseLinearEmbedding piecewise(PiecewiseLinearEmbeddingOptions({{-1, 0, 1}, {-1, 1}}).dim(2));
  randomize(attention, random);
  randomize(periodic, random);
  randomize(piecewise, random);
  const RowTable table(random.normal({7, dim}).requires_grad_(), "items");
  const FieldBatch history = FieldBatch::of(random.ids({rows, length}, 7)), item = FieldBatch::of(random.ids({rows, 1}, 7));
  const Tensor numbers = random.normal({rows, 2}), heads = random.normal({2, dim + 8}), goal = random.normal({rows});
  const auto losses_of = [&](const Tensor& entries, const Tensor& target) {
    const Tensor x = at::cat({attention->forward(entries.view({rows, length, dim}), target), periodic->forward(numbers), piecewise->forward(numbers)}, 1);
    return Tensors{(x.mv(heads[0]) - goal).square().mean(), x.mv(heads[1]).sin().mean()};
  };
  GradientFork<test::Given> fork(TaskSet{regression("a"), regression("b")}, {.values = {1.5, -2.0}});
  const Tensors ours = losses_of(lookup(table, history).values(), lookup(table, item).values());
  const Shared named = shared(attention, periodic, piecewise, table);
  TaskLosses losses;
  losses.set("a", ours[0]).set("b", ours[1]);
  const GradientReport report = backward(losses, fork, named);
  Tensors leaves, got, jacobian;
  for (const Shared::Parameter& parameter : named.parameters()) {
    leaves.push_back(parameter.value);
    got.push_back(parameter.value.grad().flatten());
  }
  leaves.push_back(table.weight().detach().clone().requires_grad_());
  got.push_back(test::dense_gradient(table).flatten());
  for (const Tensor& loss : losses_of(at::embedding(leaves.back(), history.ids), at::embedding(leaves.back(), item.ids).squeeze(1))) {
    Tensors flat;
    for (const Tensor& gradient : torch::autograd::grad({loss}, leaves, {}, true)) flat.push_back(gradient.flatten());
    jacobian.push_back(at::cat(flat));
  }
  const Tensor j = at::stack(jacobian);
  EXPECT_TRUE(close(report.gramian, j.mm(j.t()), 1e-10, 1e-10));
  EXPECT_TRUE(close(at::cat(got), at::tensor({1.5, -2.0}, at::kDouble).matmul(j), 1e-10, 1e-10));
}

TEST(TargetAttention, ClonesSavesLoadsAndRepeatsItsBits) {
  at::manual_seed(11);
  const auto make = [] { return TargetAttention(TargetAttentionOptions(8).softmax(true).dropout(.2)); };
  TargetAttention net = make(), other = make();
  const Tensor history = at::randn({300, 9, 8}), target = at::randn({300, 8}), mask = at::rand({300, 9}) < .7;
  const auto run = [&](TargetAttention& of, int threads) {
    const int before = at::get_num_threads();
    at::set_num_threads(threads);
    at::manual_seed(12);
    of->zero_grad();
    const Tensor out = of->forward(history, target, mask);
    out.square().mean().backward();
    at::set_num_threads(before);
    return Tensors{out, of->parameters()[0].grad().clone()};
  };
  const Tensors expected = run(net, 1);
  for (const Tensors& again : {run(net, 1), run(net, 2)})
    for (size_t i = 0; i < 2; ++i) EXPECT_TRUE(same_bits(again[i], expected[i]));
  TargetAttention copy(std::dynamic_pointer_cast<TargetAttentionImpl>(net->clone()));
  std::stringstream stream;
  torch::save(net, stream);
  torch::load(other, stream);
  EXPECT_EQ(net->named_parameters().keys(),
            (std::vector<std::string>{"first.weight", "first.bias", "rest.0.weight", "rest.0.bias", "output.weight", "output.bias"}));
  {
    const at::NoGradGuard no_grad;
    for (Tensor& parameter : net->parameters()) parameter.zero_();
  }
  EXPECT_TRUE(same_bits(run(copy, 1)[0], expected[0])) << "a clone shares nothing";
  EXPECT_TRUE(same_bits(run(other, 1)[0], expected[0]));
  // other types go by tensors
  copy->eval();
  const Tensor exact = copy->forward(history, target, mask);
  at::autocast::set_autocast_enabled(at::kCPU, true);
  EXPECT_TRUE(close(copy->forward(history, target, mask), exact, .1, .05));
  at::autocast::set_autocast_enabled(at::kCPU, false);
  at::autocast::clear_cache();
  copy->to(at::kBFloat16);
  EXPECT_TRUE(close(copy->forward(history.to(at::kBFloat16), target.to(at::kBFloat16), mask), exact, .1, .05));
}

TEST(TargetAttention, ByTensorsSumsManyWeightsAndLooksAtNoPadding) {
  // 1000 equal entries in bfloat16, whose own sums would stand still at 256
  const Tensor entries = at::ones({1000, 2}, at::kBFloat16), row = at::zeros({1000}, at::kLong);
  const auto [sum, weights] = detail::bag_sum_tensors(at::zeros({1000}, at::kBFloat16), entries, row, 1, true, {});
  EXPECT_NEAR(weights.sum().item<double>(), 1.0, 1e-5);
  // a score of padding that overflows has neither weight nor gradient
  const Tensor scores = at::tensor({1.0, 2.0, 1e4}).requires_grad_(), valid = at::tensor({1, 1, 0}).to(at::kBool);
  const auto [out, kept] = detail::bag_sum_tensors(scores, at::ones({3, 2}), at::zeros({3}, at::kLong), 1, true, valid);
  EXPECT_EQ(kept[2].item<double>(), 0.0);
  (out * at::tensor({1.0, 2.0})).sum().backward();
  EXPECT_TRUE(scores.grad().isfinite().all().item<bool>());
  EXPECT_EQ(scores.grad()[2].item<double>(), 0.0);
}

TEST(TargetAttention, PrintsItselfAndSaysWhatIsWrong) {
  TargetAttention net(TargetAttentionOptions(3).softmax(true));
  std::ostringstream text;
  text << *net;
  EXPECT_EQ(text.str().find("htl::TargetAttention(dim=3, hidden=[80, 40], softmax)(\n  (first): htl::Dense("), 0U) << text.str();
  EXPECT_EQ(sentence_of([&] {
              net->forward(at::ones({2, 4, 2}), at::ones({2, 3}));
            }),
            "htl::TargetAttention: expected a history of shape [any, any, 3], got [2, 4, 2]");
  EXPECT_EQ(sentence_of([&] { net->forward(at::ones({2, 4, 3}), at::ones({1, 3})); }), "htl::TargetAttention: expected targets of shape [2, 3], got [1, 3]");
  EXPECT_EQ(sentence_of([&] {
              net->forward(at::ones({2, 4, 3}), at::ones({2, 3}), at::ones({2, 4}));
            }),
            "htl::TargetAttention: expected a mask of bools, got Float");
  for (const std::vector<int64_t>& ends : {std::vector<int64_t>{0, 3, 2}, std::vector<int64_t>{1, 1, 2}, std::vector<int64_t>{0, 1, 3}})
    EXPECT_EQ(sentence_of([&] {
                net->forward_bags(at::ones({2, 3}), at::tensor(ends, at::kLong), at::ones({2, 3}));
              }),
              "htl::TargetAttention: expected offsets that run from 0 to 2 without decreasing");
  EXPECT_EQ(sentence_of([] { TargetAttention(TargetAttentionOptions(3).hidden({})); }),
            "htl::TargetAttention: expected at least one hidden layer, got none; give widths such as {80, 40}");
  EXPECT_EQ(sentence_of([] { TargetAttention(TargetAttentionOptions(0)); }), "htl::TargetAttention: expected a width ≥ 1, got 0");
}

}  // namespace
}  // namespace htl
