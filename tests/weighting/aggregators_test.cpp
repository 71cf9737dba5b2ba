// SPDX-License-Identifier: Apache-2.0
// Methods that see the task gradients: sparse parts against naive loops over dense vectors in float64, over many steps; memory, inactive tasks, extremes.
#include <htl/weighting/apply.hpp>
#include <htl/weighting/core_task.hpp>
#include <htl/weighting/cr_mogm.hpp>
#include <htl/weighting/db_mtl.hpp>
#include <htl/weighting/excess_mtl.hpp>
#include <htl/weighting/famo.hpp>
#include <htl/weighting/grad_drop.hpp>
#include <htl/weighting/moco.hpp>
#include <htl/weighting/sum.hpp>
#include <htl/weighting/trimmed_mean.hpp>

#include <support/seeded.hpp>

#include <cmath>
#include <limits>

namespace {

using namespace htl;
using namespace htl::test;
using at::Tensor;
using Vector = std::vector<double>;

static_assert(StatelessAggregator<GradDrop> && StatelessAggregator<TrimmedMean> && !StatefulAggregator<GradDrop>);
static_assert(StatefulAggregator<ExcessMTL> && StatefulAggregator<MoCo> && StatefulAggregator<DBMTL>);
static_assert(StatefulWeighting<CRMOGM<CoreTask>> && StatefulWeighting<CRMOGM<Sum>> && !GradientAggregator<CRMOGM<Sum>>);

/// Shared tensors: tables of rows · width numbers, and parameters, which are one row.
struct Shape {
  int64_t rows, width;
  bool table;
};
const std::vector<Shape> shapes = {{7, 3, true}, {1, 5, false}, {4, 2, true}, {3, 2, false}};

/// The task gradients of one step: as parts, and as one dense vector for each task.
struct Step {
  TaskGradients gradients;
  std::vector<Vector> dense;  // [T][N]
  std::vector<bool> active;   // [T]
  Vector losses;              // [T]
  size_t tasks() const { return dense.size(); }
  size_t size() const { return dense.front().size(); }
};

Vector numbers_of(const Tensor& tensor) {
  const Tensor flat = tensor.to(at::kDouble).contiguous().flatten();
  return Vector(flat.const_data_ptr<double>(), flat.const_data_ptr<double>() + flat.numel());
}

/// @param unused adds slots that are not in use, as CUDA's kernels leave them
Step random_step(Random& random, int64_t tasks, at::ScalarType type, double all_active = 0.5, bool unused = false) {
  Step step;
  step.dense.resize(static_cast<size_t>(tasks));
  step.active.assign(static_cast<size_t>(tasks), true);
  const bool some_inactive = !random.chance(all_active);
  for (int64_t t = 0; t < tasks; ++t) {
    if (some_inactive) step.active[static_cast<size_t>(t)] = random.chance(0.6);
    step.losses.push_back(random.real(0.05, 3.0));
  }
  for (size_t p = 0; p < shapes.size(); ++p) {
    const auto [rows, width, table] = shapes[p];
    std::vector<int64_t> touched;
    const Tensor order = random.permutation(rows);
    for (int64_t r = 0; r < rows; ++r)
      if (!table || random.chance(0.4)) touched.push_back(table ? order[r].item<int64_t>() : r);
    const auto used = static_cast<int64_t>(touched.size());
    const int64_t slots = table && unused ? used + 2 : used;
    Tensor values = random.normal({slots, tasks, width}, 1.0, type);
    if (random.chance(0.3)) values.masked_fill_(random.mask(values.sizes(), 0.5), 0.0);  // of rows that a task does not touch
    values.narrow(0, used, slots - used).zero_();
    for (int64_t t = 0; t < tasks; ++t)
      if (!step.active[static_cast<size_t>(t)]) values.select(1, t).zero_();
    TaskGradients::Part part{.name = "part" + std::to_string(p), .values = values, .total_rows = rows};
    if (table) {
      part.rows = at::cat({at::tensor(touched, at::kLong), at::zeros({slots - used}, at::kLong)});
      if (unused) part.valid = at::arange(slots) < used;
    }
    step.gradients.parts.push_back(part);
    for (int64_t t = 0; t < tasks; ++t) {
      Tensor dense = at::zeros({rows, width}, at::kDouble);
      dense.index_copy_(0, at::tensor(touched, at::kLong), values.narrow(0, 0, used).select(1, t).to(at::kDouble));
      const Vector flat = numbers_of(dense);
      step.dense[static_cast<size_t>(t)].insert(step.dense[static_cast<size_t>(t)].end(), flat.begin(), flat.end());
    }
  }
  TaskGramian& gramian = step.gradients.gramian;
  gramian.matrix = at::zeros({tasks, tasks}, at::kDouble);
  gramian.losses = at::tensor(step.losses, at::kDouble);
  Tensor active = at::ones({tasks}, at::kBool);
  for (size_t s = 0; s < step.tasks(); ++s) {
    for (size_t t = 0; t < step.tasks(); ++t) {
      double sum = 0.0;
      for (size_t n = 0; n < step.size(); ++n) sum += step.dense[s][n] * step.dense[t][n];
      gramian.matrix[static_cast<int64_t>(s)][static_cast<int64_t>(t)] = sum;
    }
    active[static_cast<int64_t>(s)] = static_cast<bool>(step.active[s]);
    if (!step.active[s]) gramian.losses[static_cast<int64_t>(s)] = std::nan("");  // nobody knows it
  }
  if (some_inactive || random.chance(0.5)) gramian.active = active;
  return step;
}

/// A shared gradient as one dense vector; each row at most once.
Tensor dense_of(const SharedGradient& gradient) {
  std::vector<Tensor> all;
  EXPECT_EQ(gradient.parts.size(), shapes.size());
  for (size_t p = 0; p < shapes.size(); ++p) {
    const SharedGradient::Part& part = gradient.parts[p];
    Tensor dense = at::zeros({shapes[p].rows, shapes[p].width}, at::kDouble);
    if (!part.rows.defined()) {
      dense.copy_(part.values);
    } else {
      std::vector<bool> seen(static_cast<size_t>(shapes[p].rows), false);
      for (int64_t a = 0; a < part.rows.size(0); ++a) {
        const int64_t row = part.rows[a].item<int64_t>();
        if (part.valid.defined() && !part.valid[a].item<bool>()) {
          EXPECT_TRUE(part.values[a].eq(0).all().item<bool>()) << "an unused slot has zeros";
          continue;
        }
        EXPECT_FALSE(seen[static_cast<size_t>(row)]) << "row " << row << " is there twice";
        seen[static_cast<size_t>(row)] = true;
        dense[row].copy_(part.values[a]);
      }
    }
    all.push_back(dense.flatten());
  }
  return at::cat(all);
}

bool finite(const Tensor& tensor) { return !tensor.defined() || at::isfinite(tensor).all().item<bool>(); }
Tensor vector_of(const Vector& numbers) { return at::tensor(numbers, at::kDouble); }

// ---- naive references: plain loops over dense vectors, as the papers write the methods ---------------------------------------------------------------------

Vector reference_trimmed_mean(const Step& step, size_t trim) {
  Vector result;
  for (size_t n = 0; n < step.size(); ++n) {
    Vector column;
    for (size_t t = 0; t < step.tasks(); ++t)
      if (step.active[t]) column.push_back(step.dense[t][n]);
    std::sort(column.begin(), column.end());
    const size_t drop = column.empty() ? 0 : std::min(trim, (column.size() - 1) / 2);
    double sum = 0.0;
    for (size_t i = drop; i + drop < column.size(); ++i) sum += column[i];
    result.push_back(column.empty() ? 0.0 : sum / static_cast<double>(column.size() - 2 * drop));
  }
  return result;
}

Vector reference_grad_drop(const Step& step, double leak, const Vector& uniform) {
  Vector result;
  for (size_t n = 0; n < step.size(); ++n) {
    double sum = 0.0, size = 0.0, kept = 0.0;
    for (const Vector& g : step.dense) {
      sum += g[n];
      size += std::abs(g[n]);
    }
    const double purity = 0.5 * (1.0 + sum / size);
    for (const Vector& g : step.dense) {
      const bool keep = (purity > uniform[n] && g[n] > 0.0) || (purity < uniform[n] && g[n] < 0.0);
      kept += (leak + (1.0 - leak) * (keep ? 1.0 : 0.0)) * g[n];
    }
    result.push_back(kept);
  }
  return result;
}

struct ReferenceExcess {
  std::vector<Vector> squares;
  Vector weights, baseline, calls;
  Vector aggregate(const Step& step, const ExcessMTL& method, Vector& reported) {
    const size_t tasks = step.tasks();
    if (squares.empty()) {
      squares.assign(tasks, Vector(step.size(), 0.0));
      weights.assign(tasks, 1.0);
      baseline = calls = Vector(tasks, 0.0);
    }
    double sum = 0.0, active = 0.0;
    for (size_t t = 0; t < tasks; ++t) {
      if (!step.active[t]) continue;
      double excess = 0.0;
      for (size_t n = 0; n < step.size(); ++n) {
        const double square = step.dense[t][n] * step.dense[t][n];
        squares[t][n] += square;
        excess += square / std::sqrt(squares[t][n] + 1e-7);
      }
      const auto warmup = static_cast<double>(std::max<int64_t>(method.warmup, 1));
      calls[t] += 1.0;
      if (calls[t] <= warmup) {
        baseline[t] += excess / warmup;
        if (method.warmup == 0) weights[t] *= std::exp(method.eta * excess);
      } else {
        weights[t] *= std::exp(method.eta * excess / (baseline[t] + 1e-7));
      }
      sum += weights[t];
      active += 1.0;
    }
    Vector result(step.size(), 0.0);
    reported.assign(tasks, 0.0);
    for (size_t t = 0; t < tasks; ++t) {
      if (!step.active[t]) continue;
      reported[t] = weights[t] / sum * (method.scale == WeightScale::tasks ? active : 1.0);
      for (size_t n = 0; n < step.size(); ++n) result[n] += reported[t] * step.dense[t][n];
    }
    return result;
  }
};

struct ReferenceMoCo {
  /// The projection by halving the interval of the shift τ in Σ max(x − τ, 0) = 1.
  template <class Active>
  static void to_simplex(Vector& x, const Active& active, SimplexMap map) {
    double low = std::numeric_limits<double>::infinity(), high = -low;
    for (size_t t = 0; t < x.size(); ++t)
      if (active[t]) {
        low = std::min(low, x[t] - 1.0);
        high = std::max(high, x[t]);
      }
    const auto sum = [&](const auto& value) {
      double total = 0.0;
      for (size_t t = 0; t < x.size(); ++t) total += active[t] ? value(x[t]) : 0.0;
      return total;
    };
    for (int halving = 0; halving < 100; ++halving) {
      const double middle = 0.5 * (low + high);
      (sum([&](double v) { return std::max(v - middle, 0.0); }) > 1.0 ? low : high) = middle;
    }
    const double total = sum([](double v) { return std::exp(v); });
    for (double& v : x) v = map == SimplexMap::softmax ? std::exp(v) / total : std::max(v - low, 0.0);
  }

