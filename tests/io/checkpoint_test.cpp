// SPDX-License-Identifier: Apache-2.0
/// @file checkpoint_test.cpp
/// @brief A training's whole state comes back, whatever kind of part holds it; a killed process leaves whole checkpoints; damaged ones give sentences.

#include <htl/data/batch_loader.hpp>
#include <htl/embedding/field_embedding.hpp>
#include <htl/gradient/backward.hpp>
#include <htl/io/append_file.hpp>
#include <htl/io/checkpoint.hpp>
#include <htl/optim/dense_parameters.hpp>
#include <htl/optim/fused_adam.hpp>
#include <htl/optim/lazy_adam.hpp>
#include <htl/optim/weight_average.hpp>
#include <htl/transfer/task_graph.hpp>
#include <htl/weighting/any_weighting.hpp>
#include <htl/weighting/core_task.hpp>
#include <htl/weighting/cr_mogm.hpp>
#include <htl/weighting/gradvac.hpp>

#include <support/seeded.hpp>
#include <support/temporary_folder.hpp>

#include <ATen/CPUGeneratorImpl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <torch/nn/modules/linear.h>
#include <torch/optim/adamw.h>
#include <torch/optim/sgd.h>

#include <chrono>
#include <csignal>
#include <fstream>
#include <memory>
#include <random>
#include <thread>

namespace {

namespace fs = std::filesystem;
using htl::test::contains;
using htl::test::same_bits;
using htl::test::sentence_of;
using htl::test::TemporaryFolder;

const htl::TaskSet& tasks() {
  static const htl::TaskSet set{htl::binary("click"), htl::regression("time").after("click").core()};
  return set;
}

struct NetImpl : torch::nn::Module {
  NetImpl()
      : embedding(register_module("embedding", htl::FieldEmbedding(htl::FieldEmbeddingOptions(std::vector<int64_t>{50, 30}, 4)))),
        fork(register_module("fork", htl::GradientFork<htl::CoreTask>(tasks(), {.norm = htl::NormReference::moving_average}))),
        graph(register_module("graph", htl::TaskGraph<>(tasks(), htl::TaskGraphOptions(embedding->width()).tower({8, 6}).dropout(0.2)))) {}
  htl::FieldEmbedding embedding{nullptr};
  htl::GradientFork<htl::CoreTask> fork{nullptr};
  htl::TaskGraph<> graph{nullptr};
};
TORCH_MODULE(Net);

/// A training with every kind of state: tables, method, dense and row optimizer, average, loader, generator, numbers.
struct Training {
  explicit Training(uint64_t seed)
      : rows(net->embedding, {.bias_correction = htl::BiasCorrection::per_row}),
        dense(htl::dense_parameters(*net)),
        average(net->embedding, htl::dense_parameters(*net), {.decay = 0.9}),
        loader(data(), {.batch_size = 16, .seed = seed}) {
    state.add("model", net).add("rows", rows).add("dense", dense).add("average", average).add("loader", loader);
    state.add("rng", at::detail::getDefaultCPUGenerator()).add("steps", steps).add("best", best).add("kept", kept);
  }
  static htl::TableData data() {
    htl::test::Random random(3);
    htl::Batch all;
    all.fields = htl::FieldBatch::of(at::stack({random.ids({100}, 50), random.ids({100}, 30)}, 1));
    all.labels.set("click", {random.events({100}, 0.5, at::kFloat)}).set("time", {random.normal({100}, 1.0, at::kFloat)});
    return htl::TableData(std::move(all));
  }
  void run(int64_t count) {
    net->train();
    for (int64_t done = 0; done < count;)
      for (const htl::Batch& batch : loader) {
        dense.zero_grad();
        const htl::TaskOutputs out = net->graph->forward(net->fork->split(net->embedding->lookup(batch)));
        htl::TaskLosses losses;
        losses.values.set("click", at::binary_cross_entropy_with_logits(out["click"].squeeze(1), batch.labels["click"].value));
        losses.values.set("time", (out["time"].squeeze(1) - batch.labels["time"].value).square().mean());
        htl::backward(losses, net->fork);
        average.update();
        rows.step();
        dense.step();
        best = losses.values["time"].item<double>();
        ++steps;
        if (++done == count) break;
      }
  }
  std::vector<at::Tensor> copy() const {
    std::vector<at::Tensor> all;
    for (const auto& [name, tensor] : state.tensors()) all.push_back(tensor.clone());
    return all;
  }

