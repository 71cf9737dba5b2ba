// SPDX-License-Identifier: Apache-2.0
/// @file relations_test.cpp
/// @brief AdaptiveInformationTransfer, RelationGraph, and TaskGraph above shared blocks: formulas on random graphs, who trains whom, exact task gradients,
/// state, sentences.
#include <htl/gradient/backward.hpp>
#include <htl/nn/adatt.hpp>
#include <htl/nn/mixture_of_experts.hpp>
#include <htl/nn/progressive_layered_extraction.hpp>
#include <htl/transfer/adaptive_information_transfer.hpp>
#include <htl/transfer/relation_graph.hpp>
#include <htl/transfer/task_graph.hpp>

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/serialize.h>
#include <support/dense_rows.hpp>
#include <support/given.hpp>
#include <support/gradcheck.hpp>
#include <support/modules.hpp>
#include <support/seeded.hpp>

#include <functional>
#include <set>
#include <sstream>

namespace htl {
namespace {

using at::Tensor;
using test::close;
using test::randomize;
using test::reached;
using test::same_bits;
using test::sentence_of;
using Tensors = std::vector<Tensor>;
using Parameters = torch::OrderedDict<std::string, Tensor>;

Tensor layer(const Parameters& p, const std::string& name, const Tensor& x) { return at::linear(x, p[name + ".weight"], p[name + ".bias"]); }
Tensor mlp(const Parameters& p, const std::string& name, Tensor x) {
  for (int l = 0; p.contains(name + "." + std::to_string(l) + ".weight"); ++l) x = layer(p, name + "." + std::to_string(l), x).relu();
  return x;
}

/// Tasks of all kinds in a random order of a random graph.
TaskSet random_tasks(test::Random& random) {
  const int64_t count = random.integer(1, 5);
  std::vector<TaskSpec> tasks;
  std::vector<std::string> names;
  for (int64_t t = 0; t < count; ++t) {
    const std::string name = "t" + std::to_string(t);
    TaskSpec task = random.chance(.5) ? binary(name) : random.chance(.5) ? multiclass(name, 3) : regression(name);
    std::vector<std::string> parents;
    for (const std::string& other : names)
      if (random.chance(.5)) parents.push_back(other);
    tasks.push_back(task.after(parents));
    names.push_back(name);
  }
  std::vector<TaskSpec> shuffled;
  const Tensor order = random.permutation(count);
  for (int64_t t = 0; t < count; ++t) shuffled.push_back(tasks[static_cast<size_t>(order[t].item<int64_t>())]);
  return TaskSet(shuffled);
}

Tensors loop_of(AdaptiveInformationTransfer& net, const Tensors& views) {
  const Parameters p = net->named_parameters();
  const TaskSet& tasks = net->tasks();
  Tensors z(views.size()), outputs(views.size());
  for (const int64_t position : tasks.order()) {
    const auto t = static_cast<size_t>(position);
    const std::string name = tasks[position].name();
    Tensors items{mlp(p, "towers." + name, views[t])}, scores, values;
    for (const int64_t u : tasks.parents(position)) {
      const Tensor& from = z[static_cast<size_t>(u)];
      items.push_back(mlp(p, "transfers." + tasks[u].name() + "_to_" + name, net->options.stop_gradient() ? from.detach() : from));
    }
    z[t] = items[0];
    if (items.size() > 1) {
      const auto map = [&](const std::string& which, const Tensor& item) {
        const std::string of = "fusions." + name + "." + which;
        const Tensor mapped = item.mm(p[of + ".weight"].t());
        return net->options.bias() ? mapped + p[of + ".bias"] : mapped;
      };
      for (const Tensor& item : items) {
        const Tensor query = map("query", item);
        scores.push_back((query * map("key", item)).sum(1) / std::sqrt(static_cast<double>(query.size(1))));
        values.push_back(map("value", item));
      }
      const Tensor weights = at::stack(scores, 1).softmax(1);
      z[t] = at::zeros_like(values[0]);
      for (size_t i = 0; i < items.size(); ++i) z[t] = z[t] + weights.select(1, static_cast<int64_t>(i)).unsqueeze(1) * values[i];
    }
    outputs[t] = layer(p, "outputs." + name, z[t]);
  }
  return outputs;
}
Tensors loop_of(RelationGraph& net, const Tensors& views) {
  const Parameters p = net->named_parameters();
  const TaskSet& tasks = net->tasks();
  Tensors r(views.size()), outputs(views.size());
  for (const int64_t position : tasks.order()) {
    const auto t = static_cast<size_t>(position);
    const std::string name = tasks[position].name();
    Tensors parts{mlp(p, "tasks." + name, views[t])};
    for (const int64_t u : tasks.parents(position))
      parts.push_back(net->options.stop_gradient() ? r[static_cast<size_t>(u)].detach() : r[static_cast<size_t>(u)]);
    r[t] = mlp(p, "relations." + name, at::cat(parts, 1));
    outputs[t] = layer(p, "outputs." + name, r[t]);
  }
  return outputs;
}

template <class Net>
void expect_equal_to_loop(Net& net, test::Random& random, int64_t width, const std::string& where) {
  const auto count = static_cast<size_t>(net->tasks().size());
  Tensors views, leaves = net->parameters(), cotangents, values;
  for (size_t t = 0; t < count; ++t) leaves.push_back(views.emplace_back(random.normal({8, width}).requires_grad_()));
  const TaskOutputs ours = net->forward(views);
  const Tensors theirs = loop_of(net, views);
  EXPECT_EQ(ours.names(), net->tasks().names());
  for (size_t t = 0; t < count; ++t) {
    values.push_back(ours[net->tasks()[static_cast<int64_t>(t)].name()]);
    EXPECT_TRUE(close(values[t], theirs[t])) << where << ", task " << t;
    cotangents.push_back(random.normal(theirs[t].sizes()));
  }
  const auto by_us = torch::autograd::grad(values, leaves, cotangents, true, false, true),
             by_them = torch::autograd::grad(theirs, leaves, cotangents, false, false, true);
  for (size_t i = 0; i < leaves.size(); ++i) {
    EXPECT_EQ(by_us[i].defined(), by_them[i].defined()) << where << ", leaf " << i;
    if (by_them[i].defined()) {
      EXPECT_TRUE(close(by_us[i], by_them[i], 1e-11, 1e-11)) << where << ", leaf " << i;
    }
  }
}

TEST(InformationFusion, WithoutBiasesGivesTheGoldenNumbersAndHasNone) {
  InformationFusion unit(InformationFusionOptions({2, 2}, 2).bias(false));
  unit->to(at::kDouble);
  EXPECT_EQ(unit->named_parameters().keys(), (std::vector<std::string>{"value.weight", "query.weight", "key.weight"}));
  {
    const at::NoGradGuard no_grad;
    for (Tensor& parameter : unit->parameters()) parameter.copy_(at::eye(2));
  }
  unit->keep_weights();
  const Tensors items{at::tensor({1., 0.}, at::kDouble).unsqueeze(0), at::tensor({.5, 2.}, at::kDouble).unsqueeze(0)};
  EXPECT_TRUE(close(unit->forward(items), at::tensor({.54564, 1.817439}, at::kDouble).unsqueeze(0), 0.0, 1e-6));
  EXPECT_TRUE(close(unit->kept_weights(), at::tensor({.091281, .908719}, at::kDouble).unsqueeze(0), 0.0, 1e-6));
  EXPECT_TRUE(close(unit->weights(items), unit->kept_weights()));
  const MappedPart part = unit->forward_mapped(items);
  EXPECT_TRUE(close(at::linear(part.values, part.map, part.shift), unit->forward(items)));
  test::Random random(1);
  for (const FusionKind kind : {FusionKind::attention, FusionKind::concat, FusionKind::mean, FusionKind::gate})
    for (const std::vector<int64_t>& widths : {std::vector<int64_t>{3, 3}, std::vector<int64_t>{3, 2}}) {
      InformationFusion plain(InformationFusionOptions(widths, 4).kind(kind).bias(false)), biased(InformationFusionOptions(widths, 4).kind(kind));
      randomize(plain, random);
      biased->to(at::kDouble);
      const at::NoGradGuard no_grad;
      auto to = biased->named_parameters();
      for (const auto& item : to)
        if (item.key().find("bias") != std::string::npos) item.value().zero_();
      for (const auto& item : plain->named_parameters()) to[item.key()].copy_(item.value());
      const Tensors sources{random.normal({5, widths[0]}), random.normal({5, widths[1]})};
      EXPECT_TRUE(close(plain->forward(sources), biased->forward(sources)));
      const at::AutoGradMode with_gradients(true);
      EXPECT_TRUE(test::gradcheck_module([&](const Tensors& in) { return plain->forward(in); }, *plain, sources));
    }
  std::ostringstream text;
  text << *InformationFusion(InformationFusionOptions({2}, 2).bias(false));
  EXPECT_NE(text.str().find("kind=attention, without bias)"), std::string::npos);
}

TEST(TaskRelations, EqualTheirFormulasOnAnyGraph) {
  test::Random random(2);
  for (int trial = 0; trial < 40; ++trial) {
    const int64_t width = random.integer(1, 6);
    const TaskSet tasks = random_tasks(random);
    const std::string where = "trial " + std::to_string(trial);
    AdaptiveInformationTransfer aitm(tasks, AdaptiveInformationTransferOptions(width)
                                                .tower(random.pick<std::vector<int64_t>>({{4}, {5, 3}}))
                                                .transfer(random.pick<std::vector<int64_t>>({{}, {4}}))
                                                .bias(random.chance(.3))
                                                .stop_gradient(random.chance(.4)));
    randomize(aitm, random);
    expect_equal_to_loop(aitm, random, width, where + " AITM");
    RelationGraph dbmtl(tasks, RelationGraphOptions(width)
                                   .task(random.pick<std::vector<int64_t>>({{}, {4}, {5, 3}}))
                                   .relation(random.pick<std::vector<int64_t>>({{3}, {4, 2}}))
                                   .stop_gradient(random.chance(.4)));
    randomize(dbmtl, random);
    expect_equal_to_loop(dbmtl, random, width, where + " DBMTL");
  }
}

/// Of the names those that hold one of the words.
template <class Net>
std::set<std::string> with_words(Net& net, const std::vector<std::string>& words) {
  std::set<std::string> names;
  for (const std::string& name : net->named_parameters().keys())
    for (const std::string& word : words)
      if (name.find(word) != std::string::npos) names.insert(name);
  return names;
}

TEST(TaskRelations, TrainTheTasksBeforeUnlessCut) {
  const TaskSet tasks{binary("click"), binary("view").after("click"), regression("time").after("view")};
  test::Random random(3);
  const Tensor x = random.normal({200, 6});
  for (const bool cut : {false, true}) {
    AdaptiveInformationTransfer aitm(tasks, AdaptiveInformationTransferOptions(6).tower({8, 5}).stop_gradient(cut));
    RelationGraph dbmtl(tasks, RelationGraphOptions(6).stop_gradient(cut));
    aitm->to(at::kDouble);
    dbmtl->to(at::kDouble);
    const std::vector<std::string> own_aitm{"towers.time", "view_to_time", "fusions.time", "outputs.time"};
    const std::vector<std::string> own_dbmtl{"tasks.time", "relations.time", "outputs.time"};
    if (cut) {
      EXPECT_EQ(reached(aitm, x, "time"), with_words(aitm, own_aitm));
      EXPECT_EQ(reached(dbmtl, x, "time"), with_words(dbmtl, own_dbmtl));
    } else {
      EXPECT_EQ(reached(aitm, x, "time"), with_words(aitm, {"towers", "transfers", "fusions", "outputs.time"}));
      EXPECT_EQ(reached(dbmtl, x, "time"), with_words(dbmtl, {"tasks", "relations", "outputs.time"}));
    }
    EXPECT_EQ(reached(aitm, x, "click"), with_words(aitm, {"towers.click", "outputs.click"}));
    EXPECT_EQ(reached(dbmtl, x, "click"), with_words(dbmtl, {"tasks.click", "relations.click", "outputs.click"}));
  }
}

TEST(TaskRelations, OfASingleTaskAreAPlainMlp) {
  test::Random random(4);
  const Tensor x = random.normal({7, 6});
  AdaptiveInformationTransfer aitm(TaskSet{binary("click")}, AdaptiveInformationTransferOptions(6).tower({5, 4}));
  RelationGraph dbmtl(TaskSet{binary("click")}, RelationGraphOptions(6).task({5}).relation({4}));
  randomize(aitm, random);
  randomize(dbmtl, random);
  EXPECT_EQ(aitm->parameters().size(), 6U);
  EXPECT_FALSE(aitm->fusion("click"));
  const Parameters a = aitm->named_parameters(), d = dbmtl->named_parameters();
  EXPECT_TRUE(close(aitm->forward(x)["click"], layer(a, "outputs.click", mlp(a, "towers.click", x))));
  EXPECT_TRUE(close(dbmtl->forward(x)["click"], layer(d, "outputs.click", mlp(d, "relations.click", mlp(d, "tasks.click", x)))));
}

/// A whole model over a table: the fork's Gramian and gradient against T whole backwards through dense tables.
template <class... Modules>
void expect_exact_task_gradients(test::Random& random, const TaskSet& tasks, const std::function<TaskOutputs(const Tensor&)>& forward,
                                 const Modules&... modules) {
  const int64_t rows = 9, width = 6;
  const RowTable table(random.normal({7, width / 2}).requires_grad_(), "items");
  const FieldBatch batch = FieldBatch::of(random.ids({rows, 2}, 7));
  const Tensor target = random.normal({rows});
  const auto losses_of = [&](const Tensor& x) {
    TaskLosses losses;
    for (const auto& [name, output] : forward(x)) losses.set(name, (output.select(1, 0) - target).square().mean());
    return losses;
  };
  test::Given method;
  for (int64_t t = 0; t < tasks.size(); ++t) method.values.push_back(random.real(-2.0, 2.0));
  GradientFork<test::Given> fork(tasks, method);
  const Shared named = shared(modules..., table);
  const GradientReport report = backward(losses_of(lookup(table, batch).values()), fork, named);
  Tensors leaves, got, jacobian;
  for (const Shared::Parameter& parameter : named.parameters()) {
    leaves.push_back(parameter.value);
    got.push_back((parameter.value.grad().defined() ? parameter.value.grad() : at::zeros_like(parameter.value)).flatten());
  }
  leaves.push_back(table.weight().detach().clone().requires_grad_());
  got.push_back(test::dense_gradient(table).flatten());
  const TaskLosses brute = losses_of(at::embedding(leaves.back(), batch.ids).view({rows, width}));
  for (const auto& [name, loss] : brute.values) {
    const auto gradients = torch::autograd::grad({loss}, leaves, {}, true, false, true);
    Tensors flat;
    for (size_t i = 0; i < leaves.size(); ++i) flat.push_back((gradients[i].defined() ? gradients[i] : at::zeros_like(leaves[i])).flatten());
    jacobian.push_back(at::cat(flat));
  }
  const Tensor j = at::stack(jacobian);
  EXPECT_TRUE(close(report.gramian, j.mm(j.t()), 1e-10, 1e-10));
  EXPECT_TRUE(close(at::cat(got), at::tensor(method.values, at::kDouble).matmul(j), 1e-10, 1e-10));
}

TEST(TaskRelations, GiveTheForkExactTaskGradients) {
  const TaskSet tasks{binary("click"), binary("view").after("click"), regression("time").after("click", "view")};
  test::Random random(5);
  AdaptiveInformationTransfer aitm(tasks, AdaptiveInformationTransferOptions(6).tower({5, 4}));
  RelationGraph dbmtl(tasks, RelationGraphOptions(6).task({5}).relation({4}));
  randomize(aitm, random);
  randomize(dbmtl, random);
  expect_exact_task_gradients(
      random, tasks, [&](const Tensor& x) { return aitm->forward(x); }, aitm);
  expect_exact_task_gradients(
      random, tasks, [&](const Tensor& x) { return dbmtl->forward(x); }, dbmtl);
}

TEST(TaskGraph, StandsOnSharedBlocksAsHtlNetAboveThem) {
  const TaskSet tasks{binary("click"), binary("view").after("click"), regression("time").core().after("click", "view")};
  test::Random random(6);
  const auto check = [&](auto block) {
    TaskGraphOptions options(block->representation_width());
    options.tower({5, 4}).label().noise(LabelNoise::none);
    TaskGraph<> graph(tasks, options);
    randomize(block, random, .8);
    randomize(graph, random, .8);
    const Tensor x = random.normal({50, 6});
    // a task without others before it is its tower over its own representation
    const TaskOutputs outputs = graph->forward(block->forward(x));
    EXPECT_EQ(outputs.names(), tasks.names());
    EXPECT_TRUE(close(outputs["click"], graph->tower("click")->forward(block->forward(x)[0]).output));
    // every loss trains its own tower and the block, none another's tower
    for (const std::string task : {"click", "view", "time"}) {
      graph->zero_grad();
      block->zero_grad();
      graph->forward(block->forward(x))[task].square().sum().backward();
      for (const std::string other : {"click", "view", "time"}) {
        const Tensor gradient = graph->named_parameters()["towers." + other + ".layers.0.weight"].grad();
        EXPECT_EQ(gradient.defined() && gradient.any().template item<bool>(), other == task) << task << ", tower of " << other;
      }
      EXPECT_TRUE(block->parameters()[0].grad().any().template item<bool>());
    }
    block->zero_grad();
    graph->zero_grad();
    graph->eval();  // the label embedding's mean
    expect_exact_task_gradients(
        random, tasks, [&](const Tensor& in) { return graph->forward(block->forward(in)); }, block);
    // without transfer: the towers alone
    TaskGraph<> towers(tasks, TaskGraphOptions(block->representation_width()).tower({5, 4}).transfer(Transfer::none));
    towers->to(at::kDouble);
    const Tensors representations = block->forward(x);
    EXPECT_TRUE(close(towers->forward(representations)["view"], towers->tower("view")->forward(representations[1]).output));
  };
  check(MixtureOfExperts(MixtureOfExpertsOptions(6, 3).experts(3).expert({5, 4})));
  check(ProgressiveLayeredExtraction(ProgressiveLayeredExtractionOptions(6, 3).levels({{.expert = {5}}, {.expert = {4}}})));
  check(AdaTT(AdaTTOptions(6, 3).levels({{5}, {4}})));
}

TEST(TaskRelations, CloneSaveLoadPrintAndKeepTheirNames) {
  const TaskSet tasks{binary("click"), binary("buy").after("click")};
  const auto check = [&](auto make, const std::vector<std::string>& names, const std::string& line) {
    at::manual_seed(4);
    auto net = make(), other = make();
    const Tensor x = at::randn({6, 5});
    const Tensor expected = net->forward(x)["buy"];
    const auto copy = std::dynamic_pointer_cast<typename decltype(net)::ContainedType>(net->clone());
    std::stringstream stream;
    torch::save(net, stream);
    torch::load(other, stream);
    EXPECT_EQ(net->named_parameters().keys(), names);
    {
      const at::NoGradGuard no_grad;
      for (Tensor& parameter : net->parameters()) parameter.zero_();
    }
    EXPECT_TRUE(same_bits(copy->forward(x)["buy"], expected)) << "a clone shares nothing";
    EXPECT_TRUE(same_bits(other->forward(x)["buy"], expected));
    copy->to(at::kDouble);
    EXPECT_EQ(copy->forward(x.to(at::kDouble))["buy"].scalar_type(), at::kDouble);
    std::ostringstream text;
    text << *net;
    EXPECT_EQ(text.str().substr(0, line.size()), line);
  };
  check([&] { return AdaptiveInformationTransfer(tasks, AdaptiveInformationTransferOptions(5).tower({4})); },
        {"towers.click.0.weight", "towers.click.0.bias", "towers.buy.0.weight", "towers.buy.0.bias", "transfers.click_to_buy.0.weight",
         "transfers.click_to_buy.0.bias", "fusions.buy.value.weight", "fusions.buy.query.weight", "fusions.buy.key.weight", "outputs.click.weight",
         "outputs.click.bias", "outputs.buy.weight", "outputs.buy.bias"},
        "htl::AdaptiveInformationTransfer(tasks=[\"click\", \"buy\"], input_width=5, tower=[4])(");
  check([&] { return RelationGraph(tasks, RelationGraphOptions(5).task({4}).relation({3})); },
        {"tasks.click.0.weight", "tasks.click.0.bias", "tasks.buy.0.weight", "tasks.buy.0.bias", "relations.click.0.weight", "relations.click.0.bias",
         "relations.buy.0.weight", "relations.buy.0.bias", "outputs.click.weight", "outputs.click.bias", "outputs.buy.weight", "outputs.buy.bias"},
        "htl::RelationGraph(tasks=[\"click\", \"buy\"], input_width=5, task=[4], relation=[3])(");
}

TEST(TaskRelations, KeepAttentionAndSayWhatIsWrong) {
  const TaskSet tasks{binary("click"), binary("buy").after("click")};
  AdaptiveInformationTransfer net(tasks, AdaptiveInformationTransferOptions(5));
  net->fusion("buy")->keep_weights();
  net->forward(at::randn({6, 5}));
  EXPECT_TRUE(close(net->fusion("buy")->kept_weights().sum(1), at::ones(6), 0.0, 1e-6));
  EXPECT_EQ(net->fusion("buy")->kept_weights().sizes(), (std::vector<int64_t>{6, 2}));
  EXPECT_EQ(sentence_of([&] {
              net->forward(Tensors{at::ones({2, 5})});
            }),
            "htl::AdaptiveInformationTransfer: expected 2 views, one per task of \"click\", \"buy\", got 1");
  EXPECT_EQ(sentence_of([&] { AdaptiveInformationTransfer(tasks, AdaptiveInformationTransferOptions(5).tower({})); }),
            "htl::AdaptiveInformationTransfer: expected at least one tower layer, got none; give widths such as {128, 64, 32}");
  EXPECT_EQ(sentence_of([&] { AdaptiveInformationTransfer(tasks, AdaptiveInformationTransferOptions(0)); }),
            "htl::AdaptiveInformationTransfer: expected an input width ≥ 1 and a numeric width ≥ 0, got 0 and 0");
  RelationGraph graph(tasks, RelationGraphOptions(5));
  EXPECT_EQ(sentence_of([&] { graph->forward(Tensors{at::ones({2, 5})}); }), "htl::RelationGraph: expected 2 views, one per task of \"click\", \"buy\", got 1");
  EXPECT_EQ(sentence_of([&] { RelationGraph(tasks, RelationGraphOptions(5).relation({})); }),
            "htl::RelationGraph: expected at least one relation layer, got none; give widths such as {32}");
  EXPECT_EQ(sentence_of([&] { RelationGraph(tasks, RelationGraphOptions(0)); }), "htl::RelationGraph: expected an input width ≥ 1, got 0");
}

}  // namespace
}  // namespace htl
