// SPDX-License-Identifier: Apache-2.0
// The models of examples/models: each on a chain and on a graph of tasks, with and without an adjuster, from the embeddings to the losses.
#include <examples/models/models.hpp>
#include <htl/loss/hybrid_loss.hpp>
#include <htl/optim/dense_parameters.hpp>
#include <htl/optim/row_adagrad.hpp>
#include <htl/weighting/constant.hpp>
#include <htl/weighting/upgrad.hpp>

#include <torch/torch.h>

#include <support/seeded.hpp>

namespace {

using htl::test::close;

class Models : public htl::test::Seeded {};

htl::TaskSet chain() { return {htl::binary("click"), htl::binary("buy"), htl::regression("spend").core().transform(htl::ZScoreTransform{1.0, 2.0})}; }
htl::TaskSet graph() {
  return {htl::regression("spend").after("buy", "like").core(), htl::binary("click").after(), htl::binary("like").after("click"),
          htl::binary("buy").after("click"), htl::multiclass("reason", 3).after("buy")};
}

htl::Batch draw(const htl::TaskSet& tasks, int64_t rows, bool numeric) {
  const at::Tensor ids = torch::randint(20, {rows, 3}), click = torch::rand({rows}).lt(.3 + .02 * ids.select(1, 0)).to(at::kFloat);
  const at::Tensor buy = click * torch::rand({rows}).lt(.2 + .03 * ids.select(1, 1)).to(at::kFloat);
  htl::Batch batch{htl::FieldBatch::of(ids), numeric ? torch::randn({rows, 2}) : at::Tensor(), {}};
  for (const htl::TaskSpec& task : tasks) {
    if (task.kind() == htl::TaskKind::multiclass) {
      batch.labels.set(task.name(), {torch::randint(task.classes(), {rows}).to(at::kLong)});
    } else {
      batch.labels.set(task.name(), {task.name() == "spend" ? buy * (1 + .2 * ids.select(1, 2)) : task.name() == "buy" ? buy : click});
    }
  }
  return batch;
}

models::ModelOptions options_for(const htl::TaskSet& tasks, int64_t numeric_width, htl::AnyWeighting adjuster) {
  models::ModelOptions options{tasks, htl::FieldEmbeddingOptions({20, 20, 20}, 4).initial_sd(.3)};
  options.numeric_width = numeric_width;
  options.adjuster = std::move(adjuster);
  options.tower = {12, 8};
  options.trunk = {10, 6};
  options.tower_above_trunk = {8, 5};
  options.experts = 3;
  return options;
}

/// The gradients of all parameters by name; the table's as a dense matrix.
htl::Named<at::Tensor> gradients(models::Model& model) {
  htl::Named<at::Tensor> result;
  for (const auto& parameter : model.named_parameters()) {
    at::Tensor gradient = parameter.value().grad();
    if (parameter.key() == "embedding.weight") {
      const htl::RowGradient& rows = model.embedding->table().gradient();
      gradient = torch::zeros_like(parameter.value());
      if (rows.defined()) gradient.index_add_(0, rows.rows, rows.values);
    }
    result.set(parameter.key(), gradient);
  }
  return result;
}

TEST_F(Models, fit_every_graph_of_tasks_and_reach_all_their_parameters) {
  for (const htl::TaskSet& given : {chain(), graph()}) {
    for (const bool numeric : {false, true}) {
      for (const auto& [name, named] : models::all_models()) {
        SCOPED_TRACE(name);
        const htl::TaskSet tasks = named.tasks(given);
        const std::shared_ptr<models::Model> model = named.make(options_for(tasks, numeric ? 2 : 0, htl::Sum{}));
        const htl::Batch batch = draw(tasks, 64, numeric);
        const htl::TaskOutputs outputs = model->forward(batch);
        for (int64_t t = 0; t < tasks.size(); ++t) EXPECT_EQ(outputs[tasks[t].name()].sizes(), (std::vector<int64_t>{64, tasks[t].output_width()}));
        model->backward(htl::HybridLoss(tasks)(outputs, batch.labels));
        for (const auto& [parameter, gradient] : gradients(*model)) {
          ASSERT_TRUE(gradient.defined()) << parameter;
          EXPECT_TRUE(gradient.isfinite().all().item<bool>()) << parameter;
        }
      }
    }
  }
}

TEST_F(Models, give_by_an_adjuster_of_ones_the_gradient_of_the_plain_sum) {
  const std::vector<double> ones(5, 1.0);
  for (const auto& [name, named] : models::all_models()) {
    SCOPED_TRACE(name);
    const htl::TaskSet tasks = named.tasks(graph());
    const htl::Batch batch = draw(tasks, 64, true);
    torch::manual_seed(3);
    const std::shared_ptr<models::Model> plain = named.make(options_for(tasks, 2, htl::Sum{}));
    torch::manual_seed(3);
    const std::shared_ptr<models::Model> adjusted = named.make(options_for(tasks, 2, htl::Constant{ones}));
    for (models::Model* model : {plain.get(), adjusted.get()}) {
      torch::manual_seed(4);  // of the label embeddings' noise
      model->backward(htl::HybridLoss(tasks)(model->forward(batch), batch.labels));
    }
    const htl::Named<at::Tensor> expected = gradients(*plain), found = gradients(*adjusted);
    for (const auto& [parameter, gradient] : expected) EXPECT_TRUE(close(found[parameter], gradient, 2e-4, 1e-6)) << parameter;
  }
}

TEST_F(Models, learn_with_an_adjuster_that_weighs) {
  for (const auto& [name, named] : models::all_models()) {
    SCOPED_TRACE(name);
    const htl::TaskSet tasks = named.tasks(chain());
    const std::shared_ptr<models::Model> model = named.make(options_for(tasks, 0, htl::UPGrad{}));
    const htl::HybridLoss loss(tasks);
    htl::RowAdagrad rows(model->embedding, {.lr = .1});
    torch::optim::Adam dense(htl::dense_parameters(*model), 5e-3);
    double first = 0.0, last = 0.0;
    for (int step = 0; step < 150; ++step) {
      const htl::Batch batch = draw(tasks, 256, false);
      dense.zero_grad();
      const htl::TaskLosses losses = loss(model->forward(batch), batch.labels);
      model->backward(losses);
      rows.step();
      dense.step();
      if (step < 10) first += losses.sum().item<double>();
      if (step >= 140) last += losses.sum().item<double>();
    }
    EXPECT_LT(last, .97 * first);
    EXPECT_EQ(model->fork->step(), 150);
  }
}

}  // namespace
