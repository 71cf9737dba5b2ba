// SPDX-License-Identifier: Apache-2.0
// Every built-in method by name, from the losses to the shared gradient, against T whole backwards and the dense Jacobian; saved, loaded and cloned forks.
#include <htl/weighting/built_in_methods.hpp>

#include <support/shared_models.hpp>

#include <ATen/ops/linalg_eigvalsh.h>

#include <algorithm>
#include <numeric>
#include <set>

namespace {

using namespace htl;
using namespace htl::test;
using at::Tensor;

constexpr int64_t kTasks = 4;

/// GradDrop draws a number for each shared number that was touched, which are others in a dense Jacobian; with a leak of 1 the draws don't matter. With less it
/// has a test of its own, which draws what the fork draws.
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

AnyWeighting make(const std::string& text) { return built_in_methods().make(parse_spec(text)); }

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

/// The fork's parts in their order, as places in Model::columns(): tables that are split, other tables, parameters.
std::vector<size_t> parts_of(const Model& m) {
  const size_t items = m.named.size(), users = items + 1;
  const bool splits_users = m.kind == Kind::rows_and_bottom || m.kind == Kind::experts || m.kind == Kind::shared_gate || m.kind == Kind::levels;
  std::vector<size_t> result = splits_users ? std::vector<size_t>{users, items} : std::vector<size_t>{items, users};
  for (size_t p = 0; p < m.named.size() && m.kind != Kind::rows; ++p) result.push_back(p);
  return result;
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

/// Tensors that the method sees as one vector, and the reference that remembers for them.
struct Group {
  std::vector<int64_t> tensors;  // places in Model::columns()
  ByJacobian brute;
  bool is_lost = false;

  /// Of every tensor's columns in the Jacobian those of this group.
  Tensor places(const std::vector<Tensor>& of_tensors) const {
    std::vector<Tensor> own;
    for (const int64_t tensor : tensors) own.push_back(of_tensors[static_cast<size_t>(tensor)]);
    return at::cat(own);
  }
};

/// Groups in the order in which the fork asks its method for them, which is that of what they draw.
std::vector<Group> groups_of(const Model& m, const std::string& text, GradientScope scope) {
  const std::vector<int64_t> columns = m.columns();
  std::vector<std::vector<size_t>> tensors;
  if (scope == GradientScope::whole) {
    tensors.emplace_back(columns.size());
    std::iota(tensors.front().begin(), tensors.front().end(), size_t{0});
  }
  for (const size_t part : scope == GradientScope::whole ? std::vector<size_t>() : parts_of(m)) {
    const bool joins = scope == GradientScope::module && part < m.named.size() && part != 0 && part != m.lower->parameters().size();
    if (joins) {
      tensors.back().push_back(part);
    } else {
      tensors.push_back({part});
    }
  }
  std::vector<Group> result;
  const at::Generator generator = at::detail::createCPUGenerator(17);
  for (const std::vector<size_t>& own : tensors) {
    Group& group = result.emplace_back(Group{{own.begin(), own.end()}, {make(text), {}}});
    for (const size_t tensor : own) group.brute.columns.push_back(columns[tensor]);
    group.brute.generator = generator;
  }
  return result;
}

/// Of the active tasks' Gramian; infinite where it is singular.
double condition(const Seen& seen) {
  const Tensor j = seen.jacobian.index_select(0, seen.active.nonzero().view(-1));
  if (j.size(0) == 0 || !j.any().item<bool>()) return 1.0;
  const Tensor values = at::linalg_svdvals(j);
  const double ratio = values.max().item<double>() / values.min().item<double>();
  return j.size(0) <= j.size(1) && std::isfinite(ratio) ? ratio * ratio : std::numeric_limits<double>::infinity();
}

/// How the batches of a step come.
enum class Way { one, micro_batches };

class EveryMethod : public Seeded {
 protected:
  /// Three steps of a method through a model, each against the brute force; how many there were, and in how many the Gramian was too close to singular for a
  /// comparison, since weights are not unique there. With a narrower scope each group counts for itself.
  void run(const std::string& text, Kind kind, Way way, GradientScope scope = GradientScope::whole) {
    SCOPED_TRACE(c10::str(text, ", kind ", static_cast<int>(kind), ", way ", static_cast<int>(way), ", scope ", static_cast<int>(scope)));
    Model m = model_of(random_, kind);
    GradientFork<AnyWeighting> fork = fork_of(text, scope);
    std::vector<Group> groups = groups_of(m, text, scope);
    const std::vector<Tensor> columns = at::arange(m.brute().jacobian.size(1)).split_with_sizes(m.columns());
    const Shared set = scope == GradientScope::module ? shared(*m.lower, *m.upper, m.tables) : m.shared_set();
    for (int step = 0; step < 3; ++step) {
      m.clear();
      m.draw_batch(random_);
      Seen seen = Seen::of(m);
      std::vector<Tensor> jacobians = {seen.jacobian};
      if (const int64_t batches = groups.front().brute.method.batches(); batches > 1) {
        std::vector<TaskLosses> losses = {m.through(fork)};
        for (int64_t b = 1; b < batches; ++b) {
          m.draw_batch(random_);
          const Tensor active = seen.active;
          seen = Seen::of(m);
          seen.active.logical_and_(active);
          jacobians.push_back(seen.jacobian);
          losses.push_back(m.through(fork));
        }
        backward(losses, fork, kind == Kind::rows ? Shared() : set);
      } else {
        const auto back = [&](const BackwardOptions& options) {
          const TaskLosses losses = m.through(fork);
          kind == Kind::rows ? backward(losses, fork, options) : backward(losses, fork, set, options);
        };
        if (way == Way::micro_batches)
          for (int part = 0; part < 2; ++part) {
            back({.accumulate = true});
            m.draw_batch(random_);
            seen.add(Seen::of(m));
          }
        back({});
      }
      const Tensor got = m.shared_gradient();
      ASSERT_TRUE(at::isfinite(got).all().item<bool>()) << "step " << step;
      for (Group& group : groups) {
        SCOPED_TRACE(c10::str("step ", step, ", tensors ", at::IntArrayRef(group.tensors)));
        const Tensor own = group.places(columns);
        const auto narrowed = [&](const Tensor& jacobian) { return jacobian.index_select(1, own); };
        const Tensor cross = jacobians.size() > 1 ? narrowed(jacobians[0]).mm(narrowed(jacobians[1]).t()) : Tensor();
        compare(group, {narrowed(seen.jacobian), seen.losses, seen.active}, cross, got.index_select(0, own));
        if (HasFatalFailure()) return;
      }
      if (std::all_of(groups.begin(), groups.end(), [](const Group& group) { return group.is_lost; })) return;
      TaskLosses after = m.through(fork);
      std::vector<Tensor> values;
      for (size_t t = 0; t < static_cast<size_t>(kTasks); ++t) {
        values.push_back(after.values["t" + std::to_string(t)].detach() * (0.5 + 0.1 * static_cast<double>(t)));
        after.values.set("t" + std::to_string(t), values.back());
      }
      fork->observe(after);
      for (Group& group : groups) group.brute.method.observe(at::stack(values), group.brute.memory);
    }
  }
  void compare(Group& group, const Seen& seen, const Tensor& cross, const Tensor& got) {
    const Tensor expected = group.brute.aggregate(seen, cross);
    if (group.is_lost) return;  // but it has drawn its numbers
    const double cond = condition(seen);
    double largest = expected.abs().max().item<double>();
    if (group.brute.weights.defined()) largest = std::max(largest, (group.brute.weights.unsqueeze(1) * seen.jacobian).abs().max().item<double>());
    steps_ += seen.jacobian.any().item<bool>();  // else a tensor that nothing reaches, or no label at all
    if (cond > 1e10) {
      ++uncompared_;
      group.is_lost = true;  // later steps remember this one
      return;
    }
    ASSERT_TRUE(close(got, expected, 0.0, largest * (cond <= 100.0 ? 1e-12 : 1e-14 * cond))) << "condition " << cond;
    well_ += cond <= 100.0;
    nonzero_ += largest > 0.0;
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
  for (const std::string& text : kMethods) tested.insert(parse_spec(text).name);
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

TEST_F(EveryMethod, OfANarrowScopeIsTheMethodOfEachGroupWithItsOwnMemory) {
  for (const std::string& text : kMethods)
    for (const Way way : {Way::one, Way::micro_batches}) {
      if (way == Way::micro_batches && make(text).batches() > 1) continue;
      for (const Kind kind : {Kind::rows, Kind::rows_and_bottom}) run(text, kind, way, GradientScope::tensor);
      run(text, Kind::layers, way, GradientScope::module);
      if (HasFatalFailure()) return;
    }
  expect_compared();
}

/// The sign drop by its definition, number by number: of each column of a Jacobian the sign that U draws, and `leak` of the other.
Tensor sign_drop(const Tensor& jacobian, const Tensor& uniform, double leak) {
  Tensor result = at::zeros({jacobian.size(1)}, at::kDouble);
  const auto g = jacobian.accessor<double, 2>();
  const auto u = uniform.accessor<double, 1>();
  for (int64_t k = 0; k < jacobian.size(1); ++k) {
    double sum = 0.0, size = 0.0, kept = 0.0;
    for (int64_t t = 0; t < jacobian.size(0); ++t) sum += g[t][k], size += std::abs(g[t][k]);
    if (size == 0.0) continue;
    const bool keeps_positive = u[k] < 0.5 * (1.0 + sum / size);
    for (int64_t t = 0; t < jacobian.size(0); ++t) kept += ((g[t][k] > 0.0) == keeps_positive ? 1.0 : leak) * g[t][k];
    result[k] = kept;
  }
  return result;
}

TEST_F(EveryMethod, GradDropThroughTheForkDropsTheSignsThatWereDrawn) {
  int64_t dropped = 0, numbers = 0;
  for (const Kind kind : kinds)
    for (const Way way : {Way::one, Way::micro_batches})
      for (const double leak : {0.0, 0.25}) {
        SCOPED_TRACE(c10::str("kind ", static_cast<int>(kind), ", way ", static_cast<int>(way), ", leak ", leak));
        Model m = model_of(random_, kind);
        GradientFork<AnyWeighting> fork =
            fork_of(leak == 0.0 ? "graddrop" : "graddrop:leak=0.25", way == Way::one ? GradientScope::whole : GradientScope::tensor);
        at::Generator generator = at::detail::createCPUGenerator(17);  // the fork's seed
        for (int step = 0; step < 3; ++step) {
          m.clear();
          std::vector<std::set<int64_t>> touched(m.tables.size());
          Tensor jacobian;
          for (const bool accumulate : way == Way::one ? std::vector<bool>{false} : std::vector<bool>{true, false}) {
            m.draw_batch(random_);
            const Tensor own = m.brute().jacobian;
            jacobian = jacobian.defined() ? jacobian + own : own;
            for (size_t i = 0; i < m.tables.size(); ++i)
              for (int64_t n = 0; n < m.batches[i].ids.numel(); ++n)
                if (const auto id = m.batches[i].ids.view(-1)[n].item<int64_t>(); id != m.tables[i].padding_row()) touched[i].insert(id);
            const TaskLosses losses = m.through(fork);
            const BackwardOptions options{.accumulate = accumulate};
            kind == Kind::rows ? backward(losses, fork, options) : backward(losses, fork, m.shared_set(), options);
          }
          const std::vector<Tensor> columns = at::arange(jacobian.size(1)).split_with_sizes(m.columns());
          Tensor uniform = at::full({jacobian.size(1)}, 0.5, at::kDouble);  // rows that nobody touched draw nothing
          for (const size_t part : parts_of(m)) {
            if (part < m.named.size()) {
              uniform.put_(columns[part], at::rand({1, m.named[part].numel()}, generator, at::kDouble));
              continue;
            }
            const RowTable& table = m.tables[part - m.named.size()];
            if (!table.gradient().defined() || table.gradient().rows.numel() == 0) continue;
            const Tensor& rows = table.gradient().rows;  // in the order in which they drew
            ASSERT_EQ(std::set<int64_t>(rows.const_data_ptr<int64_t>(), rows.const_data_ptr<int64_t>() + rows.numel()), touched[part - m.named.size()]);
            uniform.put_(columns[part].view({table.rows(), table.dim()}).index_select(0, rows), at::rand({rows.numel(), table.dim()}, generator, at::kDouble));
          }
          const Tensor expected = sign_drop(jacobian, uniform, leak);
          ASSERT_TRUE(close(m.shared_gradient(), expected, 0.0, 1e-12 * jacobian.abs().max().item<double>())) << "step " << step;
          dropped += (expected - jacobian.sum(0)).abs().gt(1e-6).sum().item<int64_t>();
          numbers += jacobian.abs().sum(0).gt(1e-6).sum().item<int64_t>();
        }
      }
  EXPECT_GT(dropped, numbers / 4);  // of few numbers all tasks' gradients have one sign
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