  Net net;
  htl::LazyAdam rows;
  htl::FusedAdam dense;
  htl::WeightAverage average;
  htl::BatchLoader loader;
  int64_t steps = 0;
  double best = std::numeric_limits<double>::quiet_NaN();
  bool kept = false;
  htl::TrainingState state;
};

void expect_same(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b, const std::vector<std::string>& names) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) EXPECT_TRUE(same_bits(a[i], b[i])) << names[i];
}

void expect_same(const htl::Named<at::Tensor>& a, const htl::Named<at::Tensor>& b) {
  ASSERT_EQ(a.names(), b.names());
  for (const auto& [name, tensor] : a) EXPECT_TRUE(same_bits(b[name], tensor)) << name;
}

TEST(TrainingState, GoesOnBitByBitFromAnyStepInAnotherProcessesObjects) {
  const TemporaryFolder folder;
  const htl::Checkpoints checkpoints(folder.path("checkpoints"));
  for (const int64_t before : {0, 1, 6, 7, 8, 20}) {
    torch::manual_seed(5);
    Training straight(9);
    straight.run(before);
    checkpoints.save(before, straight.state, htl::Named<std::string>().set("note", "größer"));
    straight.run(11);

    torch::manual_seed(77);  // other weights, another order, another place in both generators
    Training other(10);
    other.run(before == 6 ? 3 : 0);
    const auto found = checkpoints.newest();
    ASSERT_TRUE(found);
    EXPECT_EQ(found->step, before);
    EXPECT_EQ(found->metadata["note"], "größer");
    other.state.load(found->tensors);
    other.run(11);
    expect_same(straight.copy(), other.copy(), straight.state.tensors().names());
    EXPECT_EQ(other.steps, before + 11);
  }
}

TEST(TrainingState, KeepsTheForkOfAModelWithItsMethodAndGenerator) {
  torch::manual_seed(1);
  Training trained(1);
  trained.net->fork->generator() = at::make_generator<at::CPUGeneratorImpl>(uint64_t{4});
  trained.run(3);
  const htl::Named<at::Tensor> saved = trained.state.tensors();
  EXPECT_EQ(saved["model.fork.step"].item<int64_t>(), 3);
  EXPECT_EQ(saved["model.fork.core_norms"].sizes(), at::IntArrayRef({2}));
  EXPECT_TRUE(saved.contains("model.fork.generator"));

  // a state before the first step: its method has no memory, and loading it takes away that of a later one
  Training fresh(1);
  const htl::Named<at::Tensor> empty = fresh.state.tensors();
  EXPECT_TRUE(empty.contains("model.fork.core_norms.undefined"));
  Training later(1);
  later.run(2);
  later.state.load(empty);
  later.net->fork->fields([](const char* name, at::Tensor& field) { EXPECT_FALSE(field.defined()) << name; });
  EXPECT_EQ(later.net->fork->step(), 0);

  // between micro-batches there is a gradient that is in no field
  const auto batch = *later.loader.begin();
  const auto out = later.net->graph->forward(later.net->fork->split(later.net->embedding->lookup(batch)));
  htl::TaskLosses losses;
  losses.values.set("click", out["click"].mean()).set("time", out["time"].mean());
  htl::backward(losses, later.net->fork, {.accumulate = true});
  EXPECT_TRUE(contains(sentence_of([&] { later.state.tensors(); }), "while micro-batches are accumulated"));
}

