// SPDX-License-Identifier: Apache-2.0
/// @file tower_test.cpp
/// @brief linear_parts, Dense, Mlp, Tower: against op-by-op autograd and differences, dropout, types, state, sentences.
#include <htl/nn/tower.hpp>

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/nn/modules/linear.h>
#include <torch/serialize.h>
#include <support/gradcheck.hpp>
#include <support/seeded.hpp>

#include <sstream>

namespace htl {
namespace {

using test::close;
using test::close_to_reference;
using test::same_bits;
using test::sentence_of;

struct LinearCase {
  std::vector<at::Tensor> parts;
  at::Tensor weight, bias;
};

LinearCase random_case(test::Random& random, int64_t rows, int64_t outputs, at::ScalarType type = at::kDouble) {
  LinearCase result;
  int64_t width = 0;
  for (int64_t p = random.integer(1, 4); p > 0; --p) {
    const int64_t columns = random.integer(1, 40);
    result.parts.push_back(random.normal({rows, columns}, 1.0, type));
    width += columns;
  }
  result.weight = random.normal({outputs, width}, 0.5, type);
  if (random.chance(0.8)) result.bias = random.normal({outputs}, 0.5, type);
  return result;
}

/// The same by LibTorch's own operators, in fp64 whatever the type.
at::Tensor naive(const LinearCase& c, Activation activation) {
  const at::Tensor x = at::cat(c.parts, 1).to(at::kDouble), weight = c.weight.to(at::kDouble);
  const at::Tensor y = at::linear(x, weight, c.bias.defined() ? std::optional<at::Tensor>(c.bias.to(at::kDouble)) : std::nullopt);
  return activation == Activation::relu ? y.relu() : y;
}

/// A random gradient that is 0 next to the kink of a ReLU, where rounding decides on which side an element is.
at::Tensor cotangent_off_kinks(test::Random& random, const at::Tensor& linear, at::ScalarType type) {
  return (random.normal(linear.sizes()) * (linear.detach().abs() > 1e-4)).to(type);
}

std::vector<at::Tensor> gradients(const LinearCase& c, bool with_naive, Activation activation, const at::Tensor& cotangent) {
  std::vector<at::Tensor> leaves;
  LinearCase copy;
  const auto leaf = [&](const at::Tensor& t) { return leaves.emplace_back(t.detach().clone().requires_grad_()); };
  for (const at::Tensor& part : c.parts) copy.parts.push_back(leaf(part));
  copy.weight = leaf(c.weight);
  if (c.bias.defined()) copy.bias = leaf(c.bias);
  const at::Tensor y = with_naive ? naive(copy, activation) : linear_parts(copy.parts, copy.weight, copy.bias, activation);
  auto result = torch::autograd::grad({y}, leaves, {cotangent.to(y.scalar_type())});
  result.push_back(y.detach());
  return result;
}

TEST(LinearParts, EqualsTheLinearLayerOfTheConcatenationAndItsGradients) {
  test::Random random(1);
  for (int trial = 0; trial < 200; ++trial) {
    const at::ScalarType type = trial % 2 == 0 ? at::kDouble : at::kFloat;
    const int64_t rows = random.pick<int64_t>({0, 1, 2, 7, 65, 300, 1100}), outputs = random.pick<int64_t>({1, 1, 2, 3, 4, 5, 32, 130});
    const Activation activation = random.chance(0.5) ? Activation::relu : Activation::none;
    const LinearCase c = random_case(random, rows, outputs, type);
    const at::Tensor cotangent = cotangent_off_kinks(random, naive(c, Activation::none), type);
    const auto ours = gradients(c, false, activation, cotangent), theirs = gradients(c, true, activation, cotangent);
    ASSERT_EQ(ours.size(), theirs.size());
    for (size_t i = 0; i < ours.size(); ++i) {
      EXPECT_EQ(ours[i].scalar_type(), type);
      EXPECT_TRUE(close_to_reference(ours[i], theirs[i])) << "trial " << trial << ", tensor " << i << ", B = " << rows << ", O = " << outputs << ", " << type;
    }
  }
}

TEST(LinearParts, WritesItsGradientsWhateverTheStridesOfWeightAndParts) {
  test::Random random(15);
  const auto laid_out = [&](int64_t rows, int64_t columns, const std::string& form, at::ScalarType type) {
    if (form == "transposed") return random.normal({columns, rows}, 1.0, type).t();
    if (form == "columns of a wider one") return random.normal({rows, columns + 5}, 1.0, type).narrow(1, 2, columns);
    if (form == "every second column") return random.normal({rows, 2 * columns}, 1.0, type).slice(1, 0, 2 * columns, 2);
    if (form == "one row for all") return random.normal({1, columns}, 1.0, type).expand({rows, columns});
    return random.normal({rows, columns}, 1.0, type);
  };
  for (const auto type : {at::kDouble, at::kFloat})
    for (const std::string form : {"dense", "transposed", "columns of a wider one", "every second column", "one row for all"})
      for (const int64_t outputs : {1, 2, 3, 4, 8})
        for (const std::vector<int64_t>& widths : {std::vector<int64_t>{6}, std::vector<int64_t>{3, 1, 4}})
          for (const bool mapped : {false, true}) {
            const int64_t rows = 40;
            std::vector<MappedPart> parts;
            std::vector<at::Tensor> leaves;
            const auto leaf = [&](const at::Tensor& tensor) {
              leaves.push_back(tensor.detach().requires_grad_());  // the strides stay
              return leaves.back();
            };
            int64_t width = 0;
            for (const int64_t columns : widths) {
              parts.push_back({leaf(laid_out(rows, columns, form, type)), {}, {}});
              width += columns;
            }
            if (mapped) {
              // wide enough that the map is composed with the layer
              parts.back().map = leaf(laid_out(12, widths.back(), form, type));
              parts.back().shift = leaf(random.normal({12}, 1.0, type));
              width += 12 - widths.back();
            }
            const at::Tensor weight = leaf(laid_out(outputs, width, form, type)), bias = leaf(random.normal({outputs}, 1.0, type));
            const at::Tensor cotangent = laid_out(rows, outputs, form, type);
            const auto layer = [&](const std::vector<at::Tensor>& of) {
              std::vector<at::Tensor> values(of.begin(), of.begin() + static_cast<std::ptrdiff_t>(widths.size()));
              if (mapped) values.back() = at::linear(values.back(), of[widths.size()], of[widths.size() + 1]);
              return at::linear(at::cat(values, 1), of[of.size() - 2], of.back());
            };
            const at::Tensor ours = linear_mapped_parts(parts, weight, bias);
            std::vector<at::Tensor> exact = {}, sizes = {};  // sizes: with them a sum is that of its terms' absolute values, which rounding is measured by
            for (const at::Tensor& tensor : leaves) {
              exact.push_back(tensor.detach().to(at::kDouble).requires_grad_());
              sizes.push_back(tensor.detach().to(at::kDouble).abs().requires_grad_());
            }
            const at::Tensor theirs = layer(exact), largest = layer(sizes);
            const std::string where = c10::str(form, ", O = ", outputs, ", ", widths.size(), " parts, mapped ", mapped, ", ", type);
            const double rounding = type == at::kFloat ? 4e-6 : 1e-14;  // up to 60 terms
            const auto is_rounding_of = [&](const at::Tensor& result, const at::Tensor& reference, const at::Tensor& terms) {
              return result.scalar_type() == type && at::all((result.to(at::kDouble) - reference).abs() <= rounding * terms).item<bool>();
            };
            EXPECT_TRUE(is_rounding_of(ours.detach(), theirs.detach(), largest.detach())) << where;
            const auto by_us = torch::autograd::grad({ours}, leaves, {cotangent}),
                       by_them = torch::autograd::grad({theirs}, exact, {cotangent.to(at::kDouble)}),
                       bounds = torch::autograd::grad({largest}, sizes, {cotangent.to(at::kDouble).abs()});
            for (size_t i = 0; i < leaves.size(); ++i) EXPECT_TRUE(is_rounding_of(by_us[i], by_them[i], bounds[i])) << where << ", tensor " << i;
          }
}

TEST(LinearParts, AgreesWithFiniteDifferences) {
  test::Random random(2);
  // up to 4 outputs go by loops over rows, more by matrix products
  for (const int64_t outputs : {1, 3, 5, 9})
    for (const auto activation : {Activation::none, Activation::relu})
      for (const double dropout : {0.0, 0.4}) {
        if (dropout > 0.0 && activation == Activation::none) continue;
        const at::Tensor a = random.normal({5, 3}), b = random.normal({5, 2}), w = random.normal({outputs, 5}), c = random.normal({outputs});
        const auto run = [&](const std::vector<at::Tensor>& x) {
          return linear_parts({x[0], x[1]}, x[2], x.size() > 3 ? x[3] : at::Tensor(), activation, dropout, at::detail::createCPUGenerator(3));
        };
        EXPECT_TRUE(test::gradcheck(run, {a, b, w, c})) << outputs << " outputs, dropout " << dropout;
        EXPECT_TRUE(test::gradcheck(run, {a, b, w})) << outputs << " outputs without bias, dropout " << dropout;
      }
}

TEST(LinearMappedParts, EqualTheirMapsOneAfterTheOtherAndTheirGradients) {
  test::Random random(12);
  for (int trial = 0; trial < 160; ++trial) {
    const at::ScalarType type = trial % 2 == 0 ? at::kDouble : at::kFloat;
    const int64_t rows = random.pick<int64_t>({0, 1, 3, 40, 300}), outputs = random.pick<int64_t>({1, 2, 20});
    const Activation activation = random.chance(0.5) ? Activation::relu : Activation::none;
    std::vector<MappedPart> parts;
    std::vector<at::Tensor> inputs, mapped;
    const auto leaf = [&](at::IntArrayRef sizes) {
      at::Tensor tensor = random.normal(sizes, 1.0, type);
      if (random.chance(0.8)) inputs.push_back(tensor.requires_grad_());
      return tensor;
    };
    int64_t width = 0;
    for (int64_t p = random.integer(1, 3); p > 0; --p) {
      const int64_t from = random.integer(1, 9), through = random.integer(1, 9);
      MappedPart part{leaf({rows, from}), {}, {}};
      if (random.chance(0.7)) part = {part.values, leaf({through, from}), leaf({through})};
      const at::Tensor values = part.values.to(at::kDouble);
      mapped.push_back(part.map.defined() ? at::linear(values, part.map.to(at::kDouble), part.shift.to(at::kDouble)) : values);
      width += part.width();
      parts.push_back(part);
    }
    const at::Tensor weight = leaf({outputs, width}), bias = random.chance(0.7) ? leaf({outputs}) : at::Tensor();
    const at::Tensor ours = linear_mapped_parts(parts, weight, bias, activation);
    const at::Tensor linear = naive({mapped, weight, bias}, Activation::none), theirs = activation == Activation::relu ? linear.relu() : linear;
    EXPECT_TRUE(close_to_reference(ours, theirs)) << "trial " << trial << " " << type;
    if (inputs.empty()) continue;
    const at::Tensor cotangent = cotangent_off_kinks(random, linear, type);
    const auto by_us = torch::autograd::grad({ours}, inputs, {cotangent}, true, false, /*allow_unused=*/true);
    const auto by_them = torch::autograd::grad({theirs}, inputs, {cotangent.to(at::kDouble)}, false, false, true);
    for (size_t i = 0; i < inputs.size(); ++i)
      EXPECT_TRUE(close_to_reference(by_us[i], by_them[i])) << "trial " << trial << ", tensor " << i << ", B = " << rows << ", " << type;
  }
}

TEST(LinearMappedParts, AgreeWithFiniteDifferences) {
  test::Random random(13);
  // a map is composed with the weight for 9 rows, and applied to its part first for 2
  for (const int64_t rows : {9, 2})
    for (const int64_t outputs : {2, 6})
      for (const auto& [activation, dropout] :
           std::vector<std::pair<Activation, double>>{{Activation::none, 0.0}, {Activation::relu, 0.0}, {Activation::relu, 0.4}}) {
        const at::Tensor x = random.normal({rows, 3}), y = random.normal({rows, 2}), map = random.normal({4, 3}), shift = random.normal({4}),
                         w = random.normal({outputs, 6}), b = random.normal({outputs});
        const auto run = [&, activation = activation, dropout = dropout](const std::vector<at::Tensor>& in) {
          return linear_mapped_parts({{in[0], in[1], in[2]}, {in[3], {}, {}}}, in[4], in[5], activation, dropout, at::detail::createCPUGenerator(3));
        };
        EXPECT_TRUE(test::gradcheck(run, {x, map, shift, y, w, b})) << rows << " rows, " << outputs << " outputs, dropout " << dropout;
      }
}

TEST(LinearMappedParts, SayWhatIsWrong) {
  const at::Tensor x = at::ones({2, 3}), map = at::ones({5, 3}), weight = at::ones({4, 5});
  EXPECT_EQ(sentence_of([&] {
              linear_mapped_parts({{x, at::ones({5, 2}), at::ones({5})}}, weight, {});
            }),
            "htl::linear_parts: expected a part's map of shape [any, 3], got [5, 2]");
  EXPECT_EQ(sentence_of([&] { linear_mapped_parts({{x, map, {}}}, weight, {}); }), "htl::linear_parts: expected a part's shift of shape [5], got undefined");
  EXPECT_EQ(sentence_of([&] {
              linear_mapped_parts({{x, map, at::ones({5})}}, at::ones({4, 3}), {});
            }),
            "htl::linear_parts: expected parts of together 3 columns for a weight of shape [4, 3], got 5");
}

TEST(LinearParts, TakesStridedPartsAndBroadcastGradients) {
  test::Random random(3);
  const at::Tensor wide = random.normal({6, 20}).requires_grad_(), weight = random.normal({4, 8}).requires_grad_(), bias = random.normal({4}).requires_grad_();
  const at::Tensor slice = wide.slice(1, 2, 7), turned = wide.slice(1, 10, 16).slice(1, 0, 6, 2);
  const at::Tensor ours = linear_parts({slice, turned}, weight, bias), theirs = at::linear(at::cat({slice, turned}, 1), weight, bias);
  EXPECT_TRUE(close(ours, theirs));
  const auto by_us = torch::autograd::grad({ours.sum()}, {wide, weight, bias}), by_them = torch::autograd::grad({theirs.sum()}, {wide, weight, bias});
  for (size_t i = 0; i < 3; ++i) EXPECT_TRUE(close(by_us[i], by_them[i]));
}

TEST(LinearParts, ComputesGradientsOnlyWhereTheyAreNeeded) {
  test::Random random(4);
  const at::Tensor a = random.normal({3, 2}), b = random.normal({3, 2}).requires_grad_(), weight = random.normal({2, 4}),
                   bias = random.normal({2}).requires_grad_();
  const at::Tensor y = linear_parts({a, b}, weight, bias, Activation::relu);
  y.sum().backward();
  EXPECT_FALSE(a.grad().defined());
  EXPECT_FALSE(weight.grad().defined());
  EXPECT_TRUE(b.grad().defined() && bias.grad().defined());
  const at::NoGradGuard no_grad;
  EXPECT_FALSE(linear_parts({a, b}, weight, bias).requires_grad());
}

TEST(LinearParts, LetsNanThroughInsteadOfHidingIt) {
  at::Tensor x = at::ones({2, 3}, at::kDouble);
  x[0][1] = std::nan("");
  x.requires_grad_();
  const at::Tensor y = linear_parts({x}, at::ones({4, 3}, at::kDouble), {}, Activation::relu);
  EXPECT_TRUE(y[0].isnan().all().item<bool>());
  EXPECT_TRUE(y[1].isfinite().all().item<bool>());
  const at::Tensor arriving = y.detach() * 0 + 1;
  EXPECT_TRUE(torch::autograd::grad({y}, {x}, {arriving})[0][0].isnan().all().item<bool>());
}

TEST(LinearParts, RefusesASecondDerivativeWithASentence) {
  test::Random random(5);
  const at::Tensor x = random.normal({3, 2}).requires_grad_(), weight = random.normal({2, 2}).requires_grad_();
  const at::Tensor y = linear_parts({x}, weight, {}, Activation::relu).sum();
  EXPECT_NE(sentence_of([&] { torch::autograd::grad({y}, {x}, {}, true, /*create_graph=*/true); }).find("has no second derivative"), std::string::npos);
}

TEST(LinearParts, SaysWhatIsWrong) {
  const at::Tensor x = at::ones({2, 3}), weight = at::ones({4, 3}), bias = at::ones({4});
  EXPECT_EQ(sentence_of([&] { linear_parts({}, weight, bias); }), "htl::linear_parts: expected at least one part, got none");
  EXPECT_EQ(sentence_of([&] {
              linear_parts({x, x}, weight, bias);
            }),
            "htl::linear_parts: expected parts of together 3 columns for a weight of shape [4, 3], got 6");
  EXPECT_EQ(sentence_of([&] {
              linear_parts({x, at::ones({3, 1})}, at::ones({4, 4}), bias);
            }),
            "htl::linear_parts: expected every part of shape [2, any], got [3, 1]");
  EXPECT_EQ(sentence_of([&] { linear_parts({x}, weight, at::ones({3})); }), "htl::linear_parts: expected bias of shape [4], got [3]");
  EXPECT_EQ(sentence_of([&] { linear_parts({x}, weight, bias, Activation::relu, 1.0); }), "htl::linear_parts: expected dropout in [0, 1), got 1");
  EXPECT_EQ(sentence_of([&] { linear_parts({x}, weight, bias, Activation::none, 0.5); }),
            "htl::linear_parts: dropout stands behind a ReLU only; got dropout 0.5 without one");
  EXPECT_EQ(sentence_of([&] { linear_parts({x}, weight.to(at::kDouble), bias); }),
            "htl::linear_parts: expected parts, weight and bias of one type, got parts of Float, a weight of Double and a bias of Float");
}

TEST(Dropout, ScalesWhatItKeepsAndCutsTheSameElementsBackward) {
  const int64_t rows = 400, outputs = 50;
  const at::Tensor x = at::ones({rows, 1}, at::kDouble).requires_grad_(), weight = at::ones({outputs, 1}, at::kDouble).requires_grad_();
  const at::Tensor y = linear_parts({x}, weight, {}, Activation::relu, 0.3, at::detail::createCPUGenerator(7));
  const at::Tensor kept = y > 0;
  EXPECT_TRUE(close(y, kept.to(at::kDouble) / 0.7));
  EXPECT_NEAR(kept.to(at::kDouble).mean().item<double>(), 0.7, 0.01);
  EXPECT_NEAR(kept.slice(1, 1).eq(kept.slice(1, 0, -1)).to(at::kDouble).mean().item<double>(), 0.58, 0.015) << "neighbours must be independent";
  const auto by_us = torch::autograd::grad({y}, {x, weight}, {at::ones_like(y)});
  EXPECT_TRUE(close(by_us[0], kept.to(at::kDouble).sum(1, true) / 0.7));
  EXPECT_TRUE(close(by_us[1], kept.to(at::kDouble).sum(0).unsqueeze(1) / 0.7));
}

TEST(Dropout, DrawsTheSameMaskForTheSameGeneratorState) {
  test::Random random(8);
  const at::Tensor x = random.normal({700, 20}, 1.0, at::kFloat), weight = random.normal({40, 20}, 1.0, at::kFloat);
  at::Generator generator = at::detail::createCPUGenerator(9);
  const at::Tensor first = linear_parts({x}, weight, {}, Activation::relu, 0.5, generator),
                   second = linear_parts({x}, weight, {}, Activation::relu, 0.5, generator);
  EXPECT_FALSE(at::equal(first, second)) << "the generator must go on";
  EXPECT_TRUE(same_bits(first, linear_parts({x}, weight, {}, Activation::relu, 0.5, at::detail::createCPUGenerator(9))));
  at::manual_seed(3);
  const at::Tensor by_default = linear_parts({x}, weight, {}, Activation::relu, 0.5);
  at::manual_seed(3);
  EXPECT_TRUE(same_bits(by_default, linear_parts({x}, weight, {}, Activation::relu, 0.5)));
}

TEST(Dropout, ActsInTrainingOnly) {
  at::manual_seed(1);
  Tower tower(TowerOptions(6, 1).hidden({8, 4}).dropout(0.5));
  const at::Tensor x = at::randn({30, 6});
  EXPECT_FALSE(at::equal(tower->forward(x).output, tower->forward(x).output));
  tower->eval();
  EXPECT_TRUE(same_bits(tower->forward(x).output, tower->forward(x).output));
}

TEST(Dense, StartsAsTorchsLinearDoes) {
  at::manual_seed(11);
  Dense ours(DenseOptions({5, 3}, 4));
  at::manual_seed(11);
  torch::nn::Linear theirs(8, 4);
  EXPECT_TRUE(same_bits(ours->weight, theirs->weight));
  EXPECT_TRUE(same_bits(ours->bias, theirs->bias));
  EXPECT_EQ(ours->named_parameters().keys(), theirs->named_parameters().keys());
  EXPECT_EQ(Dense(DenseOptions(3, 2).bias(false))->parameters().size(), 1u);
}

TEST(Tower, EqualsItsFormula) {
  test::Random random(12);
  for (const int64_t representation : {first_hidden, int64_t{1}, last_hidden, int64_t{-3}}) {
    Tower tower(TowerOptions({7, 3}, 2).hidden({6, 5, 4}).representation(representation));
    tower->to(at::kDouble);
    const at::Tensor a = random.normal({9, 7}), b = random.normal({9, 3});
    const TowerOutput result = tower->forward({a, b});
    std::vector<at::Tensor> hidden{at::cat({a, b}, 1)};
    const auto parameters = tower->named_parameters();
    for (const std::string layer : {"layers.0", "layers.1", "layers.2"})
      hidden.push_back(at::linear(hidden.back(), parameters[layer + ".weight"], parameters[layer + ".bias"]).relu());
    EXPECT_TRUE(close(result.output, at::linear(hidden.back(), parameters["output.weight"], parameters["output.bias"])));
    EXPECT_TRUE(close(result.representation, hidden[static_cast<size_t>(representation < 0 ? representation + 4 : representation + 1)]));
    EXPECT_EQ(tower->representation_width(), result.representation.size(1));
  }
}

TEST(Tower, AgreesWithFiniteDifferencesInInputsAndParameters) {
  test::Random random(13);
  for (const auto& hidden : {std::vector<int64_t>{4, 3}, std::vector<int64_t>{7, 6}})
    for (const int64_t outputs : {1, 5})
      for (const double dropout : {0.0, 0.3}) {
        at::Generator generator = at::detail::createCPUGenerator(1);
        Tower tower(TowerOptions({3, 2}, outputs).hidden(hidden).dropout(dropout).generator(generator));
        tower->to(at::kDouble);
        const at::NoGradGuard no_grad;
        for (at::Tensor& parameter : tower->parameters()) parameter.copy_(random.normal(parameter.sizes()));
        const at::AutoGradMode with_gradients(true);
        const auto run = [&](const std::vector<at::Tensor>& x) {
          generator.set_current_seed(5);  // the same mask in every call
          const TowerOutput result = tower->forward(x);
          return at::cat({result.output, result.representation}, 1);
        };
        EXPECT_TRUE(test::gradcheck_module(run, *tower, {random.normal({4, 3}), random.normal({4, 2})}))
            << hidden.front() << " wide, " << outputs << " outputs, dropout " << dropout;
      }
}

TEST(Tower, TakesNoRowAndOneRow) {
  Tower tower(TowerOptions({4, 2}, 1).hidden({3}));
  for (const int64_t rows : {0, 1}) {
    tower->zero_grad();
    const TowerOutput result = tower->forward({at::ones({rows, 4}), at::ones({rows, 2})});
    EXPECT_EQ(result.output.sizes(), (std::vector<int64_t>{rows, 1}));
    result.output.sum().backward();
    for (const at::Tensor& parameter : tower->parameters()) EXPECT_TRUE(parameter.grad().defined() && parameter.grad().isfinite().all().item<bool>());
  }
}

TEST(Tower, IsBitIdenticalInEveryRepetition) {
  test::Random random(14);
  const int threads = at::get_num_threads();
  at::set_num_threads(2);
  Tower tower(TowerOptions({43, 12}, 1).hidden({128, 64, 32}).dropout(0.1));
  const at::Tensor a = random.normal({1500, 43}, 1.0, at::kFloat), b = random.normal({1500, 12}, 1.0, at::kFloat);
  std::vector<at::Tensor> first;
  for (int repetition = 0; repetition < 20; ++repetition) {
    at::manual_seed(5);
    tower->zero_grad();
    const at::Tensor output = tower->forward({a, b}).output;
    output.square().mean().backward();
    std::vector<at::Tensor> now{output};
    for (const at::Tensor& parameter : tower->parameters()) now.push_back(parameter.grad().clone());
    if (first.empty()) first = now;
    for (size_t i = 0; i < now.size(); ++i) ASSERT_TRUE(same_bits(first[i], now[i])) << "repetition " << repetition;
  }
  at::set_num_threads(threads);
}

TEST(Tower, WorksInBfloat16AndUnderAutocast) {
  at::manual_seed(2);
  Tower tower(TowerOptions({16, 4}, 1));
  const at::Tensor a = at::randn({64, 16}).requires_grad_(), b = at::randn({64, 4});
  const at::Tensor exact = tower->forward({a, b}).output;
  {
    at::autocast::set_autocast_enabled(at::kCPU, true);
    const at::Tensor cast = tower->forward({a, b}).output;
    at::autocast::set_autocast_enabled(at::kCPU, false);
    at::autocast::clear_cache();
    EXPECT_EQ(cast.scalar_type(), at::kBFloat16);
    EXPECT_TRUE(close(cast, exact, 0.05, 0.02));
    cast.sum().backward();
    EXPECT_EQ(a.grad().scalar_type(), at::kFloat);
    for (const at::Tensor& parameter : tower->parameters()) EXPECT_EQ(parameter.grad().scalar_type(), at::kFloat);
  }
  tower->to(at::kBFloat16);
  tower->zero_grad();
  const at::Tensor low = tower->forward({a.detach().to(at::kBFloat16), b.to(at::kBFloat16)}).output;
  EXPECT_TRUE(close(low, exact, 0.05, 0.02));
  low.sum().backward();
  for (const at::Tensor& parameter : tower->parameters()) EXPECT_EQ(parameter.grad().scalar_type(), at::kBFloat16);
}

TEST(Tower, ClonesSavesAndLoads) {
  at::manual_seed(4);
  Tower tower(TowerOptions({5, 2}, 1).hidden({4, 3})), other(TowerOptions({5, 2}, 1).hidden({4, 3}));
  const std::vector<at::Tensor> parts{at::randn({6, 5}), at::randn({6, 2})};
  const at::Tensor expected = tower->forward(parts).output;
  const auto copy = std::dynamic_pointer_cast<TowerImpl>(tower->clone());
  std::stringstream stream;
  torch::save(tower, stream);
  torch::load(other, stream);
  {
    const at::NoGradGuard no_grad;
    for (at::Tensor& parameter : tower->parameters()) parameter.zero_();
  }
  EXPECT_TRUE(same_bits(copy->forward(parts).output, expected)) << "a clone shares nothing";
  EXPECT_TRUE(same_bits(other->forward(parts).output, expected));
  const std::vector<std::string> names{"layers.0.weight", "layers.0.bias", "layers.1.weight", "layers.1.bias", "output.weight", "output.bias"};
  EXPECT_EQ(tower->named_parameters().keys(), names);
}

TEST(Tower, PrintsItself) {
  std::ostringstream text;
  text << *Tower(TowerOptions({430, 10}, 1).hidden({8, 4}).dropout(0.1).representation(last_hidden));
  EXPECT_EQ(text.str(),
            "htl::Tower(inputs=[430, 10], hidden=[8, 4], output_width=1, representation=1)(\n"
            "  (layers): htl::Mlp(inputs=[430, 10], hidden=[8, 4])(\n"
            "    (0): htl::Dense(inputs=[430, 10], outputs=8, relu, dropout=0.1)\n"
            "    (1): htl::Dense(inputs=[8], outputs=4, relu, dropout=0.1)\n"
            "  )\n"
            "  (output): htl::Dense(inputs=[4], outputs=1)\n"
            ")");
}

TEST(Tower, SaysWhatIsWrong) {
  EXPECT_EQ(sentence_of([] { Tower(TowerOptions(4, 1).hidden({})); }),
            "htl::Tower: expected at least one hidden layer, got none; give widths such as {128, 64, 32}");
  EXPECT_EQ(sentence_of([] {
              Tower(TowerOptions(4, 1).hidden({8, 4}).representation(2));
            }),
            "htl::Tower: expected a representation index in [-2, 2) for 2 hidden layers, got 2");
  EXPECT_EQ(sentence_of([] { Tower(TowerOptions({4, 0}, 1)); }), "htl::Dense: expected input widths ≥ 1, got [4, 0]");
  EXPECT_EQ(sentence_of([] { Tower(TowerOptions(4, 0)); }), "htl::Dense: expected at least one output, got 0");
  EXPECT_EQ(sentence_of([] { Tower(TowerOptions(4, 1).dropout(-0.1)); }), "htl::Dense: expected dropout in [0, 1), got -0.1");
  EXPECT_EQ(sentence_of([] { Mlp(MlpOptions(4, {})); }), "htl::Mlp: expected at least one layer, got none; give widths such as {128, 64, 32}");
  Tower tower(TowerOptions({4, 2}, 1));
  EXPECT_EQ(sentence_of([&] { tower->forward(at::ones({3, 4})); }), "htl::Dense: expected 2 input parts of widths [4, 2], got 1");
  EXPECT_EQ(sentence_of([&] { tower->forward({at::ones({3, 4}), at::ones({3, 3})}); }), "htl::Dense: expected input part 1 of shape [any, 2], got [3, 3]");
}

struct NotATower {
  NotATower* operator->() { return this; }
  TowerOutput forward(const std::vector<at::Tensor>&) { return {}; }
};
static_assert(TaskTower<Tower> && !TaskTower<NotATower> && !TaskTower<Dense>);

}  // namespace
}  // namespace htl
