// SPDX-License-Identifier: Apache-2.0
// Every built-in method by name, from the losses to the shared gradient, against T whole backwards and the dense Jacobian; saved, loaded and cloned forks.
#include <htl/weighting/built_in_methods.hpp>

#include <support/shared_models.hpp>

#include <ATen/ops/linalg_eigvalsh.h>

#include <set>

namespace {

using namespace htl;
using namespace htl::test;
using at::Tensor;

constexpr int64_t kTasks = 4;

/// GradDrop draws a number for each shared number that was touched, which are others in a dense Jacobian; with a leak of 1 the draws don't matter. Its sums and
/// signs are tested by themselves.
const std::vector<std::string> kMethods = {"sum",
                                           "mean",
                                           "constant:weights=1;0.5;-2;0.25",
                                           "random",
                                           "core_task",
                                           "core_task:norm=moving_average,alpha=0.5",
                                           "metabalance",
                                           "pcgrad:order=random",
                                           "pcgrad:order=ascending,reduction=mean",
                                           "gradvac:order=random",
                                           "imtl_g",
                                           "config",
                                           "aligned_mtl",
                                           "krum:selected=2",
                                           "mgda",
                                           "cagrad:c=0.4",
                                           "pe_ltr:bound=0.05",
                                           "sdmgrad",
                                           "modo",
                                           "upgrad",
                                           "dualproj",
                                           "nash_mtl",
                                           "nash_mtl:update_every=3",
                                           "fairgrad:alpha=2",
                                           "gradnorm",
                                           "famo",
                                           "graddrop:leak=1",
                                           "trimmed_mean",
                                           "excess_mtl",
                                           "moco",
                                           "db_mtl",
                                           "cr_mogm:inner=gradvac,inner.order=ascending",
                                           "cr_mogm:inner=modo,decay=0.5",
                                           "cr_mogm:inner=famo,decay=0.5"};

AnyWeighting make(const std::string& text) { return built_in_methods().make(parse_method(text)); }

GradientFork<AnyWeighting> fork_of(const std::string& text, GradientScope scope = GradientScope::whole) {
  GradientFork<AnyWeighting> fork(task_set(kTasks), make(text), scope);
  fork->generator() = at::detail::createCPUGenerator(17);
  return fork;
}

Model model_of(Random& random, Kind kind) {
  Model m(random, kind, kTasks);
  while (m.rows < 4) m = Model(random, kind, kTasks);  // so that gradients are independent mostly
  return m;
}

/// What the method sees of one batch, or of several micro-batches.
struct Seen {
  Tensor jacobian, losses, active;
  static Seen of(const Model& m) {
    const auto brute = m.brute();
    std::vector<Tensor> active;
    for (const Tensor& mask : m.masks) active.push_back(mask.sum() > 0);
    return {brute.jacobian, brute.losses, at::stack(active)};
  }
  void add(const Seen& other) {
    jacobian = jacobian + other.jacobian;
    losses = losses + other.losses;
    active = active.logical_or(other.active);
  }
};

/// The same method on dense Jacobians, with its own memory and its own generator of the same seed.
struct ByJacobian {
  AnyWeighting method;
  std::vector<int64_t> columns;
  AnyWeighting::State memory = {};
  int64_t step = 0;
  at::Generator generator = at::detail::createCPUGenerator(17);
  Tensor weights = {};