/// A small model with a fork of any method.
template <class Method>
struct MethodNet : torch::nn::Module {
  MethodNet(Method method, htl::GradientScope scope)
      : embedding(register_module("embedding", htl::FieldEmbedding(htl::FieldEmbeddingOptions(std::vector<int64_t>{50, 30}, 4)))),
        bottom(register_module("bottom", torch::nn::Linear(embedding->width(), 6))),
        click(register_module("click", torch::nn::Linear(6, 1))),
        time(register_module("time", torch::nn::Linear(6, 1))),
        fork(register_module("fork", htl::GradientFork<Method>(tasks(), std::move(method), scope))) {}
  htl::FieldEmbedding embedding{nullptr};
  torch::nn::Linear bottom{nullptr}, click{nullptr}, time{nullptr};
  htl::GradientFork<Method> fork{nullptr};
};

template <class Method>
struct MethodTraining {
  explicit MethodTraining(Method method, htl::GradientScope scope = htl::GradientScope::tensor) : net(std::move(method), scope) {
    state.add("model", net).add("rows", rows).add("dense", dense);
  }
  void run(int64_t from, int64_t to) {
    const htl::TableData data = Training::data();
    for (int64_t step = from; step < to; ++step) {
      const htl::Batch batch = data.gather(at::arange(16 * step, 16 * step + 16));
      dense.zero_grad();
      const auto views = net.fork->split(net.bottom(net.embedding->forward(batch)).tanh());
      htl::TaskLosses losses;
      losses.values.set("click", at::binary_cross_entropy_with_logits(net.click(views[0]).squeeze(1), batch.labels["click"].value));
      losses.values.set("time", (net.time(views[1]).squeeze(1) - batch.labels["time"].value).square().mean());
      htl::backward(losses, net.fork, htl::shared(net.embedding, net.bottom));
      rows.step();
      dense.step();
    }
  }
  MethodNet<Method> net;
  htl::LazyAdam rows{net.embedding};
  htl::FusedAdam dense{htl::dense_parameters(net)};
  htl::TrainingState state;
};

TEST(TrainingState, KeepsAnyMethodWithAnInnerOneForEachTensor) {
  torch::manual_seed(6);
  const htl::AnyWeighting method = htl::CRMOGM<htl::AnyWeighting>{.inner = htl::GradVac{.order = htl::Order::ascending}};
  MethodTraining straight(method);
  straight.run(0, 2);
  const TemporaryFolder folder;
  const htl::Checkpoints checkpoints(folder.path("checkpoints"));
  checkpoints.save(2, straight.state);
  straight.run(2, 5);

  torch::manual_seed(78);  // other weights
  MethodTraining fresh(method), later(method);
  later.run(3, 5);  // another past
  const htl::Named<at::Tensor> saved = checkpoints.newest()->tensors;
  EXPECT_EQ(saved["model.fork.inner/targets.shapes"].sizes(), at::IntArrayRef({3, 3}));  // a table, a weight and a bias; [2, 2] each
  for (MethodTraining<htl::AnyWeighting>* training : {&fresh, &later}) {
    training->state.load(saved);
    training->run(2, 5);
    expect_same(straight.state.tensors(), training->state.tensors());
  }
  later.net.fork->forget();  // and the memory does count
  fresh.run(5, 6);
  later.run(5, 6);
  EXPECT_FALSE(same_bits(fresh.net.bottom->weight, later.net.bottom->weight));
}

/// A method as a user writes one: it remembers averages and a count, in place or not, and it draws.
struct OwnMethod {
  struct State {
    at::Tensor norms, products, calls;  // [T], [T, T], [] int64
    template <class Visit>
    void fields(Visit&& visit) {
      visit("norms", norms);
      visit("products", products);
      visit("calls", calls);
    }
  };
  at::Tensor weights(const htl::TaskGramian& gramian, State& state) const {
    const at::Tensor now = gramian.matrix.diagonal().clamp_min(0.0).sqrt();
    if (!state.norms.defined()) state = {now, gramian.matrix.clone(), at::zeros({}, at::kLong)};
    state.norms = state.norms.lerp(now, 0.3);
    state.products.lerp_(gramian.matrix, 0.1);
    state.calls.add_(1);
    const at::Tensor drawn = at::rand({gramian.tasks()}, gramian.generator, now.options()), agrees = state.products.sum(1).gt(0.0);
    return (1.0 + drawn) * (1.0 + 0.5 * agrees) / state.norms.clamp_min(1e-12) / (state.calls + gramian.step);
  }
};