  std::vector<Vector> y;
  Vector weights;
  double k = 0.0;
  Vector aggregate(const Step& step, const MoCo& method, Vector& reported) {
    const size_t tasks = step.tasks();
    if (y.empty()) {
      y.assign(tasks, Vector(step.size(), 0.0));
      weights.assign(tasks, 1.0 / static_cast<double>(tasks));
    }
    k += 1.0;
    for (size_t t = 0; t < tasks; ++t) {
      if (!step.active[t]) continue;
      double norm = 0.0;
      for (const double g : step.dense[t]) norm += g * g;
      const double scale = method.normalize ? step.losses[t] / (std::sqrt(norm) + 1e-8) : 1.0;
      for (size_t n = 0; n < step.size(); ++n) y[t][n] -= method.beta / std::pow(k, method.sigma) * (y[t][n] - step.dense[t][n] * scale);
    }
    Vector moved(tasks, 0.0), result(step.size(), 0.0);
    for (size_t s = 0; s < tasks; ++s) {
      if (!step.active[s]) continue;
      double slope = method.rho * weights[s];
      for (size_t t = 0; t < tasks; ++t)
        for (size_t n = 0; step.active[t] && n < step.size(); ++n) slope += y[s][n] * y[t][n] * weights[t];
      moved[s] = weights[s] - method.gamma / std::pow(k, method.sigma_gamma) * slope;
    }
    to_simplex(moved, step.active, method.map);
    reported.assign(tasks, 0.0);
    for (size_t t = 0; t < tasks; ++t) {
      if (!step.active[t]) continue;
      reported[t] = weights[t] = moved[t];
      for (size_t n = 0; n < step.size(); ++n) result[n] += weights[t] * y[t][n];
    }
    return result;
  }
};

struct ReferenceDBMTL {
  std::vector<Vector> b;
  double k = 0.0;
  Vector aggregate(const Step& step, const DBMTL& method, Vector& reported) {
    const size_t tasks = step.tasks();
    if (b.empty()) b.assign(tasks, Vector(step.size(), 0.0));
    k += 1.0;
    Vector norms(tasks, 0.0), result(step.size(), 0.0);
    for (size_t t = 0; t < tasks; ++t) {
      if (!step.active[t]) continue;
      for (size_t n = 0; n < step.size(); ++n) {
        const double g = step.dense[t][n] / (step.losses[t] + 1e-8);
        b[t][n] = g + method.beta / std::pow(k, method.sigma) * (b[t][n] - g);
        norms[t] += b[t][n] * b[t][n];
      }
      norms[t] = std::sqrt(norms[t]);
    }
    reported.assign(tasks, 0.0);
    for (size_t t = 0; t < tasks; ++t) {
      if (!step.active[t]) continue;
      reported[t] = norms[t] > 0.0 ? *std::max_element(norms.begin(), norms.end()) / norms[t] : 1.0;
      for (size_t n = 0; n < step.size(); ++n) result[n] += reported[t] * b[t][n];
    }
    return result;
  }
};

class Aggregators : public Seeded {};

::testing::AssertionResult agrees(const Tensor& result, const Vector& reference, at::ScalarType type) {
  const double largest = vector_of(reference).abs().max().item<double>();
  return close(result, vector_of(reference), 0.0, (type == at::kDouble ? 1e-12 : 3e-6) * std::max(1.0, largest));
}

/// Runs a method with memory beside its reference over many steps.
template <class Method, class Reference>
void expect_equal_to_dense(const Method& method, Reference reference, uint64_t seed, bool unused = false) {
  for (const at::ScalarType type : {at::kDouble, at::kFloat})
    for (const int64_t tasks : {1, 2, 3, 6}) {
      Random random(seed + static_cast<uint64_t>(tasks));
      typename Method::State state;
      Reference own = reference;
      for (int64_t k = 0; k < 15; ++k) {
        SCOPED_TRACE(::testing::Message() << type << ", " << tasks << " tasks, step " << k);
        const Step step = random_step(random, tasks, type, 0.5, unused);
        Vector weights;
        const Vector expected = own.aggregate(step, method, weights);
        const SharedGradient result = method.aggregate(step.gradients, state);
        ASSERT_TRUE(agrees(dense_of(result), expected, type));
        ASSERT_TRUE(close(result.weights, vector_of(weights), type == at::kDouble ? 1e-11 : 1e-5, 1e-12));
        for (const SharedGradient::Part& part : result.parts) ASSERT_EQ(part.values.scalar_type(), type);
      }
    }
}

TEST_F(Aggregators, ExcessMTLEqualsLoopsOverDenseVectors) {
  expect_equal_to_dense(ExcessMTL{}, ReferenceExcess{}, 100);
  expect_equal_to_dense(ExcessMTL{.eta = 0.3, .warmup = 0, .scale = WeightScale::one}, ReferenceExcess{}, 110);
  expect_equal_to_dense(ExcessMTL{.eta = 0.2, .warmup = 4}, ReferenceExcess{}, 120, true);
}

TEST_F(Aggregators, ExcessMTLRemembersTheExcessOfTheFirstCall) {
  const TaskGradients j3 = task_gradients(vector_of({1., 2., -1., 0., -2., 1., .5, 1., .5, -1., 3., -2.}).view({3, 4}));
  for (const int64_t warmup : {0, 1}) {
    ExcessMTL::State state;
    ExcessMTL{.warmup = warmup}.aggregate(j3, state);
    EXPECT_TRUE(close(state.baseline, vector_of({4., 4.5, 6.5}), 0.0, 1e-6)) << "the catalogue's e: Σ |g| in a first call";
  }
}

TEST_F(Aggregators, MoCoEqualsLoopsOverDenseVectors) {
  expect_equal_to_dense(MoCo{}, ReferenceMoCo{}, 200);
  expect_equal_to_dense(MoCo{.beta = 1.0, .sigma = 0.0, .gamma = 2.0, .sigma_gamma = 0.1, .rho = 0.3}, ReferenceMoCo{}, 210);
  expect_equal_to_dense(MoCo{.beta = 0.7, .sigma = 1.0}, ReferenceMoCo{}, 220, true);
  const MoCo as_the_paper{.gamma = 0.02, .rho = 0.1, .normalize = false, .map = SimplexMap::projection};
  expect_equal_to_dense(as_the_paper, ReferenceMoCo{}, 230);
  expect_equal_to_dense(as_the_paper, ReferenceMoCo{}, 240, true);
}

TEST_F(Aggregators, DBMTLEqualsLoopsOverDenseVectors) {
  expect_equal_to_dense(DBMTL{}, ReferenceDBMTL{}, 300);
  expect_equal_to_dense(DBMTL{.beta = 0.5, .sigma = 0.5}, ReferenceDBMTL{}, 310);
  expect_equal_to_dense(DBMTL{.beta = 0.0}, ReferenceDBMTL{}, 320, true);
}

TEST_F(Aggregators, GradDropEqualsLoopsOverDenseVectors) {
  Random random(400);
  for (int repetition = 0; repetition < 300; ++repetition) {
    const at::ScalarType type = random.pick<at::ScalarType>({at::kDouble, at::kFloat});
    const Step step = random_step(random, random.integer(1, 6), type, 0.5, random.chance(0.3));
    const double leak = random.pick<double>({0.0, 0.25, 1.0});
    Vector uniform;
    std::vector<Tensor> parts;
    for (size_t p = 0; p < shapes.size(); ++p) {
      const Tensor dense = random.uniform({shapes[p].rows, shapes[p].width}, 0.0, 1.0, at::kFloat).to(type);
      for (const double u : numbers_of(dense)) uniform.push_back(u);
      const Tensor& rows = step.gradients.parts[p].rows;
      parts.push_back(rows.defined() ? dense.index_select(0, rows) : dense);
    }
    Vector expected = reference_grad_drop(step, leak, uniform);
    for (double& number : expected)
      if (std::isnan(number)) number = 0.0;  // all gradients 0: 0/0 in the paper's formula
    ASSERT_TRUE(agrees(dense_of(GradDrop{.leak = leak}.aggregate_with(step.gradients, parts)), expected, type));
  }
}

TEST_F(Aggregators, GradDropKeepsASignAsOftenAsItsPurity) {
  const Tensor jacobian = at::tensor({3., -1., 1., 1., 0., -2., 2., 0.}, at::kDouble).view({2, 4});  // each number of one sign
  TaskGradients gradients = task_gradients(jacobian);
  gradients.gramian.generator = at::detail::createCPUGenerator(7);
  const Tensor before = at::detail::getDefaultCPUGenerator().get_state();
  Tensor sum = at::zeros({4}, at::kDouble);
  const int64_t draws = 4000;
  for (int64_t i = 0; i < draws; ++i) sum += GradDrop{}.aggregate(gradients).parts[0].values[0];
  // (3, 0): always 3; (−1, −2): always −3; (1, 2): 3; (1, 0): 1
  EXPECT_TRUE(close(sum / draws, at::tensor({3., -3., 3., 1.}, at::kDouble)));
  gradients = task_gradients(at::tensor({3., -1., -1., 2.}, at::kDouble).view({2, 2}));  // purities 3/4 and 2/3
  gradients.gramian.generator = at::detail::createCPUGenerator(7);
  sum = at::zeros({2}, at::kDouble);
  for (int64_t i = 0; i < draws; ++i) sum += GradDrop{}.aggregate(gradients).parts[0].values[0];
  EXPECT_NEAR(sum[0].item<double>() / static_cast<double>(draws), 3.0 * 0.75 - 0.25, 0.1);
  EXPECT_NEAR(sum[1].item<double>() / static_cast<double>(draws), 2.0 * 2.0 / 3.0 - 1.0 / 3.0, 0.1);
  EXPECT_TRUE(same_bits(before, at::detail::getDefaultCPUGenerator().get_state())) << "the default generator is not asked";
  const auto drawn = [&](uint64_t seed) {
    Random random(401);
    Step step = random_step(random, 4, at::kFloat);
    step.gradients.gramian.generator = at::detail::createCPUGenerator(seed);
    return dense_of(GradDrop{}.aggregate(step.gradients));
  };
  EXPECT_TRUE(same_bits(drawn(1), drawn(1)));
  EXPECT_FALSE(same_bits(drawn(1), drawn(2)));
}

TEST_F(Aggregators, TrimmedMeanEqualsLoopsOverDenseVectors) {
  Random random(500);
  for (int repetition = 0; repetition < 300; ++repetition) {
    const at::ScalarType type = random.pick<at::ScalarType>({at::kDouble, at::kFloat});
    const Step step = random_step(random, random.integer(1, 9), type, 0.5, random.chance(0.3));
    const int64_t trim = random.integer(0, 4);
    ASSERT_TRUE(agrees(dense_of(TrimmedMean{.trim = trim}.aggregate(step.gradients)), reference_trimmed_mean(step, static_cast<size_t>(trim)), type));
  }
}

/// Every method as one call with its own memory.
template <class Call>
void with_every_method(Call&& call) {
  call("GradDrop", GradDrop{});
  call("TrimmedMean", TrimmedMean{});
  call("ExcessMTL", ExcessMTL{});
  call("MoCo", MoCo{});
  call("DBMTL", DBMTL{});
}

TEST_F(Aggregators, OneTaskKeepsItsGradient) {
  Random random(600);
  const Step step = random_step(random, 1, at::kDouble, 1.0);
  const Tensor dense = vector_of(step.dense[0]), norm = dense.norm();
  with_every_method([&](const std::string& name, const auto& method) {
    SCOPED_TRACE(name);
    auto memory = htl::detail::initial_state(method);
    const Tensor result = dense_of(aggregate(method, step.gradients, memory));
    double scale = 1.0;
    if (name == "MoCo") scale = 0.5 * step.losses[0] / (norm.item<double>() + 1e-8);  // β L / ‖g‖
    if (name == "DBMTL") scale = 0.1 / (step.losses[0] + 1e-8);                       // (1 − β) / L
    EXPECT_TRUE(close(result, dense * scale, 1e-13, 0.0));
  });
}

TEST_F(Aggregators, NothingActiveAndNoGradientGiveZeros) {
  Random random(601);
  with_every_method([&](const std::string& name, const auto& method) {
    SCOPED_TRACE(name);
    auto memory = htl::detail::initial_state(method);
    for (const bool active : {true, false, true}) {
      Step step = random_step(random, 3, at::kDouble, 1.0);
      for (TaskGradients::Part& part : step.gradients.parts) part.values = at::zeros_like(part.values);
      step.gradients.gramian.matrix = at::zeros({3, 3}, at::kDouble);
      if (!active) step.gradients.gramian.active = at::zeros({3}, at::kBool);
      const SharedGradient result = aggregate(method, step.gradients, memory);
      EXPECT_TRUE(same_bits(dense_of(result).abs(), at::zeros({40}, at::kDouble)));
      EXPECT_TRUE(finite(result.weights));
    }
    // and a task whose gradient comes later
    Step step = random_step(random, 3, at::kDouble, 1.0);
    EXPECT_TRUE(finite(dense_of(aggregate(method, step.gradients, memory))));
  });
}

TEST_F(Aggregators, StayFiniteAtEveryScale) {
  Random random(602);
  for (const at::ScalarType type : {at::kDouble, at::kFloat})
    for (const double scale : {1e-20, 1e-6, 1e6, 1e20})
      with_every_method([&](const std::string& name, const auto& method) {
        SCOPED_TRACE(::testing::Message() << name << " at " << scale << " in " << type);
        auto memory = htl::detail::initial_state(method);
        for (int64_t k = 0; k < 4; ++k) {
          Step step = random_step(random, 3, type);
          Tensor sizes = at::tensor({scale, 1.0, 1.0 / scale}, at::kDouble);
          for (TaskGradients::Part& part : step.gradients.parts) part.values = part.values * sizes.to(type).view({1, -1, 1});
          step.gradients.gramian.matrix = step.gradients.gramian.matrix * sizes.unsqueeze(1) * sizes;
          const SharedGradient result = aggregate(method, step.gradients, memory);
          ASSERT_TRUE(finite(dense_of(result)));
          ASSERT_TRUE(finite(result.weights));
        }
      });
}

TEST_F(Aggregators, InactiveTasksNumbersDontMatter) {
  Random random(603);
  with_every_method([&](const std::string& name, const auto& method) {
    SCOPED_TRACE(name);
    auto plain = htl::detail::initial_state(method), junk = htl::detail::initial_state(method);
    for (int64_t k = 0; k < 10; ++k) {
      Step step = random_step(random, 4, at::kDouble, 0.2), other = step;
      for (TaskGradients::Part& part : other.gradients.parts) {
        part.values = part.values.clone();
        for (int64_t t = 0; t < 4; ++t)
          if (!step.active[static_cast<size_t>(t)]) part.values.select(1, t).fill_(1e6);
      }
      const at::Generator generator = at::detail::createCPUGenerator(static_cast<uint64_t>(k));
      step.gradients.gramian.generator = generator.clone();
      other.gradients.gramian.generator = generator.clone();
      ASSERT_TRUE(same_bits(dense_of(aggregate(method, step.gradients, plain)), dense_of(aggregate(method, other.gradients, junk))));
    }
  });
}

/// Copies a memory as a checkpoint does: by names, into an empty one.
template <class State>
State restored(State& from) {
  std::vector<std::pair<std::string, Tensor>> saved;
  from.fields([&](const char* name, Tensor& field) { saved.emplace_back(name, field.defined() ? field.clone() : field); });
  State result;
  size_t at = 0;
  result.fields([&](const char* name, Tensor& field) {
    EXPECT_EQ(name, saved.at(at).first);
    field = saved.at(at++).second;
  });
  EXPECT_EQ(at, saved.size());
  return result;
}

TEST_F(Aggregators, ContinueFromTheirFieldsWithTheSameBits) {
  const auto expect_continues = [](const auto& method) {
    Random random(604);
    typename std::decay_t<decltype(method)>::State state;
    for (const int64_t break_at : {0, 1, 6}) {
      for (int64_t k = 0; k < break_at; ++k) method.aggregate(random_step(random, 3, at::kFloat).gradients, state);
      auto other = restored(state);
      for (int64_t k = 0; k < 5; ++k) {
        const Step step = random_step(random, 3, at::kFloat);
        const SharedGradient mine = method.aggregate(step.gradients, state), theirs = method.aggregate(step.gradients, other);
        ASSERT_TRUE(same_bits(dense_of(mine), dense_of(theirs)));
        for (size_t p = 0; p < mine.parts.size(); ++p) ASSERT_TRUE(same_bits(mine.parts[p].rows, theirs.parts[p].rows));
        ASSERT_TRUE(same_bits(mine.weights, theirs.weights));
      }
    }
  };
  expect_continues(ExcessMTL{});
  expect_continues(MoCo{});
  expect_continues(DBMTL{});
}

TEST_F(Aggregators, LoadingInPlaceReplacesWhatWasThere) {
  Random random(605);
  const DBMTL method;
  for (const int64_t steps : {1, 12}) {  // into a memory of more rows, and of fewer
    DBMTL::State state, other;
    for (int64_t k = 0; k < steps; ++k) method.aggregate(random_step(random, 3, at::kDouble, 1.0).gradients, state);
    for (int64_t k = 0; k < 13 - steps; ++k) method.aggregate(random_step(random, 3, at::kDouble, 1.0).gradients, other);
    std::vector<Tensor> saved;
    state.fields([&](const char*, Tensor& field) { saved.push_back(field.clone()); });
    size_t at = 0;
    other.fields([&](const char*, Tensor& field) { field.copy_(saved[at++]); });
    const Step step = random_step(random, 3, at::kDouble, 1.0);
    const SharedGradient mine = method.aggregate(step.gradients, state), theirs = method.aggregate(step.gradients, other);
    for (size_t p = 0; p < mine.parts.size(); ++p) {
      EXPECT_TRUE(same_bits(mine.parts[p].rows, theirs.parts[p].rows));
      EXPECT_TRUE(same_bits(mine.parts[p].values, theirs.parts[p].values));
    }
  }
}

TEST_F(Aggregators, AveragesReachRowsOfEarlierBatches) {
  TaskGradients gradients;
  gradients.gramian.matrix = at::ones({1, 1}, at::kDouble);
  gradients.gramian.losses = at::ones({1}, at::kDouble);
  const auto touch = [&](int64_t row) {
    gradients.parts = {{.name = "table", .values = at::ones({1, 1, 1}, at::kDouble), .rows = at::tensor({row}, at::kLong), .total_rows = 1000000}};
  };
  const DBMTL method{.beta = 0.5};
  DBMTL::State state;
  touch(999999);
  SharedGradient result = method.aggregate(gradients, state);
  EXPECT_TRUE(same_bits(result.parts[0].rows, at::tensor({int64_t{999999}}, at::kLong)));
  touch(5);
  result = method.aggregate(gradients, state);
  EXPECT_TRUE(same_bits(result.parts[0].rows, at::tensor({int64_t{5}, int64_t{999999}}, at::kLong)));
  EXPECT_TRUE(close(result.parts[0].values.flatten(), at::tensor({0.5, 0.25}, at::kDouble), 1e-7, 0.0));
}

TEST_F(Aggregators, RefuseBadOptionsShapesAndMissingLosses) {
  Random random(606);
  const Step step = random_step(random, 2, at::kDouble, 1.0);
  const auto says = [&](const auto& method, auto change) {
    TaskGradients gradients = step.gradients;
    change(gradients);
    auto memory = htl::detail::initial_state(method);
    return sentence_of([&] { aggregate(method, gradients, memory); });
  };
  const auto nothing = [](TaskGradients&) {};
  EXPECT_TRUE(contains(says(GradDrop{.leak = 1.5}, nothing), "htl::GradDrop: expected leak in [0, 1], got 1.5"));
  EXPECT_TRUE(contains(says(TrimmedMean{.trim = -1}, nothing), "htl::TrimmedMean: expected trim ≥ 0, got -1"));
  EXPECT_TRUE(contains(says(ExcessMTL{.eta = 0.0}, nothing), "htl::ExcessMTL: expected a finite eta > 0, got 0"));
  EXPECT_TRUE(contains(says(ExcessMTL{.warmup = -1}, nothing), "warmup ≥ 0, got -1"));
  EXPECT_TRUE(contains(says(MoCo{.beta = 0.0}, nothing), "htl::MoCo: expected beta in (0, 1], got 0"));
  EXPECT_TRUE(contains(says(MoCo{.sigma = -1.0}, nothing), "sigma ≥ 0, got -1"));
  EXPECT_TRUE(contains(says(MoCo{.gamma = std::nan("")}, nothing), "gamma ≥ 0, got nan"));
  EXPECT_TRUE(contains(says(MoCo{.sigma_gamma = -1.0}, nothing), "sigma_gamma ≥ 0, got -1"));
  EXPECT_TRUE(contains(says(MoCo{.rho = -1.0}, nothing), "rho ≥ 0, got -1"));
  EXPECT_TRUE(contains(says(DBMTL{.beta = 1.0}, nothing), "htl::DBMTL: expected beta in [0, 1), got 1"));
  EXPECT_TRUE(contains(says(DBMTL{.sigma = -1.0}, nothing), "sigma ≥ 0, got -1"));
  const auto without_losses = [](TaskGradients& gradients) { gradients.gramian.losses = Tensor(); };
  EXPECT_TRUE(contains(says(MoCo{}, without_losses), "htl::MoCo: expected the losses (TaskGramian::losses) of shape [2], got undefined"));
  EXPECT_TRUE(contains(says(DBMTL{}, without_losses), "htl::DBMTL: expected the losses (TaskGramian::losses) of shape [2], got undefined"));
  const auto negative = [](TaskGradients& gradients) { gradients.gramian.losses = at::tensor({-0.5, 1.0}, at::kDouble); };
  EXPECT_TRUE(contains(says(DBMTL{}, negative), "expected losses ≥ 0, whose logarithms it takes, got -0.5"));
  EXPECT_TRUE(contains(says(MoCo{}, negative), "htl::MoCo: expected losses ≥ 0, got -0.5"));
  EXPECT_TRUE(contains(says(GradDrop{}, [](TaskGradients& gradients) { gradients.parts[0].values = at::zeros({3}, at::kDouble); }), "htl::GradDrop: expected"));
  EXPECT_TRUE(contains(says(GradDrop{}, [](TaskGradients& gradients) { gradients.parts[0].values = Tensor(); }), "htl::GradDrop: expected"));
  EXPECT_TRUE(contains(says(CRMOGM<Sum>{.inner = {}, .initial = {std::nan(""), 1.0}}, nothing), "htl::CRMOGM: expected finite initial weights, got nan"));
  with_every_method([&](const std::string& name, const auto& method) {
    EXPECT_TRUE(contains(says(method,
                              [](TaskGradients& gradients) {
                                gradients.parts[0].values = at::zeros({2, 3, 1}, at::kDouble);
                              }),
                         "htl::" + name, "the gradients of \"part0\" of shape [any, 2, any], got [2, 3, 1]"));
    EXPECT_TRUE(
        contains(says(method, [](TaskGradients& gradients) { gradients.parts[0].rows = at::zeros({9}, at::kLong); }), "the rows of \"part0\" of shape"));
    EXPECT_TRUE(contains(says(method, [](TaskGradients& gradients) { gradients.parts[1].total_rows = 2; }),
                         "expected the rows of \"part1\", or gradients of all its 2 rows, got gradients of 1"));
  });
  EXPECT_TRUE(contains(sentence_of([&] { GradDrop{}.aggregate_with(step.gradients, {}); }), "uniform numbers for 4 parts, got 0"));
  ExcessMTL::State excess;
  ExcessMTL{}.aggregate(step.gradients, excess);
  EXPECT_TRUE(contains(sentence_of([&] { ExcessMTL{}.aggregate(random_step(random, 3, at::kDouble).gradients, excess); }), "[2] tasks, this batch has 3"));
  TaskGradients fewer = step.gradients;
  fewer.parts.pop_back();
  EXPECT_TRUE(contains(sentence_of([&] { ExcessMTL{}.aggregate(fewer, excess); }), "made for 80 numbers, the task gradients have 68; forget it"));
  MoCo::State moco;
  MoCo{}.aggregate(step.gradients, moco);
  EXPECT_TRUE(contains(sentence_of([&] { MoCo{}.aggregate(fewer, moco); }), "made for 80 numbers"));
}

TEST_F(Aggregators, CRMOGMAveragesWhatTheInnerMethodGives) {
  Random random(700);
  const CoreTask core{.norm = NormReference::moving_average, .core = 0};
  for (const bool given : {false, true}) {
    CRMOGM<CoreTask> method{.inner = core, .decay = 0.8};
    if (given) method.initial = {1.0, 0.5, 0.25};
    auto memory = method.initial_state();
    CoreTask::State own;
    Vector average(3, 0.0);
    std::vector<bool> known(3, given);
    if (given) average = method.initial;
    for (int64_t k = 0; k < 30; ++k) {
      const Step step = random_step(random, 3, at::kDouble, 0.3);
      const Tensor inner = core.weights(step.gradients.gramian, own), result = method.weights(step.gradients.gramian, memory);
      for (size_t t = 0; t < 3; ++t) {
        const auto i = static_cast<int64_t>(t);
        if (step.active[t]) {
          average[t] = known[t] ? 0.8 * average[t] + 0.2 * inner[i].item<double>() : inner[i].item<double>();
          known[t] = true;
        }
        ASSERT_NEAR(result[i].item<double>(), step.active[t] ? average[t] : 0.0, 1e-13);
      }
      if (k == 12) memory = restored(memory);
    }
  }
  std::string names;
  auto memory = CRMOGM<CoreTask>{.inner = core}.initial_state();
  memory.fields([&](const char* name, Tensor&) { names += std::string(name) + " "; });
  EXPECT_EQ(names, "weights known inner/core_norms inner/task_norms ");
  const TaskGramian gramian{.matrix = at::eye(2, at::kDouble)};
  EXPECT_TRUE(same_bits(weights(CRMOGM<Sum>{.inner = {}}, gramian), at::ones({2}, at::kDouble)));
  EXPECT_TRUE(contains(sentence_of([&] { weights(CRMOGM<Sum>{.inner = {}, .decay = 1.1}, gramian); }), "htl::CRMOGM: expected decay in [0, 1], got 1.1"));
  EXPECT_TRUE(contains(sentence_of([&] { weights(CRMOGM<Sum>{.inner = {}, .initial = {1.0}}, gramian); }), "initial weights for 2 tasks, got 1"));
  const CRMOGM<FAMO> around{.inner = {}};  // whose weights of a loss that is not finite must not stay in the average
  auto average = around.initial_state();
  const at::Tensor matrix = at::eye(2, at::kDouble), bad = at::tensor({std::nan(""), 1.0}, at::kDouble), good = at::ones({2}, at::kDouble);
  EXPECT_TRUE(
      contains(sentence_of([&] { weights(around, {.matrix = matrix, .losses = bad}, average); }), "htl::CRMOGM: the inner method's weights are not finite"));
  EXPECT_TRUE(weights(around, {.matrix = matrix, .losses = good}, average).isfinite().all().item<bool>());
  EXPECT_EQ((CRMOGM<Sum>{.inner = {}}.batches()), 1);
  EXPECT_FALSE((CRMOGM<Sum>{.inner = {}}.observes()));
}

}  // namespace
