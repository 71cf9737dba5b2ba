// SPDX-License-Identifier: Apache-2.0
// The models of examples/models: each on a chain and on a graph of tasks, with and without an adjuster, from the embeddings to the losses.
#include <examples/htlnet/batch_parts.hpp>
#include <examples/models/models.hpp>
#include <htl/io/module_state.hpp>
#include <htl/loss/hybrid_loss.hpp>
#include <htl/optim/dense_parameters.hpp>
#include <htl/optim/row_adagrad.hpp>
#include <htl/weighting/constant.hpp>
#include <htl/weighting/modo.hpp>
#include <htl/weighting/upgrad.hpp>

#include <torch/torch.h>

#include <support/seeded.hpp>

#include <unistd.h>

#include <filesystem>

namespace {

namespace fs = std::filesystem;

using htl::test::close;
using htl::test::contains;
using htl::test::same_bits;
using htl::test::sentence_of;

class Models : public htl::test::Seeded {};

htl::TaskSet chain() { return {htl::binary("click"), htl::binary("buy"), htl::regression("spend").core().transform(htl::ZScoreTransform{1.0, 2.0})}; }
htl::TaskSet graph() {
  return {htl::regression("spend").after("buy", "like").core(), htl::binary("click").after(), htl::binary("like").after("click"),
          htl::binary("buy").after("click"), htl::multiclass("reason", 3).after("buy")};
}

/// What the models read: ids alone, ids and numbers, or histories and numbers that are embedded beside a vector of three numbers.
enum class Reads { ids, numbers, periodic, piecewise };

htl::Batch draw(const htl::TaskSet& tasks, int64_t rows, Reads reads) {
  const at::Tensor ids = torch::randint(20, {rows, 3}), click = torch::rand({rows}).lt(.3 + .02 * ids.select(1, 0)).to(at::kFloat);
  const at::Tensor buy = click * torch::rand({rows}).lt(.2 + .03 * ids.select(1, 1)).to(at::kFloat);
  htl::Batch batch{htl::FieldBatch::of(ids), {}, {}};
  if (reads == Reads::numbers) batch.numeric = torch::randn({rows, 2});
  if (reads == Reads::periodic || reads == Reads::piecewise) {  // the field in the middle has 0 to 4 ids
    batch.numeric = torch::randn({rows, 5});
    at::Tensor lengths = torch::ones({rows, 3}, at::kLong);
    lengths.select(1, 1).copy_(torch::randint(5, {rows}));
    const at::Tensor ends = lengths.reshape({-1}).cumsum(0);
    batch.fields = htl::FieldBatch::bags(torch::randint(20, {ends[-1].item<int64_t>()}), at::cat({torch::zeros({1}, at::kLong), ends}), 3);
  }
  for (const htl::TaskSpec& task : tasks) {
    if (task.kind() == htl::TaskKind::multiclass) {
      batch.labels.set(task.name(), {torch::randint(task.classes(), {rows}).to(at::kLong)});
    } else {
      batch.labels.set(task.name(), {task.name() == "spend" ? buy * (1 + .2 * ids.select(1, 2)) : task.name() == "buy" ? buy : click});
    }
  }
  return batch;
}

models::ModelOptions options_for(const htl::TaskSet& tasks, Reads reads, htl::AnyWeighting adjuster) {
  models::ModelOptions options{tasks, htl::FieldEmbeddingOptions({20, 20, 20}, 4).initial_sd(.3)};
  if (reads == Reads::numbers) options.inputs.numeric_width = 2;
  if (reads == Reads::periodic || reads == Reads::piecewise) {
    options.inputs.histories = {{.history = 1, .target = 2, .shares_rows = reads == Reads::periodic}};
    options.inputs.attention = {8, 6};
    options.inputs.numeric_width = 3;
    if (reads == Reads::periodic) options.inputs.periodic = htl::PeriodicEmbeddingOptions(2, 3).dim(4);
    if (reads == Reads::piecewise) options.inputs.piecewise = htl::PiecewiseLinearEmbeddingOptions({{-1., 0., 1.}, {-.5, .5}}).dim(4);
  }
  options.adjuster = std::move(adjuster);
  options.tower = {24, 16};  // narrower ones may have a layer that is dead for all rows
  options.trunk = {20, 12};
  options.tower_above_trunk = {20, 12};
  options.experts = 3;
  return options;
}

/// The gradients of all parameters by name; the table's as a dense matrix.
htl::Named<at::Tensor> gradients(models::Model& model) {
  htl::Named<at::Tensor> result;
  for (const auto& parameter : model.named_parameters()) {
    at::Tensor gradient = parameter.value().grad();
    if (parameter.key() == "inputs.embedding.weight") {
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
    for (const Reads reads : {Reads::ids, Reads::numbers, Reads::periodic, Reads::piecewise}) {
      for (const auto& [name, named] : models::all_models()) {
        SCOPED_TRACE(name);
        const htl::TaskSet tasks = named.tasks(given);
        const std::shared_ptr<models::Model> model = named.make(options_for(tasks, reads, htl::Sum{}));
        const htl::Batch batch = draw(tasks, 64, reads);
        const htl::TaskOutputs outputs = model->forward(batch);
        for (int64_t t = 0; t < tasks.size(); ++t) EXPECT_EQ(outputs[tasks[t].name()].sizes(), (std::vector<int64_t>{64, tasks[t].output_width()}));
        model->backward(htl::HybridLoss(tasks)(outputs, batch.labels));
        for (const auto& [parameter, gradient] : gradients(*model)) {
          ASSERT_TRUE(gradient.defined()) << parameter;
          EXPECT_TRUE(gradient.isfinite().all().item<bool>()) << parameter;
          EXPECT_TRUE(gradient.any().item<bool>()) << parameter;
        }
      }
    }
  }
}

TEST_F(Models, give_by_an_adjuster_of_ones_the_gradient_of_the_plain_sum) {
  const std::vector<double> ones(5, 1.0);
  for (const Reads reads : {Reads::numbers, Reads::periodic}) {
    for (const auto& [name, named] : models::all_models()) {
      SCOPED_TRACE(name);
      const htl::TaskSet tasks = named.tasks(graph());
      const htl::Batch batch = draw(tasks, 64, reads);
      torch::manual_seed(3);
      const std::shared_ptr<models::Model> plain = named.make(options_for(tasks, reads, htl::Sum{}));
      torch::manual_seed(3);
      const std::shared_ptr<models::Model> adjusted = named.make(options_for(tasks, reads, htl::Constant{ones}));
      for (models::Model* model : {plain.get(), adjusted.get()}) {
        torch::manual_seed(4);  // of the label embeddings' noise
        model->backward(htl::HybridLoss(tasks)(model->forward(batch), batch.labels));
      }
      const htl::Named<at::Tensor> expected = gradients(*plain), found = gradients(*adjusted);
      for (const auto& [parameter, gradient] : expected) EXPECT_TRUE(close(found[parameter], gradient, 2e-4, 1e-6)) << parameter;
    }
  }
}

TEST_F(Models, give_an_adjuster_that_wants_several_batches_what_the_tasks_share_of_the_last_and_all_else_of_their_mean) {
  const std::vector<double> equal(5, .2);
  for (const Reads reads : {Reads::ids, Reads::periodic}) {
    for (const auto& [name, named] : models::all_models()) {
      SCOPED_TRACE(name);
      const htl::TaskSet tasks = named.tasks(graph());
      const std::vector<htl::Batch> batches{draw(tasks, 64, reads), draw(tasks, 64, reads), draw(tasks, 64, reads)};
      const auto made = [&](htl::AnyWeighting adjuster) {
        torch::manual_seed(3);
        return named.make(options_for(tasks, reads, std::move(adjuster)));
      };
      const auto losses_of = [&](models::Model& model, size_t b) {
        torch::manual_seed(4 + b);  // of the label embeddings' noise
        return htl::HybridLoss(tasks)(model.forward(batches[b]), batches[b].labels);
      };
      htl::Named<at::Tensor> last, sum;
      for (size_t b = 0; b < batches.size(); ++b) {
        const std::shared_ptr<models::Model> one = made(htl::Constant{equal});
        EXPECT_EQ(one->batches(), 1);
        one->backward(losses_of(*one, b));
        last = gradients(*one);
        for (const auto& [parameter, gradient] : last) sum.set(parameter, b == 0 ? gradient.clone() : sum[parameter] + gradient);
      }
      const std::shared_ptr<models::Model> several = made(htl::MoDo{.gamma = 0.0, .rho = 0.0});  // its weights stay equal
      ASSERT_EQ(several->batches(), 3);
      several->backward({losses_of(*several, 0), losses_of(*several, 1), losses_of(*several, 2)});
      int64_t means = 0;
      for (const auto& [parameter, gradient] : gradients(*several)) {
        const bool is_last = close(gradient, last[parameter], 2e-4, 1e-6), is_mean = close(gradient, sum[parameter] / 3, 2e-4, 1e-6);
        EXPECT_TRUE(is_last || (is_mean && !parameter.starts_with("inputs."))) << parameter;
        means += !is_last && is_mean;
      }
      EXPECT_GT(means, 0);
    }
  }
}

TEST_F(Models, take_a_step_of_several_batches_from_fewer_rows_than_parts) {
  for (const auto& [name, named] : models::all_models()) {
    SCOPED_TRACE(name);
    const htl::TaskSet tasks = named.tasks(graph());
    const std::shared_ptr<models::Model> model = named.make(options_for(tasks, Reads::ids, htl::MoDo{}));
    int64_t rows = 0;
    std::vector<htl::TaskLosses> losses;
    for (const htl::Batch& part : htlnet::batch_parts(draw(tasks, 2, Reads::ids), model->batches())) {
      rows += part.rows();
      losses.push_back(htl::HybridLoss(tasks)(model->forward(part), part.labels));
      for (const auto& [task, loss] : losses.back().values) EXPECT_TRUE(loss.isfinite().item<bool>()) << task;
    }
    EXPECT_EQ(losses.size(), 3U);
    EXPECT_EQ(rows, 2);
    model->backward(losses);
    for (const auto& [parameter, gradient] : gradients(*model)) EXPECT_TRUE(!gradient.defined() || gradient.isfinite().all().item<bool>()) << parameter;
  }
}

TEST_F(Models, read_a_history_for_its_target_beside_pooled_fields_and_numbers) {
  for (const Reads reads : {Reads::periodic, Reads::piecewise}) {
    const htl::TaskSet tasks = chain();
    models::InputOptions options = options_for(tasks, reads, htl::Sum{}).inputs;
    options.histories.front().target = 0;
    models::Inputs inputs(options);
    const htl::Batch batch = draw(tasks, 40, reads);
    const at::Tensor table = inputs->embedding->weight, found = inputs->forward(batch);
    EXPECT_EQ(found.sizes(), (std::vector<int64_t>{40, options.width()}));
    EXPECT_EQ(options.width(), 3 * 4 + 2 * 4);
    const auto id_at = [&](int64_t place) { return batch.fields.ids[place].item<int64_t>(); };
    const auto offset = [&](int64_t bag) { return batch.fields.offsets[bag].item<int64_t>(); };
    for (int64_t row = 0; row < 40; ++row) {
      const at::Tensor target = table[id_at(offset(3 * row))], other = table[40 + id_at(offset(3 * row + 2))];
      std::vector<at::Tensor> entries;
      for (int64_t place = offset(3 * row + 1); place < offset(3 * row + 2); ++place)
        entries.push_back(table[(options.histories[0].shares_rows ? 0 : 20) + id_at(place)]);
      const at::Tensor attended = entries.empty() ? torch::zeros({1, 4}) : inputs->attentions[0]->forward(at::stack(entries).unsqueeze(0), target.unsqueeze(0));
      EXPECT_TRUE(close(found[row].narrow(0, 0, 12), at::cat({target, other, attended[0]}), 1e-5, 1e-6)) << row;
    }
    EXPECT_TRUE(same_bits(inputs->numbers(batch), batch.numeric.narrow(1, 2, 3)));
    htl::Batch narrow = batch;
    narrow.numeric = batch.numeric.narrow(1, 0, 4);
    EXPECT_TRUE(contains(sentence_of([&] { inputs->forward(narrow); }), "models::Inputs: expected numbers of shape [40, 5], got [40, 4]"));
  }
  models::InputOptions wrong(htl::FieldEmbeddingOptions({5, 5}, 4));
  wrong.histories = {{.history = 1, .target = 1}};
  EXPECT_TRUE(contains(sentence_of([&] { models::Inputs{wrong}; }), "expected the position of a field that is no history as the target of 1, got 1"));
  wrong.histories = {{.history = 2, .target = 1}};
  EXPECT_TRUE(contains(sentence_of([&] { models::Inputs{wrong}; }), "expected the position of one more field as a history, got 2"));
}

TEST_F(Models, calibrate_the_order_of_events_over_the_same_rows_alone) {
  const auto losses_of = [](const htl::TaskSpec& buy) {
    return models::with_order_calibration(htl::TaskSet{htl::binary("click"), buy})["buy"].losses().size();
  };
  EXPECT_EQ(losses_of(htl::binary("buy").after("click")), 2U);
  EXPECT_EQ(losses_of(htl::binary("buy").after("click").observed_when("click")), 0U) << "of those who clicked many may buy";
}

TEST_F(Models, of_the_entire_space_have_a_propensity_where_there_is_one_event_before) {
  const htl::TaskSet steps{htl::binary("click"), htl::binary("view").after("click"), htl::binary("buy").after("view")};
  const htl::TaskSet tasks = models::over_the_entire_space(steps, models::EntireSpaceForm::escm2);
  EXPECT_TRUE(tasks["click"].losses().empty());
  EXPECT_EQ(tasks["view"].losses().size(), 2U);
  EXPECT_EQ(tasks["view"].output_width(), 2);
  ASSERT_EQ(tasks["buy"].losses().size(), 1U) << "σ of the view's logit is no propensity over all rows";
  EXPECT_EQ(tasks["buy"].losses()[0].loss.reads(), (std::vector<std::string>{"click", "view"}));
  EXPECT_EQ(models::over_the_entire_space(steps, models::EntireSpaceForm::esmm)["view"].output_width(), 1);
}

TEST_F(Models, loaded_from_what_was_saved_give_the_same_bits_as_what_was_saved) {
  const fs::path file = fs::path(::testing::TempDir()) / ("htl_models_" + std::to_string(::getpid()) + ".safetensors");
  for (const auto& [name, made] : models::all_models()) {
    const htl::TaskSet tasks = made.tasks(graph());
    const htl::Batch batch = draw(tasks, 16, Reads::piecewise);
    const std::shared_ptr<models::Model> model = made.make(options_for(tasks, Reads::piecewise, htl::UPGrad{})),
                                         other = made.make(options_for(tasks, Reads::piecewise, htl::UPGrad{}));
    model->eval();
    other->eval();
    htl::save_module(file, *model);
    const htl::TaskOutputs before = other->forward(batch), saved = model->forward(batch);
    htl::load_module(file, *other);
    const htl::TaskOutputs after = other->forward(batch);
    for (const htl::TaskSpec& task : tasks) {
      EXPECT_FALSE(same_bits(before[task.name()], saved[task.name()])) << name;
      EXPECT_TRUE(same_bits(after[task.name()], saved[task.name()])) << name;
    }
  }
  fs::remove(file);
}

TEST_F(Models, read_a_history_by_the_targets_ids_and_numbers_about_their_mean) {
  const htl::TaskSet tasks = chain();
  models::ModelOptions options = options_for(tasks, Reads::periodic, htl::UPGrad{}), moved = options;
  std::vector<int64_t> ids(20);
  for (int64_t i = 0; i < 20; ++i) ids[static_cast<size_t>(i)] = (i + 3) % 20;
  moved.inputs.histories[0].target_ids = torch::tensor(ids, at::kLong);
  moved.inputs.center = torch::tensor({2.f, -1.f});
  moved.inputs.spread = torch::tensor({.5f, 4.f});
  models::Inputs plain(options.inputs), other(moved.inputs);
  for (const auto& parameter : plain->named_parameters()) {
    const torch::NoGradGuard no_grad;
    other->named_parameters()[parameter.key()].copy_(parameter.value());
  }
  const htl::Batch batch = draw(tasks, 12, Reads::periodic);
  htl::Batch changed = batch;  // the same history in the target's ids, and the same numbers in their own unit
  const at::Tensor first = batch.fields.offsets.slice(0, 0, -1).view({-1, 3}).select(1, 1),
                   behind = batch.fields.offsets.slice(0, 1).view({-1, 3}).select(1, 1);
  changed.fields.ids = batch.fields.ids.clone();
  for (int64_t row = 0; row < 12; ++row)
    for (int64_t at = first[row].item<int64_t>(); at < behind[row].item<int64_t>(); ++at) changed.fields.ids[at] = (changed.fields.ids[at] + 17) % 20;
  changed.numeric = batch.numeric.clone();
  changed.numeric.narrow(1, 0, 2).mul_(moved.inputs.spread).add_(moved.inputs.center);
  EXPECT_TRUE(close(other->forward(changed), plain->forward(batch), 1e-5));
}

TEST_F(Models, learn_with_an_adjuster_that_weighs) {
  for (const auto& [name, named] : models::all_models()) {
    SCOPED_TRACE(name);
    const htl::TaskSet tasks = named.tasks(chain());
    const std::shared_ptr<models::Model> model = named.make(options_for(tasks, Reads::ids, htl::UPGrad{}));
    const htl::HybridLoss loss(tasks);
    htl::RowAdagrad rows(model->embedding, {.lr = .1});
    torch::optim::Adam dense(htl::dense_parameters(*model), 5e-3);
    double first = 0.0, last = 0.0;
    for (int step = 0; step < 150; ++step) {
      const htl::Batch batch = draw(tasks, 256, Reads::ids);
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
