// SPDX-License-Identifier: Apache-2.0
// BiasTower: adds in training, vanishes in evaluation, drops rows, and takes a planted bias from the model.
#include <htl/nn/bias_tower.hpp>
#include <htl/nn/tower.hpp>

#include <torch/torch.h>

#include <support/seeded.hpp>

namespace htl {
namespace {

using test::close;
using test::Random;
using test::same_bits;
using test::sentence_of;

TEST(BiasTower, adds_in_training_and_vanishes_in_evaluation) {
  Random random(1);
  torch::manual_seed(1);
  BiasTower tower(BiasTowerOptions(3, 2).hidden({5}));
  const at::Tensor output = random.normal({7, 2}, 1, at::kFloat), context = random.normal({7, 3}, 1, at::kFloat);
  EXPECT_TRUE(same_bits(tower->forward(output, context), output)) << "the model starts without a bias";
  {
    const torch::NoGradGuard no_grad;
    for (at::Tensor& parameter : tower->parameters()) parameter.normal_();
  }
  const std::vector<at::Tensor> p = tower->parameters();
  const at::Tensor by_hand = torch::linear(torch::linear(context, p[0], p[1]).relu(), p[2], p[3]);
  EXPECT_TRUE(close(tower->forward(output, context), output + by_hand, 1e-5, 1e-6));
  EXPECT_TRUE(close(tower->bias(context), by_hand, 1e-5, 1e-6));
  tower->eval();
  EXPECT_TRUE(same_bits(tower->forward(output, {}), output)) << "serving needs no context";
  tower->train();
  tower->forward(output, context).sum().backward();
  for (const at::Tensor& parameter : tower->parameters()) EXPECT_GT(parameter.grad().abs().max().item<double>(), 0);
}

TEST(BiasTower, leaves_out_rows_by_chance_from_its_own_generator) {
  at::Generator generator = at::detail::createCPUGenerator(3), again = at::detail::createCPUGenerator(3);
  BiasTower tower(BiasTowerOptions(1, 1).dropout(.25).generator(generator)), twin(BiasTowerOptions(1, 1).dropout(.25).generator(again));
  for (BiasTower* one : {&tower, &twin}) {
    const torch::NoGradGuard no_grad;
    for (at::Tensor& parameter : (*one)->parameters()) parameter.fill_(.5);
  }
  const at::Tensor bias = tower->forward(torch::zeros({20000, 1}), torch::ones({20000, 1}));
  EXPECT_NEAR(bias.eq(1).to(at::kDouble).mean().item<double>(), .75, .02);
  EXPECT_TRUE(bias.eq(1).logical_or(bias.eq(0)).all().item<bool>());
  EXPECT_TRUE(same_bits(twin->forward(torch::zeros({20000, 1}), torch::ones({20000, 1})), bias));
}

TEST(BiasTower, takes_a_planted_bias_from_the_model) {
  Random random(2);
  torch::manual_seed(2);
  const at::Tensor x = random.normal({20000, 1}, 1, at::kFloat), position = random.ids({20000}, 5), shift = torch::tensor({1.f, .5f, 0.f, -.5f, -1.f});
  const at::Tensor label = torch::rand({20000}).lt((x.squeeze(1) + shift.index_select(0, position)).sigmoid()).to(at::kFloat);
  const at::Tensor context = torch::nn::functional::one_hot(position, 5).to(at::kFloat);
  torch::nn::Linear model(1, 1);
  BiasTower bias(BiasTowerOptions(5, 1));
  std::vector<at::Tensor> parameters = model->parameters();
  for (const at::Tensor& parameter : bias->parameters()) parameters.push_back(parameter);
  torch::optim::Adam optimizer(parameters, .05);
  for (int step = 0; step < 400; ++step) {
    optimizer.zero_grad();
    torch::binary_cross_entropy_with_logits(bias->forward(model->forward(x), context).squeeze(1), label).backward();
    optimizer.step();
  }
  const at::Tensor learned = bias->bias(torch::eye(5)).squeeze(1);
  EXPECT_TRUE(close(learned - learned.mean(), shift, 0, .12));
  EXPECT_NEAR(model->weight.item<double>(), 1.0, .1);
  bias->eval();
  EXPECT_TRUE(same_bits(bias->forward(model->forward(x), {}), model->forward(x)));
  EXPECT_TRUE(same_bits(bias->forward(model->forward(x), context), model->forward(x))) << "a context that is there changes nothing";
}

TEST(BiasTower, refuses_wrong_shapes_with_a_sentence) {
  BiasTower tower(BiasTowerOptions(3, 1));
  EXPECT_EQ(sentence_of([&] {
              tower->forward(torch::zeros({2, 2}), torch::zeros({2, 3}));
            }),
            "htl::BiasTower: expected the output of shape [any, 1], got [2, 2]");
  EXPECT_EQ(sentence_of([&] {
              tower->forward(torch::zeros({2, 1}), torch::zeros({2, 4}));
            }),
            "htl::BiasTower: expected the context of shape [2, 3], got [2, 4]");
  EXPECT_EQ(sentence_of([&] {
              tower->forward(torch::zeros({2, 1}), torch::zeros({1, 3}));
            }),
            "htl::BiasTower: expected the context of shape [2, 3], got [1, 3]");
  EXPECT_EQ(sentence_of([] { BiasTower(BiasTowerOptions(3, 1).dropout(1)); }), "htl::BiasTower: expected dropout in [0, 1), got 1");
}

}  // namespace
}  // namespace htl
