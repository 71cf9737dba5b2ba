// SPDX-License-Identifier: Apache-2.0
// The solvers against certificates that need only K and the answer, against all active sets of few tasks, and against closed forms.
#include <htl/weighting/solvers/conflict_averse.hpp>
#include <htl/weighting/solvers/dual_cone.hpp>
#include <htl/weighting/solvers/fairness.hpp>
#include <htl/weighting/solvers/simplex_projection.hpp>
#include <htl/weighting/solvers/simplex_qp.hpp>
#include <htl/weighting/solvers/symmetric_part.hpp>

#include <support/troubled_gradients.hpp>

#include <ATen/ATen.h>

#include <limits>
#include <map>
#include <optional>
#include <utility>

namespace {

using namespace htl;
using namespace htl::test;
using at::Tensor;
using Vector = std::vector<double>;

/// A Gramian divided by its trace, for certificates: their numbers are shares of it.
struct Normed {
  explicit Normed(Vector matrix, int64_t size) : k(std::move(matrix)), n(static_cast<size_t>(size)) {
    for (size_t i = 0; i < n; ++i) trace += k[i * n + i];
    if (trace > 0.0)
      for (double& entry : k) entry /= trace;
  }
  Vector times(const Vector& w) const {
    Vector y(n, 0.0);
    for (size_t i = 0; i < n; ++i)
      for (size_t j = 0; j < n; ++j) y[i] += k[i * n + j] * w[j];
    return y;
  }
  Vector k;
  size_t n;
  double trace = 0.0;
};
double inner(const Vector& a, const Vector& b) {
  double sum = 0.0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}
double smallest(const Vector& a) { return *std::min_element(a.begin(), a.end()); }
double largest(const Vector& a) { return *std::max_element(a.begin(), a.end()); }

/// How far w is from the minimum of ½ wᵀKw + bᵀw over Σw = 1, w ≥ lower: the duality gap; infinity where w is not feasible.
double simplex_gap(const Normed& k, const Vector& b, const Vector& lower, const Vector& w) {
  double sum = 0.0, gap = 0.0;
  Vector y = k.times(w);
  for (size_t i = 0; i < k.n; ++i) {
    y[i] += b[i];
    sum += w[i];
    if (!(w[i] >= lower[i])) return std::numeric_limits<double>::infinity();
  }
  if (!(std::abs(sum - 1.0) <= 1e-13 * static_cast<double>(k.n))) return std::numeric_limits<double>::infinity();
  for (size_t i = 0; i < k.n; ++i) gap += (w[i] - lower[i]) * (y[i] - smallest(y));
  return gap;
}

/// How far v is from the minimum of vᵀKv over v ≥ u, in parts of its largest weight: what its gradient lacks of ≥ 0 and of complementarity.
double cone_residual(const Normed& k, const Vector& u, const Vector& v) {
  const Vector y = k.times(v);
  double slack = 0.0;
  for (size_t i = 0; i < k.n; ++i) {
    if (!(v[i] >= u[i])) return std::numeric_limits<double>::infinity();
    slack += (v[i] - u[i]) * y[i];
  }
  const double size = std::max(largest(v), 1e-300);
  return std::max(-smallest(y) / size, std::abs(slack) / size / size);
}

/// Solves A x = b by elimination with full pivoting; nothing where A is singular.
std::optional<Vector> eliminate(std::vector<Vector> a, Vector b) {
  const size_t n = b.size();
  std::vector<size_t> column(n);
  for (size_t i = 0; i < n; ++i) column[i] = i;
  for (size_t p = 0; p < n; ++p) {
    size_t row = p, col = p;
    for (size_t i = p; i < n; ++i)
      for (size_t j = p; j < n; ++j)
        if (std::abs(a[i][j]) > std::abs(a[row][col])) row = i, col = j;
    if (std::abs(a[row][col]) < 1e-13) return std::nullopt;
    std::swap(a[p], a[row]);
    std::swap(b[p], b[row]);
    for (size_t i = 0; i < n; ++i) std::swap(a[i][p], a[i][col]);
    std::swap(column[p], column[col]);
    for (size_t i = p + 1; i < n; ++i) {
      const double factor = a[i][p] / a[p][p];
      for (size_t j = p; j < n; ++j) a[i][j] -= factor * a[p][j];
      b[i] -= factor * b[p];
    }
  }
  Vector x(n);
  for (size_t p = n; p-- > 0;) {
    double sum = b[p];
    for (size_t j = p + 1; j < n; ++j) sum -= a[p][j] * x[column[j]];
    x[column[p]] = sum / a[p][p];
  }
  return x;
}

/// The smallest ½ wᵀKw + bᵀw of all active sets; `sum` = on the simplex.
double best_of_all_faces(const Normed& k, const Vector& b, bool sum) {
  double best = sum ? std::numeric_limits<double>::infinity() : 0.0;
  for (size_t set = 1; set < (size_t{1} << k.n); ++set) {
    std::vector<size_t> face;
    for (size_t i = 0; i < k.n; ++i)
      if (set >> i & 1U) face.push_back(i);
    const size_t m = face.size() + (sum ? 1 : 0);
    std::vector<Vector> a(m, Vector(m, 0.0));
    Vector right(m, 1.0);
    for (size_t i = 0; i < face.size(); ++i) {
      for (size_t j = 0; j < face.size(); ++j) a[i][j] = k.k[face[i] * k.n + face[j]];
      if (sum) a[i][m - 1] = a[m - 1][i] = 1.0;
      right[i] = -b[face[i]];
    }
    const std::optional<Vector> x = eliminate(a, right);
    if (!x) continue;
    Vector w(k.n, 0.0);
    for (size_t i = 0; i < face.size(); ++i) w[face[i]] = (*x)[i];
    if (smallest(w) >= -1e-12) best = std::min(best, 0.5 * inner(w, k.times(w)) + inner(b, w));
  }
  return best;
}

class SolversTest : public Seeded {};

TEST_F(SolversTest, SimplexQpHasNoDualityGap) {
  Random random(401);
  for (int repetition = 0; repetition < 3000; ++repetition) {
    SCOPED_TRACE(repetition);
    const int64_t n = random_task_count(random);
    const Vector k = numbers(gramian_matrix(troubled_gradients(random, n, Trouble::any(random))));
    const Normed normed(k, n);
    const auto size = static_cast<size_t>(n);
    Vector w(size), zero(size, 0.0), b(size), b_normed(size), lower(size), answer(size);
    EXPECT_TRUE(simplex_qp({k.data(), n}, w));
    EXPECT_LE(simplex_gap(normed, zero, zero, w), 1e-10);
    const double unit = normed.trace > 0.0 ? normed.trace : 1.0, strength = random.pick<double>({0.0, 1e-6, 1.0, 1e3});
    for (size_t i = 0; i < size; ++i) {
      lower[i] = random.chance(0.5) ? random.real() / static_cast<double>(n) : 0.0;
      b_normed[i] = strength * random.real(-1.0, 1.0) / static_cast<double>(n);
      b[i] = b_normed[i] * unit;
    }
    EXPECT_TRUE(simplex_qp({k.data(), n}, b, lower, w));
    EXPECT_LE(simplex_gap(normed, b_normed, lower, w), 1e-10 * std::max(1.0, strength));
  }
}

TEST_F(SolversTest, DualConeMeetsItsOptimalityConditions) {
  Random random(402);
  for (int repetition = 0; repetition < 2000; ++repetition) {
    SCOPED_TRACE(repetition);
    const int64_t n = random_task_count(random);
    const Vector k = numbers(gramian_matrix(troubled_gradients(random, n, Trouble::any(random))));
    const Normed normed(k, n);
    const auto size = static_cast<size_t>(n);
    DualCone cone({k.data(), n});
    Vector v(size);
    for (int kind = 0; kind < 4; ++kind) {
      Vector u(size, kind == 0 ? 1.0 / static_cast<double>(n) : 0.0);
      if (kind == 1 || kind == 2) u[static_cast<size_t>(random.integer(0, n - 1))] = kind == 1 ? 1.0 : 1e5;
      if (kind == 3)
        for (double& number : u) number = random.chance(0.3) ? 0.0 : random.real();
      EXPECT_TRUE(cone.project(u, v));
      EXPECT_LE(cone_residual(normed, u, v), 1e-10);
    }
  }
}

TEST_F(SolversTest, FindTheBestOfAllActiveSets) {
  Random random(403);
  for (int repetition = 0; repetition < 1500; ++repetition) {
    SCOPED_TRACE(repetition);
    const int64_t n = random.integer(1, 5);
    Trouble trouble = Trouble::any(random);
    trouble.sizes = trouble.near_copies = false;  // what elimination is not sure of
    trouble.scale = 1.0;
    const Vector k = numbers(gramian_matrix(troubled_gradients(random, n, trouble)));
    const Normed normed(k, n);
    const auto size = static_cast<size_t>(n);
    Vector w(size), b(size), b_normed(size), u(size), v(size);
    for (size_t i = 0; i < size; ++i) {
      u[i] = random.chance(0.5) ? random.real() : 0.0;
      b_normed[i] = random.real(-0.5, 0.5);
      b[i] = b_normed[i] * (normed.trace > 0.0 ? normed.trace : 1.0);
    }
    ASSERT_TRUE(simplex_qp({k.data(), n}, b, {}, w));
    EXPECT_NEAR(0.5 * inner(w, normed.times(w)) + inner(b_normed, w), best_of_all_faces(normed, b_normed, true), 1e-11);
    ASSERT_TRUE(DualCone({k.data(), n}).project(u, v));
    const Vector ku = normed.times(u);
    EXPECT_NEAR(0.5 * inner(v, normed.times(v)), 0.5 * inner(u, ku) + best_of_all_faces(normed, ku, false), 1e-11);
  }
}

TEST_F(SolversTest, SimplexQpKeepsTheDigitsOfSmallRows) {
  Random random(404);
  for (int repetition = 0; repetition < 300; ++repetition) {
    const int64_t n = random.integer(2, 16);
    const auto size = static_cast<size_t>(n);
    Vector k(size * size, 0.0), expected(size), w(size);
    double sum = 0.0;
    for (size_t i = 0; i < size; ++i) {  // orthogonal rows: w_i ∝ 1 / K_ii
      k[i * size + i] = std::pow(10.0, random.real(-20.0, 20.0));
      sum += expected[i] = 1.0 / k[i * size + i];
    }
    ASSERT_TRUE(simplex_qp({k.data(), n}, w));
    for (size_t i = 0; i < size; ++i) EXPECT_NEAR(w[i], expected[i] / sum, 1e-12 * expected[i] / sum);
  }
}

TEST_F(SolversTest, QuadraticsHoldTheirEdges) {
  Vector w(3, -1.0);
  const Vector k = {2., 1., 0., 1., 2., 0., 0., 0., 5.}, thirds(3, 1.0 / 3.0);
  ASSERT_TRUE(simplex_qp({k.data(), 3}, {}, Vector{0.2, 0.3, 0.5}, w));  // the bounds leave nothing
  EXPECT_EQ(w, (Vector{0.2, 0.3, 0.5}));
  const Vector zero(9, 0.0);
  ASSERT_TRUE(simplex_qp({zero.data(), 3}, Vector{3.0, 1.0, 2.0}, {}, w));  // linear alone: a corner
  EXPECT_EQ(w, (Vector{0.0, 1.0, 0.0}));
  ASSERT_TRUE(DualCone({zero.data(), 3}).project(thirds, w));
  EXPECT_EQ(w, thirds);
  Vector none;
  EXPECT_TRUE(simplex_qp({nullptr, 0}, none));
  Vector broken = k;
  broken[4] = std::numeric_limits<double>::quiet_NaN();
  EXPECT_FALSE(simplex_qp({broken.data(), 3}, w));  // says so, and stays feasible
  EXPECT_EQ(w, thirds);
  EXPECT_FALSE(DualCone({broken.data(), 3}).project(thirds, w));
  EXPECT_EQ(w, thirds);
}

TEST_F(SolversTest, InnerProblemsHaveTheWeightsOfTheCatalogue) {
  const Vector k2 = {18., -22., -22., 38.}, k3 = {6., -.5, -4.5, -.5, 6.25, -2.5, -4.5, -2.5, 14.25};  // Gramians of J2 and J3
  const auto expect = [](const Vector& w, const Vector& golden) {
    for (size_t i = 0; i < w.size(); ++i) EXPECT_NEAR(w[i], golden[i], 1e-6) << i;
  };
  Vector two(2), three(3);
  EXPECT_TRUE(conflict_averse({k2.data(), 2}, 0.5, two).converged);  // CAGrad's w*
  expect(two, {1., 0.});
  EXPECT_TRUE(conflict_averse({k3.data(), 3}, 0.5, three).converged);
  expect(three, {.622542, .28529, .092168});
  EXPECT_TRUE(conflict_averse({k3.data(), 3}, 0.4, three).converged);
  expect(three, {.74524, .25476, 0.});
  Vector pull(3, 0.0);  // SDMGrad's w with λ = 0.3: ½ wᵀKw + λ wᵀK w̃
  for (size_t i = 0; i < 3; ++i)
    for (size_t j = 0; j < 3; ++j) pull[i] += 0.3 / 3.0 * k3[i * 3 + j];
  ASSERT_TRUE(simplex_qp({k3.data(), 3}, pull, {}, three));
  expect(three, {.438295, .315897, .245808});
}

TEST_F(SolversTest, SimplexProjectionIsTheNearestPoint) {
  Random random(405);
  for (int repetition = 0; repetition < 2000; ++repetition) {
    const auto n = static_cast<size_t>(random.integer(1, 40));
    Vector x(n);
    for (double& value : x) value = random.real(-1.0, 1.0) * std::pow(10.0, random.real(-3.0, 2.0));
    if (random.chance(0.3)) std::fill(x.begin(), x.begin() + static_cast<std::ptrdiff_t>(n / 2), x.back());
    Vector w = x;
    simplex_projection(w);
    double low = smallest(x) - 1.0, high = largest(x);  // Σ max(x − τ, 0) = 1 by bisection
    for (int round = 0; round < 200; ++round) {
      const double tau = 0.5 * (low + high);
      double sum = 0.0;
      for (const double value : x) sum += std::max(value - tau, 0.0);
      (sum > 1.0 ? low : high) = tau;
    }
    for (size_t i = 0; i < n; ++i) EXPECT_NEAR(w[i], std::max(x[i] - low, 0.0), 1e-12 * std::max(1.0, std::abs(x[i])));
  }
  Vector huge = {1e300, -1e300, 3.0};
  simplex_projection(huge);
  EXPECT_EQ(huge, (Vector{1.0, 0.0, 0.0}));
  Vector offset = {1e9 + 0.25, 1e9 - 0.25};
  simplex_projection(offset);
  EXPECT_EQ(offset, (Vector{0.75, 0.25}));
  Vector none;
  simplex_projection(none);
}

TEST_F(SolversTest, FairnessSolvesItsEquationOrSaysThatItCannot) {
  Random random(406);
  int solved = 0, refused = 0;
  for (int repetition = 0; repetition < 2000; ++repetition) {
    SCOPED_TRACE(repetition);
    const int64_t n = random_task_count(random);
    const Trouble trouble = Trouble::any(random);
    const Vector k = numbers(gramian_matrix(troubled_gradients(random, n, trouble)));
    const auto size = static_cast<size_t>(n);
    const double alpha = random.pick<double>({1.0, 1.0, 0.5, 2.0, 5.0});
    Vector w(size, -7.0);
    if (!fairness({k.data(), n}, alpha, w)) {
      ++refused;
      EXPECT_EQ(w, Vector(size, -7.0));
      EXPECT_FALSE(trouble.independent() && (alpha == 1.0 || !trouble.sizes)) << "independent rows have a solution";  // how many else: the next test
      continue;
    }
    ++solved;
    EXPECT_FALSE(trouble.balanced && n > 1 && !trouble.sizes && !trouble.near_copies) << "a stationary point has none";
    for (size_t i = 0; i < size; ++i) {
      double sum = 0.0, terms = 0.0;
      for (size_t j = 0; j < size; ++j) {
        sum += k[i * size + j] * w[j];
        terms += std::abs(k[i * size + j] * w[j]);
      }
      const double target = std::pow(w[i], -1.0 / alpha);
      EXPECT_GT(w[i], 0.0);
      EXPECT_LE(std::abs(sum - target), 1e-10 * (terms + target)) << "alpha " << alpha;
      if (!trouble.sizes && trouble.independent()) {
        EXPECT_NEAR(sum / target, 1.0, 1e-10) << "alpha " << alpha;
      }
    }
  }
  EXPECT_GT(solved, 1000);
  EXPECT_GT(refused, 400);
}

TEST_F(SolversTest, FairnessRefusesFewIndependentRowsOfUnlikeSizes) {
  // They have a solution, but with α ≠ 1 its parts lie so far apart that float64 may lose them. Measured over 9000 cases: 8 of 6024 with α ≤ 2, 212 of
  // 2976 with α = 5, all but 7 of them of more than 8 tasks. More would be a loss.
  Random random(410);
  std::map<double, std::pair<int, int>> refused;  // of how many, by α
  int of_few = 0;
  for (int repetition = 0; repetition < 3000; ++repetition) {
    const int64_t n = random_task_count(random);
    const Trouble trouble{.sizes = true, .aligned = random.chance(0.3), .scale = random.pick<double>({1e-20, 1.0, 1e20})};
    const Vector k = numbers(gramian_matrix(troubled_gradients(random, n, trouble)));
    const double alpha = random.pick<double>({0.5, 2.0, 5.0});
    Vector w(static_cast<size_t>(n));
    const bool lost = !fairness({k.data(), n}, alpha, w);
    auto& [count, all] = refused[alpha];
    count += lost;
    ++all;
    of_few += lost && n <= 4;
  }
  for (const auto& [alpha, counts] : refused) {
    RecordProperty("alpha_" + std::to_string(alpha), std::to_string(counts.first) + " of " + std::to_string(counts.second));
    EXPECT_LE(counts.first, (alpha > 2.0 ? 0.1 : 0.01) * counts.second) << "alpha " << alpha;
  }
  EXPECT_EQ(of_few, 0);
}

TEST_F(SolversTest, FairnessHasItsClosedForms) {
  Random random(407);
  for (int repetition = 0; repetition < 300; ++repetition) {
    const auto n = static_cast<size_t>(random.integer(1, 12));
    const double alpha = random.pick<double>({0.1, 0.5, 1.0, 2.0, 10.0});
    Vector k(n * n, 0.0), w(n);
    for (size_t i = 0; i < n; ++i) k[i * n + i] = std::pow(10.0, random.real(-6.0, 6.0));
    const SquareMatrix matrix{k.data(), static_cast<int64_t>(n)};
    ASSERT_TRUE(fairness(matrix, alpha, w));  // orthogonal: K_ii w = w^(−1/α)
    for (size_t i = 0; i < n; ++i) EXPECT_NEAR(w[i] / std::pow(k[i * n + i], -alpha / (1.0 + alpha)), 1.0, 1e-11);
    std::fill(k.begin(), k.end(), 3.0);
    ASSERT_TRUE(fairness(matrix, alpha, w));  // equal rows share alike
    for (const double weight : w) EXPECT_NEAR(weight / std::pow(3.0 * static_cast<double>(n), -alpha / (1.0 + alpha)), 1.0, 1e-11);
  }
  // nearly opposed unit gradients of cosine −cos δ: w = 1 / √(1 − cos δ) each, until K can't tell δ from 0
  for (const double delta : {1e-1, 1e-2, 1e-3, 1e-4}) {
    const double cosine = -std::cos(delta);
    const Vector k = {1.0, cosine, cosine, 1.0};
    Vector w(2);
    ASSERT_TRUE(fairness({k.data(), 2}, 1.0, w)) << delta;
    for (const double weight : w) EXPECT_NEAR(weight * std::sqrt(1.0 + cosine), 1.0, 1e-6);
  }
  Vector w(2);
  for (const Vector& k : {Vector{1., -1., -1., 1.}, Vector{1., 0., 0., 0.}, Vector(4, 0.0), Vector{4e40, -2e20, -2e20, 1.}})
    for (const double alpha : {0.5, 1.0, 2.0}) EXPECT_FALSE(fairness({k.data(), 2}, alpha, w));
  const Vector nan(4, std::numeric_limits<double>::quiet_NaN());
  EXPECT_FALSE(fairness({nan.data(), 2}, 1.0, w));
}

TEST_F(SolversTest, ConflictAverseIsCertifiedByItsDual) {
  Random random(408);
  int vanished = 0, found_some = 0;
  for (int repetition = 0; repetition < 2000; ++repetition) {
    SCOPED_TRACE(repetition);
    const int64_t n = random_task_count(random);
    const Trouble trouble = Trouble::any(random);
    const Vector k = numbers(gramian_matrix(troubled_gradients(random, n, trouble)));
    const Normed normed(k, n);
    const auto size = static_cast<size_t>(n);
    const double c = random.pick<double>({0.05, 0.4, 0.5, 0.9, 1.0, 2.0, 10.0}), mean = 1.0 / static_cast<double>(n);
    Vector w(size), roots(size), v(size);
    for (size_t i = 0; i < size; ++i) roots[i] = std::sqrt(normed.k[i * size + i]);
    const ConflictAverse found = conflict_averse({k.data(), n}, c, w);
    EXPECT_TRUE(found.converged);
    double sum = 0.0;
    for (const double weight : w) {
      EXPECT_GE(weight, 0.0);
      sum += weight;
    }
    EXPECT_NEAR(sum, 1.0, 1e-12);
    const Vector kw = normed.times(w), uniform(size, mean), ku = normed.times(uniform);
    const double norm = std::sqrt(std::max(inner(w, kw), 0.0)), rho = c * std::sqrt(std::max(inner(uniform, ku), 0.0));
    if (found.vanishes) {  // a convex combination, w or 1/n, is 0 to rounding
      ++vanished;
      EXPECT_EQ(found.factor, 0.0);
      EXPECT_LE(std::min(norm, rho / c), 3e-7);
      continue;
    }
    ++found_some;
    for (size_t i = 0; i < size; ++i) v[i] = mean + found.factor * w[i];
    const Vector y = normed.times(v);  // G_i · d; the minimum of them bounds every w's value from below
    EXPECT_LE(inner(w, y) - smallest(y), 1e-10 * std::max(1.0, largest(v)));
    if (std::min(norm, rho) > 1e-3) {
      EXPECT_NEAR(found.factor * norm / rho, 1.0, 1e-9) << "d is on the ball";
    }
    if (n <= 8) {
      const auto value = [&](const Vector& at) { return inner(at, ku) + rho * std::sqrt(std::max(inner(at, normed.times(at)), 0.0)); };
      for (int sample = 0; sample < 20; ++sample) {
        Vector other(size);
        double total = 0.0;
        for (double& weight : other) total += weight = random.chance(0.3) ? 0.0 : random.real();
        if (total == 0.0) continue;
        for (double& weight : other) weight /= total;
        EXPECT_LE(value(w), value(other) + 1e-10 + rho * 1e-7);
      }
    }
  }
  EXPECT_GT(vanished, 200);
  EXPECT_GT(found_some, 1000);
}

TEST_F(SolversTest, PositiveSymmetricPartCutsNegativeEigenvalues) {
  Random random(409);
  for (int repetition = 0; repetition < 200; ++repetition) {
    const int64_t n = random.integer(1, 20);
    const double scale = random.pick<double>({1e-40, 1.0, 1e40});
    const Tensor a = random.normal({n, n}) * scale, gramian = gramian_matrix(random.normal({n, random.integer(1, 30)})) * scale;
    const auto part = [&](const Tensor& of) {
      const Vector values = numbers(of);
      return at::tensor(positive_symmetric_part({values.data(), n}), at::kDouble).view({n, n});
    };
    EXPECT_TRUE(close(part(gramian) / scale, gramian / scale, 0.0, 1e-11));
    const auto [eigenvalues, vectors] = at::linalg_eigh((a + a.t()) / (2.0 * scale));
    EXPECT_TRUE(close(part(a) / scale, (vectors * eigenvalues.clamp_min(0.0)).mm(vectors.t()), 0.0, 1e-11));
  }
}

}  // namespace