  Tensor aggregate(const Seen& seen, const Tensor& cross) {
    TaskGradients gradients = task_gradients(seen.jacobian, columns);
    gradients.gramian.active = seen.active;
    gradients.gramian.cross = cross;
    gradients.gramian.cores = {kTasks - 1};
    gradients.gramian.losses = seen.losses;
    gradients.gramian.step = step++;
    gradients.gramian.generator = generator;
    const SharedGradient shared = htl::aggregate(method, gradients, memory);
    std::vector<Tensor> flat;
    for (const SharedGradient::Part& part : shared.parts) flat.push_back(part.values.flatten());
    weights = shared.weights;
    return at::cat(flat);
  }
};

/// Of the active tasks' Gramian; infinite where it is singular.
double condition(const Seen& seen) {
  const Tensor j = seen.jacobian.index_select(0, seen.active.nonzero().view(-1));
  if (j.size(0) == 0) return 1.0;
  const Tensor values = at::linalg_svdvals(j);
  const double ratio = values.max().item<double>() / values.min().item<double>();
  return j.size(0) <= j.size(1) && std::isfinite(ratio) ? ratio * ratio : std::numeric_limits<double>::infinity();
}

/// How the batches of a step come.
enum class Way { one, micro_batches };

class EveryMethod : public Seeded {
 protected:
  /// Three steps of a method through a model, each against the brute force; how many there were, and in how many the Gramian was too close to singular for a
  /// comparison, since weights are not unique there.
  void run(const std::string& text, Kind kind, Way way) {
    SCOPED_TRACE(text + ", kind " + std::to_string(static_cast<int>(kind)) + ", way " + std::to_string(static_cast<int>(way)));
    Model m = model_of(random_, kind);
    GradientFork<AnyWeighting> fork = fork_of(text);
    ByJacobian brute{make(text), m.columns()};
    for (int step = 0; step < 3; ++step) {
      m.clear();
      m.draw_batch(random_);
      Seen seen = Seen::of(m);
      Tensor cross;
      if (const int64_t batches = brute.method.batches(); batches > 1) {
        std::vector<TaskLosses> losses = {m.through(fork)};
        std::vector<Tensor> jacobians = {seen.jacobian};
        for (int64_t b = 1; b < batches; ++b) {
          m.draw_batch(random_);
          const Tensor active = seen.active;
          seen = Seen::of(m);
          seen.active.logical_and_(active);
          jacobians.push_back(seen.jacobian);
          losses.push_back(m.through(fork));
        }
        cross = jacobians[0].mm(jacobians[1].t());
        backward(losses, fork, kind == Kind::rows ? Shared() : m.shared_set());
      } else {
        const auto back = [&](const BackwardOptions& options) {
          const TaskLosses losses = m.through(fork);
          kind == Kind::rows ? backward(losses, fork, options) : backward(losses, fork, m.shared_set(), options);
        };
        if (way == Way::micro_batches)
          for (int part = 0; part < 2; ++part) {
            back({.accumulate = true});
            m.draw_batch(random_);
            seen.add(Seen::of(m));
          }
        back({});
      }
      const Tensor expected = brute.aggregate(seen, cross), got = m.shared_gradient();
      ASSERT_TRUE(at::isfinite(got).all().item<bool>()) << "step " << step;
      ++steps_;
      const double cond = condition(seen);
      if (cond > 1e10) {
        ++uncompared_;
        return;  // later steps remember this one
      }
      double largest = expected.abs().max().item<double>();
      if (brute.weights.defined()) largest = std::max(largest, (brute.weights.unsqueeze(1) * seen.jacobian).abs().max().item<double>());
      ASSERT_TRUE(close(got, expected, 0.0, largest * (cond <= 100.0 ? 1e-12 : 1e-14 * cond))) << "step " << step << ", condition " << cond;
      well_ += cond <= 100.0;
      nonzero_ += largest > 0.0;
      TaskLosses after = m.through(fork);
      std::vector<Tensor> values;
      for (size_t t = 0; t < static_cast<size_t>(kTasks); ++t) {
        values.push_back(after.values["t" + std::to_string(t)].detach() * (0.5 + 0.1 * static_cast<double>(t)));
        after.values.set("t" + std::to_string(t), values.back());
      }
      fork->observe(after);
      brute.method.observe(at::stack(values), brute.memory);
    }
  }
  /// Most steps had something to compare, many of them to full precision.
  void expect_compared() const {
    EXPECT_LT(uncompared_, steps_ / 20);
    EXPECT_GT(well_, steps_ / 5);
    EXPECT_GT(nonzero_, steps_ * 9 / 10);
  }