TEST(TrainingState, KeepsAUsersOwnMethodWithoutAFurtherLine) {
  const auto training = [](uint64_t seed, htl::GradientScope scope) {
    torch::manual_seed(seed);
    auto result = std::make_unique<MethodTraining<OwnMethod>>(OwnMethod{}, scope);
    result->net.fork->generator() = at::make_generator<at::CPUGeneratorImpl>(seed);
    return result;
  };
  for (const htl::GradientScope scope : {htl::GradientScope::whole, htl::GradientScope::tensor})
    for (const int64_t before : {0, 1, 3}) {  // at first it remembers nothing yet
      SCOPED_TRACE(c10::str("scope ", static_cast<int>(scope), ", saved after ", before));
      const TemporaryFolder folder;
      const htl::Checkpoints checkpoints(folder.path("checkpoints"));
      {
        const auto killed = training(7, scope);  // nothing of it is left but the file
        killed->run(0, before);
        checkpoints.save(before, killed->state);
      }
      const auto straight = training(7, scope), resumed = training(8, scope), forgetful = training(9, scope);
      straight->run(0, 5);
      for (const auto& other : {resumed.get(), forgetful.get()}) other->state.load(checkpoints.newest()->tensors);
      resumed->run(before, 5);
      expect_same(straight->state.tensors(), resumed->state.tensors());
      const int64_t step = forgetful->net.fork->step();
      forgetful->net.fork->forget();
      forgetful->net.fork->step() = step;
      forgetful->run(before, 5);
      EXPECT_EQ(same_bits(straight->net.bottom->weight, forgetful->net.bottom->weight), before == 0) << "the memory counts";
      EXPECT_EQ(resumed->state.tensors().contains("model.fork.norms.shapes"), scope == htl::GradientScope::tensor);
    }
}

TEST(TrainingState, TakesLibTorchsOptimizersAndTheUsersOwnTensors) {
  for (const bool sgd : {false, true}) {
    const auto make = [&](const torch::nn::Linear& layer) -> std::unique_ptr<torch::optim::Optimizer> {
      if (sgd) return std::make_unique<torch::optim::SGD>(layer->parameters(), torch::optim::SGDOptions(0.1).momentum(0.9));
      return std::make_unique<torch::optim::AdamW>(layer->parameters(), torch::optim::AdamWOptions(0.1));
    };
    const auto step = [](torch::nn::Linear& layer, torch::optim::Optimizer& optimizer, const at::Tensor& input) {
      optimizer.zero_grad();
      layer(input).square().mean().backward();
      optimizer.step();
    };
    torch::manual_seed(2);
    torch::nn::Linear a(3, 2), b(3, 2);
    auto of_a = make(a), of_b = make(b);
    at::Tensor seen = at::zeros({2}, at::kDouble), other = at::ones({2}, at::kDouble);
    htl::TrainingState from, into;
    from.add("layer", a).add("optimizer", *of_a).add("seen", seen);
    into.add("layer", b).add("optimizer", *of_b).add("seen", other);
    const at::Tensor input = at::randn({5, 3});
    for (int i = 0; i < 4; ++i) step(a, *of_a, input);
    const TemporaryFolder folder;
    const htl::Checkpoints checkpoints(folder.path("c"));
    checkpoints.save(4, from);
    into.load(checkpoints.newest()->tensors);
    for (int i = 0; i < 4; ++i) {
      step(a, *of_a, input);
      step(b, *of_b, input);
    }
    EXPECT_TRUE(same_bits(a->weight, b->weight));
    EXPECT_TRUE(same_bits(a->bias, b->bias));
    EXPECT_TRUE(same_bits(seen, other));
  }
}

