// SPDX-License-Identifier: Apache-2.0
// ESMM (Ma et al., SIGIR 2018): conversion over the entire space is a product of two towers, so two losses come back through one of them. The walk sees it and
// takes two backward passes; the gradients stay exact.
#include <htl/embedding/field_embedding.hpp>
#include <htl/gradient/backward.hpp>
#include <htl/metrics/auc.hpp>
#include <htl/nn/tower.hpp>
#include <htl/optim/dense_parameters.hpp>
#include <htl/optim/row_adagrad.hpp>
#include <htl/weighting/pcgrad.hpp>

#include <torch/torch.h>

#include <cstdio>
#include <vector>

struct Rows {
  at::Tensor ids, click, conversion;
};

struct Truth {
  at::Tensor click = torch::randn({500}), conversion = torch::randn({500});
  Rows draw(int64_t rows) const {
    const at::Tensor ids = torch::randint(500, {rows, 1}).to(torch::kLong), item = ids.select(1, 0);
    const at::Tensor clicks = torch::rand({rows}).lt(click.index_select(0, item).sigmoid()).to(torch::kFloat);
    return {ids, clicks, clicks * torch::rand({rows}).lt((conversion.index_select(0, item) - 1).sigmoid()).to(torch::kFloat)};
  }
};

int main() {
  torch::manual_seed(1);
  const htl::TaskSet tasks{htl::binary("click"), htl::binary("conversion").after("click")};
  htl::FieldEmbedding embedding(htl::FieldEmbeddingOptions({500}, /*dim=*/8).initial_sd(0.1));
  htl::Tower click(htl::TowerOptions(embedding->width(), 1).hidden({16})), conversion(htl::TowerOptions(embedding->width(), 1).hidden({16}));
  htl::GradientFork<htl::PCGrad> fork(tasks);
  htl::RowAdagrad rows(embedding, {.lr = 0.1});
  std::vector<at::Tensor> parameters = click->parameters();
  for (const at::Tensor& parameter : conversion->parameters()) parameters.push_back(parameter);
  torch::optim::Adam dense(parameters, 3e-3);
  const Truth truth;
  int64_t passes = 0;
  for (int step = 0; step < 600; ++step) {
    const Rows batch = truth.draw(512);
    dense.zero_grad();
    const std::vector<at::Tensor> views = fork->split(embedding->lookup(htl::FieldBatch::of(batch.ids)));
    // [losses]
    const at::Tensor a = click->forward(views[0]).output.squeeze(1), b = conversion->forward(views[1]).output.squeeze(1);
    const at::Tensor both = torch::log_sigmoid(a) + torch::log_sigmoid(b);  // log of p(click) · p(conversion | click)
    htl::TaskLosses losses;
    losses.set("click", torch::binary_cross_entropy_with_logits(a, batch.click));
    losses.set("conversion", -(batch.conversion * both + (1 - batch.conversion) * torch::log1p(-both.exp().clamp_max(1 - 1e-6))).mean());
    passes = htl::backward(losses, fork).passes;  // 2: the second loss comes back through both views
    // [losses]
    rows.step();
    dense.step();
  }
  const torch::NoGradGuard no_grad;
  const Rows test = truth.draw(20'000);
  const at::Tensor values = embedding->lookup(htl::FieldBatch::of(test.ids)).values(), clicked = test.click.gt(0.5);
  htl::Auc auc;
  auc.add(conversion->forward(values).output.squeeze(1).masked_select(clicked), {test.conversion.masked_select(clicked)});
  std::printf("backward passes: %d\n", static_cast<int>(passes));
  std::printf("AUC of conversion among clicked rows, which no loss saw apart, is above 0.7: %s\n", auc.value() > 0.7 ? "yes" : "no");
  return 0;
}