  Random random_{301};
  int64_t steps_ = 0, uncompared_ = 0, well_ = 0, nonzero_ = 0;
  Threads one_{1};
};

TEST_F(EveryMethod, IsAmongTheseTests) {
  std::set<std::string> tested;
  for (const std::string& text : kMethods) tested.insert(parse_method(text).name);
  for (const std::string& name : built_in_methods().names()) EXPECT_TRUE(tested.contains(name)) << name;
}

TEST_F(EveryMethod, OfTheLossesIsTheMethodOfTheDenseJacobian) {
  for (const std::string& text : kMethods)
    for (const Kind kind : kinds) {
      run(text, kind, Way::one);
      if (HasFatalFailure()) return;
    }
  expect_compared();
}

TEST_F(EveryMethod, OfMicroBatchesIsTheMethodOfTheirSum) {
  for (const std::string& text : kMethods) {
    if (make(text).batches() > 1) continue;
    for (const Kind kind : {Kind::rows, Kind::product, Kind::rows_and_bottom, Kind::levels, Kind::layers}) {
      run(text, kind, Way::micro_batches);
      if (HasFatalFailure()) return;
    }
  }
  expect_compared();
}

// ---- what is remembered ------------------------------------------------------------------------------------------------------------------------------------

using Fields = std::vector<std::pair<std::string, Tensor>>;

Fields saved(GradientFork<AnyWeighting>& fork) {
  Fields result;
  fork->visit_state([&](const std::string& name, Tensor& field) { result.emplace_back(name, field.defined() ? field.clone() : field); });
  return result;
}
void load(GradientFork<AnyWeighting>& fork, const Fields& fields) {
  size_t next = 0;
  fork->visit_state([&](const std::string& name, Tensor& field) {
    ASSERT_LT(next, fields.size());
    EXPECT_EQ(name, fields[next].first);
    const Tensor& value = fields[next++].second;
    field = value.defined() ? value.clone() : value;
  });
  EXPECT_EQ(next, fields.size());
}

/// The bits of the shared gradient of a step with the model's batch.
Tensor step(const Model& m, GradientFork<AnyWeighting>& fork) {
  m.clear();
  if (const int64_t batches = fork->method().batches(); batches > 1) {
    std::vector<TaskLosses> losses;
    for (int64_t b = 0; b < batches; ++b) losses.push_back(m.through(fork));
    backward(losses, fork, m.shared_set());
  } else {
    backward(m.through(fork), fork, m.shared_set());
  }
  TaskLosses after = m.through(fork);
  for (size_t t = 0; t < static_cast<size_t>(kTasks); ++t)
    after.values.set("t" + std::to_string(t), after.values["t" + std::to_string(t)] * (0.5 + 0.1 * static_cast<double>(t)));
  fork->observe(after);
  return m.shared_gradient();
}

TEST_F(EveryMethod, GoesOnFromASavedStateWithTheSameBits) {
  for (const GradientScope scope : {GradientScope::whole, GradientScope::module, GradientScope::tensor}) {
    std::set<std::string> remember;
    for (const std::string& text : kMethods) {
      SCOPED_TRACE(text + ", scope " + std::to_string(static_cast<int>(scope)));
      Model m = model_of(random_, Kind::rows_and_bottom);
      for (Tensor& mask : m.masks) mask.fill_(1.0);
      const auto next = [&] {
        for (size_t i = 0; i < m.tables.size(); ++i) m.batches[i] = FieldBatch::of(random_.ids({m.rows, 2}, m.tables[i].rows()));
      };
      GradientFork<AnyWeighting> trained = fork_of(text, scope), loaded = fork_of(text, scope), other = fork_of(text, scope), forgetful = fork_of(text, scope);
      for (int k = 0; k < 2; ++k, next()) step(m, trained);
      const Fields fields = saved(trained);
      load(loaded, fields);  // before its first step
      for (int k = 0; k < 3; ++k, next()) step(m, other);
      load(other, fields);  // of another past
      forgetful->step() = trained->step();
      forgetful->generator()->set_state(trained->generator()->get_state());
      for (int k = 0; k < 2; ++k, next()) {
        const Tensor expected = step(m, trained);
        EXPECT_TRUE(same_bits(step(m, loaded), expected)) << "step " << k;
        EXPECT_TRUE(same_bits(step(m, other), expected)) << "step " << k;
        if (!same_bits(step(m, forgetful), expected)) remember.insert(text);
      }
      const Fields a = saved(trained), b = saved(loaded), c = saved(other);
      ASSERT_EQ(a.size(), b.size());
      for (size_t i = 0; i < a.size(); ++i) {
        EXPECT_EQ(a[i].first, b[i].first);
        EXPECT_TRUE(a[i].second.defined() ? same_bits(a[i].second, b[i].second) && same_bits(a[i].second, c[i].second) : !b[i].second.defined()) << a[i].first;
      }
    }
    for (const char* text : {"core_task:norm=moving_average,alpha=0.5", "metabalance", "gradvac:order=random", "modo", "gradnorm", "famo", "excess_mtl", "moco",
                             "db_mtl", "nash_mtl:update_every=3", "cr_mogm:inner=gradvac,inner.order=ascending", "cr_mogm:inner=modo,decay=0.5"})
      EXPECT_TRUE(remember.contains(text)) << text << " went on in the same way without its memory";
  }
}

TEST_F(EveryMethod, RefusesADamagedStateOfSeveralMemories) {
  Model m = model_of(random_, Kind::rows_and_bottom);
  GradientFork<AnyWeighting> fork = fork_of("famo", GradientScope::tensor);
  step(m, fork);
  const Fields fields = saved(fork);
  const auto says = [&](const std::string& name, const std::function<Tensor(const Tensor&)>& damage) {
    return sentence_of([&] {
      fork->visit_state([&](const std::string& field, Tensor& value) {
        if (field == name) value = damage(value);
      });
    });
  };
  EXPECT_TRUE(
      contains(says("first", [](const Tensor& value) { return value.slice(0, 1); }), "htl::GradientFork: the state has fewer numbers than its shapes say"));
  EXPECT_TRUE(contains(says("first.shapes", [](const Tensor& value) { return value + 5; }), "htl::GradientFork: the state's shapes are damaged"));
  const auto less = [](const Tensor& value) { return value.slice(0, 1).clone(); };
  EXPECT_TRUE(contains(says("second.shapes", less), "htl::GradientFork: the state's field \"second\" is of 8 groups, the first one of 9"));
  const Fields after = saved(fork);  // and nothing was changed
  for (size_t i = 0; i < fields.size(); ++i) EXPECT_TRUE(same_bits(after[i].second, fields[i].second)) << fields[i].first;
}

TEST_F(EveryMethod, OfACloneGoesOnByItself) {
  for (const GradientScope scope : {GradientScope::whole, GradientScope::tensor})
    for (const std::string& text : kMethods) {
      SCOPED_TRACE(text + ", scope " + std::to_string(static_cast<int>(scope)));
      Model m = model_of(random_, Kind::rows_and_bottom), elsewhere = model_of(random_, Kind::rows_and_bottom);
      GradientFork<AnyWeighting> original = fork_of(text, scope), reference = fork_of(text, scope);
      step(m, original);
      m.draw_batch(random_);
      step(m, original);
      load(reference, saved(original));
      GradientFork<AnyWeighting> copy(std::dynamic_pointer_cast<GradientForkImpl<AnyWeighting>>(original->clone()));
      m.draw_batch(random_);
      Model detour = m;
      detour.draw_batch(random_);
      step(detour, original);  // the original's further steps change nothing of the clone
      EXPECT_TRUE(same_bits(step(m, copy), step(m, reference)));
      EXPECT_EQ(copy->step(), 3);
      const Fields before = saved(original);
      step(detour, copy);  // nor the clone's of the original
      const Fields after = saved(original);
      ASSERT_EQ(before.size(), after.size());
      for (size_t i = 0; i < before.size(); ++i)
        EXPECT_TRUE(before[i].second.defined() ? same_bits(before[i].second, after[i].second) : !after[i].second.defined()) << before[i].first;
    }
}

}  // namespace