TEST(TrainingState, ListsEveryFaultAndChangesNothing) {
  torch::nn::Linear narrow(3, 2), wide(4, 2);
  int64_t steps = 7, others = 9;
  double rate = 0.5;
  htl::TrainingState from, into;
  from.add("net", narrow).add("steps", steps).add("rate", rate);
  into.add("net", wide).add("steps", others).add("epochs", others);
  const at::Tensor before = wide->weight.detach().clone();
  EXPECT_EQ(sentence_of([&] { into.load(from.tensors()); }),
            "htl::TrainingState: expected 4 tensors; missing: \"epochs\"; not expected: \"rate\"; different: \"net.weight\" is [2, 3] Float, expected [2, 4] "
            "Float; nothing was changed; build everything with the options that the state was saved with");
  EXPECT_EQ(others, 9);
  EXPECT_TRUE(same_bits(before, wide->weight));
  htl::TrainingState twice;
  twice.add("net", narrow);
  EXPECT_EQ(sentence_of([&] { twice.add("net", wide); }), "htl::TrainingState: there is a part \"net\" already; choose another name");
  twice.add("net.bias", rate);
  EXPECT_EQ(sentence_of([&] { twice.tensors(); }), "htl::Named: the name \"net.bias\" is there twice");
  EXPECT_EQ(sentence_of([&] { twice.add("", rate); }), "htl::TrainingState: expected a name for each part, got an empty one");
}

TEST(TrainingState, KeepsEveryBitOfNumbers) {
  for (const double value : {0.1, -0.0, std::numeric_limits<double>::infinity(), std::numeric_limits<double>::quiet_NaN(), 5e-324}) {
    double number = value, loaded = 1.0;
    bool flag = true, other = false;
    int64_t large = std::numeric_limits<int64_t>::min(), whole = 0;
    htl::TrainingState from, into;
    from.add("number", number).add("flag", flag).add("large", large);
    into.add("number", loaded).add("flag", other).add("large", whole);
    const TemporaryFolder folder;
    htl::save_safetensors(folder.path("n"), {from.tensors(), {}});
    into.load(htl::load_safetensors(folder.path("n")).tensors);
    EXPECT_EQ(std::bit_cast<uint64_t>(loaded), std::bit_cast<uint64_t>(value));
    EXPECT_TRUE(other);
    EXPECT_EQ(whole, large);
  }
}

TEST(Checkpoints, KeepTheLastOnesAndReplaceThatOfTheSameStep) {
  const TemporaryFolder folder;
  const htl::Checkpoints checkpoints(folder.path("deep/folder"), {.keep = 3});
  EXPECT_FALSE(checkpoints.newest());
  int64_t number = 0;
  htl::TrainingState state;
  state.add("number", number);
  for (number = 1; number <= 12; ++number) checkpoints.save(number * 10, state);
  const auto left = checkpoints.list();
  ASSERT_EQ(left.size(), 3U);
  EXPECT_EQ(left[0].first, 120);
  EXPECT_EQ(left[2].first, 100);
  number = 99;
  checkpoints.save(120, state);
  EXPECT_EQ(checkpoints.list().size(), 3U);
  state.load(checkpoints.newest()->tensors);
  EXPECT_EQ(number, 99);
  htl::write_atomically(folder.path("deep/folder/step-00000000012x.safetensors"), "a user's own");
  htl::write_atomically(folder.path("deep/folder/notes.txt"), "a user's own");
  checkpoints.save(130, state);
  EXPECT_TRUE(fs::exists(folder.path("deep/folder/notes.txt")));
  EXPECT_EQ(checkpoints.list().size(), 3U);
  EXPECT_EQ(sentence_of([&] { checkpoints.save(-1, state); }), "htl::Checkpoints: expected a step in [0, 999999999999], got -1");
  EXPECT_EQ(sentence_of([&] { htl::Checkpoints("x", {.keep = 0}); }), "htl::Checkpoints: expected to keep at least 1, got 0");
  htl::write_atomically(folder.path("file"), "");
  EXPECT_TRUE(contains(sentence_of([&] { htl::Checkpoints(folder.path("file")).save(1, state); }), "htl::Checkpoints: can't make the folder"));
  EXPECT_TRUE(contains(sentence_of([&] { htl::Checkpoints(folder.path("file")).list(); }), "htl::Checkpoints: can't read the folder"));
}

TEST(Checkpoints, GoBackToAnOlderOneWhereTheNewestIsDamagedAndSayWhy) {
  int64_t number = 1;
  htl::TrainingState state;
  state.add("number", number).add("more", number);
  const TemporaryFolder folder;
  const htl::Checkpoints checkpoints(folder.path("c"), {.keep = 2});
  checkpoints.save(1, state);
  number = 2;
  checkpoints.save(2, state);
  const fs::path newest = checkpoints.list().front().second;
  const std::string whole = htl::read_file(newest);
  // whichever byte is damaged, and however much is lost
  for (size_t at = 0; at < whole.size(); ++at) {
    std::string damaged = whole;
    damaged[at] = static_cast<char>(damaged[at] ^ 4);
    htl::write_atomically(newest, damaged);
    const auto found = checkpoints.newest();
    ASSERT_TRUE(found) << at;
    ASSERT_EQ(found->step, 1) << at;
    ASSERT_EQ(found->damaged.size(), 1U) << at;
    ASSERT_NE(found->damaged[0].find(newest.string()), std::string::npos) << found->damaged[0];
  }
  for (size_t size = 0; size < whole.size(); size += 7) {
    htl::write_atomically(newest, whole.substr(0, size));
    ASSERT_EQ(checkpoints.newest()->step, 1) << size;
  }
  htl::write_atomically(checkpoints.list().back().second, "");
  const std::string sentence = sentence_of([&] { checkpoints.newest(); });
  EXPECT_TRUE(contains(sentence, "htl::Checkpoints: none of the 2 checkpoints in"));
  EXPECT_TRUE(contains(sentence, "has 0 bytes"));
}

TEST(Checkpoints, OfANewerVersionOrOfSomethingElseAreRefused) {
  const TemporaryFolder folder;
  const htl::Checkpoints checkpoints(folder.path(""));
  const auto write = [&](std::vector<std::pair<std::string, std::string>> metadata) {
    htl::save_safetensors(folder.path("step-000000000001.safetensors"), {{}, htl::Named<std::string>(std::move(metadata))});
    return sentence_of([&] { checkpoints.newest(); });
  };
  EXPECT_TRUE(contains(write({{"format", "htl.checkpoint"}, {"version", "2"}}), "has version 2 of the format, expected 1; it was written by a newer library"));
  EXPECT_TRUE(contains(write({}), "is not a checkpoint"));
  EXPECT_TRUE(contains(write({{"format", "other"}, {"version", "1"}}), "is not a checkpoint"));
}

// The child saves without a pause and is killed at any moment, mostly inside a write: what is left is whole, and not older than what it had finished
TEST(Checkpoints, OfAKilledProcessAreWhole) {
  std::mt19937_64 random(4);
  for (int round = 0; round < 30; ++round) {
    const TemporaryFolder folder;
    const htl::Checkpoints checkpoints(folder.path("c"), {.keep = 2});
    int finished[2];
    ASSERT_EQ(::pipe(finished), 0);
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      at::Tensor values = at::zeros({20000});
      int64_t step = 0;
      htl::TrainingState state;
      state.add("values", values).add("step", step);
      for (step = 1;; ++step) {
        for (int64_t i = 0; i < values.numel(); ++i) values.mutable_data_ptr<float>()[i] = static_cast<float>(step);
        checkpoints.save(step, state);
        if (::write(finished[1], &step, sizeof(step)) != sizeof(step)) ::_exit(1);
      }
    }
    ::close(finished[1]);
    int64_t step = 0;
    ASSERT_EQ(::read(finished[0], &step, sizeof(step)), static_cast<ssize_t>(sizeof(step)));  // the first one is there
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 20000));
    ASSERT_EQ(::kill(child, SIGKILL), 0);
    ::waitpid(child, nullptr, 0);
    int64_t last = step;
    while (::read(finished[0], &step, sizeof(step)) == static_cast<ssize_t>(sizeof(step))) last = step;
    ::close(finished[0]);
    const auto found = checkpoints.newest();
    ASSERT_TRUE(found);
    EXPECT_TRUE(found->damaged.empty());
    EXPECT_GE(found->step, last);
    EXPECT_EQ(found->tensors["step"].item<int64_t>(), found->step);
    EXPECT_TRUE(found->tensors["values"].eq(static_cast<double>(found->step)).all().item<bool>());
    // the next save takes away what the killed process left half-written
    htl::TrainingState empty;
    checkpoints.save(last + 10, empty);
    for (const auto& entry : fs::directory_iterator(folder.path("c"))) EXPECT_EQ(entry.path().extension(), ".safetensors") << entry.path();
  }
}

TEST(Checkpoints, OfAFullDiskLeaveTheOlderOne) {
  const TemporaryFolder folder;
  const htl::Checkpoints checkpoints(folder.path("c"));
  at::Tensor values = at::ones({10000});
  htl::TrainingState state;
  state.add("values", values);
  checkpoints.save(1, state);
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const rlimit little{20000, before.rlim_max};
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &little), 0);
  const std::string sentence = sentence_of([&] { checkpoints.save(2, state); });
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  std::signal(SIGXFSZ, handler);
  EXPECT_TRUE(contains(sentence, "htl::AtomicFile: can't write"));
  EXPECT_EQ(checkpoints.newest()->step, 1);
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path("c")), fs::directory_iterator()), 1) << "nothing half-written";
}

TEST(AppendFile, GrowsByWholeRecordsAndCanBeCutBack) {
  const TemporaryFolder folder;
  {
    htl::AppendFile file(folder.path("log"));
    file.append("one\n");
    file.append("");
    file.append("two\n");
    EXPECT_EQ(htl::read_file(folder.path("log")), "one\ntwo\n") << "nothing is buffered";
    file.sync();
  }
  htl::AppendFile file(folder.path("log"));
  EXPECT_EQ(file.size(), 8);
  file.keep(4);
  file.append("three\n");
  EXPECT_EQ(htl::read_file(folder.path("log")), "one\nthree\n");
  EXPECT_EQ(sentence_of([&] { file.keep(11); }),
            "htl::AppendFile: expected at least 11 bytes in \"" + folder.path("log").string() + "\", found 10; a part of the file was lost");
  EXPECT_TRUE(contains(sentence_of([&] { htl::AppendFile(folder.path("no/log")); }), "No such file"));

  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const rlimit little{14, before.rlim_max};
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &little), 0);
  const std::string sentence = sentence_of([&] { file.append("too long for the disk\n"); });
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  std::signal(SIGXFSZ, handler);
  EXPECT_TRUE(contains(sentence, "can't write"));
  EXPECT_EQ(htl::read_file(folder.path("log")), "one\nthree\n") << "no half record";
  file.append("four\n");
  EXPECT_EQ(htl::read_file(folder.path("log")), "one\nthree\nfour\n");
}

TEST(StaleTemporaries, OfDeadProcessesAreRemovedAndNothingElse) {
  const TemporaryFolder folder;
  const pid_t child = ::fork();
  if (child == 0) ::_exit(0);
  ::waitpid(child, nullptr, 0);
  const std::string dead = std::to_string(child), alive = std::to_string(::getpid());
  for (const std::string& name : {"a." + dead + ".0.tmp", "b.c." + dead + ".12.tmp", "a." + alive + ".0.tmp", std::string("notes.tmp"), "x." + dead + ".tmp",
                                  dead + ".0.tmp", std::string("a.12x.0.tmp"), std::string("a.99999999999999.0.tmp"), "a." + dead + ".0.txt"})
    htl::write_atomically(folder.path(name), "");
  EXPECT_EQ(htl::remove_stale_temporaries(folder.path("")), 2);
  EXPECT_FALSE(fs::exists(folder.path("a." + dead + ".0.tmp")));
  EXPECT_TRUE(fs::exists(folder.path("a." + alive + ".0.tmp")));
  EXPECT_EQ(htl::remove_stale_temporaries(folder.path("none")), 0);
}

}  // namespace
