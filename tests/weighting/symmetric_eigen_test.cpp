// SPDX-License-Identifier: Apache-2.0
// SymmetricEigen: reconstruction, orthogonality, and eigenvalues against LibTorch, for matrices of all kinds and scales.
#include <htl/weighting/solvers/symmetric_eigen.hpp>

#include <support/seeded.hpp>

namespace {

using namespace htl;
using namespace htl::test;
using at::Tensor;

Tensor values_of(const SymmetricEigen& eigen) { return at::tensor(eigen.values, at::kDouble); }
Tensor vectors_of(const SymmetricEigen& eigen) { return at::tensor(eigen.vectors, at::kDouble).view({eigen.n, eigen.n}); }
SymmetricEigen eigen_of(const Tensor& k) { return SymmetricEigen({k.const_data_ptr<double>(), k.size(0)}); }

/// What every decomposition must be, relative to the largest eigenvalue.
void check(const Tensor& matrix) {
  const SymmetricEigen eigen = eigen_of(matrix);
  const Tensor values = values_of(eigen), vectors = vectors_of(eigen);
  const double largest = std::max(values.abs().max().item<double>(), 1e-300);
  EXPECT_TRUE(close(vectors.mm(vectors.t()), at::eye(eigen.n, at::kDouble), 0.0, 2e-14)) << "the vectors are not orthonormal";
  EXPECT_TRUE(close((vectors.t() * (values / largest)).mm(vectors), matrix / largest, 0.0, 2e-14));
  EXPECT_TRUE(close(values / largest, std::get<0>(at::linalg_eigh(matrix / largest)), 0.0, 1e-14));
  EXPECT_TRUE(at::diff(values).ge(0.0).all().item<bool>()) << "not ascending";
}

class SymmetricEigenTest : public Seeded {};

TEST_F(SymmetricEigenTest, DecomposesEveryKindOfMatrix) {
  Random random(61);
  for (int repetition = 0; repetition < 600; ++repetition) {
    SCOPED_TRACE(repetition);
    const int64_t n = repetition % 20 == 0 ? random.integer(17, 64) : random.integer(1, 16);
    const std::string kind = random.pick<std::string>({"full", "deficient", "graded", "cluster", "indefinite", "hollow", "blocks", "duplicates"});
    SCOPED_TRACE(kind);
    Tensor j = random.normal({n, kind == "deficient" ? n / 2 + 1 : 2 * n});
    if (kind == "graded") j = j * at::pow(10.0, random.uniform({n, 1}, -12.0, 0.0));
    if (kind == "blocks") j.slice(1, 0, n).slice(0, n / 2).zero_(), j.slice(1, n).slice(0, 0, n / 2).zero_();
    if (kind == "duplicates") j.copy_(j[0].expand_as(j));
    Tensor k = j.mm(j.t());
    if (kind == "cluster") k = at::eye(n, at::kDouble) + k * random.pick<double>({1e-4, 1e-9, 1e-15});
    if (kind == "indefinite") k = random.normal({n, n});
    if (kind == "hollow") k = random.normal({n, n}), k.fill_diagonal_(0.0);
    check((k + k.t()) / 2);
  }
}

TEST_F(SymmetricEigenTest, KnowsMatricesThatNeedNoWork) {
  for (const int64_t n : {1, 2, 3, 7}) {
    EXPECT_TRUE(same_bits(values_of(eigen_of(at::zeros({n, n}, at::kDouble))), at::zeros({n}, at::kDouble)));
    EXPECT_TRUE(same_bits(vectors_of(eigen_of(at::zeros({n, n}, at::kDouble))).abs().sum(1), at::ones({n}, at::kDouble)));
    EXPECT_TRUE(same_bits(values_of(eigen_of(at::eye(n, at::kDouble))), at::ones({n}, at::kDouble)));
    const Tensor diagonal = at::arange(n, 0, -1, at::kDouble).diag();
    EXPECT_TRUE(same_bits(values_of(eigen_of(diagonal)), at::arange(1, n + 1, at::kDouble)));
  }
  EXPECT_EQ(SymmetricEigen({nullptr, 0}).values.size(), 0U);
  const SymmetricEigen two = eigen_of(at::tensor({2.0, 1.0, 1.0, 2.0}, at::kDouble).view({2, 2}));
  EXPECT_TRUE(close(values_of(two), at::tensor({1.0, 3.0}, at::kDouble), 1e-15, 0.0));
  EXPECT_TRUE(close(vectors_of(two).abs(), at::full({2, 2}, std::sqrt(0.5), at::kDouble), 1e-15, 0.0));
}

TEST_F(SymmetricEigenTest, OfTheCataloguesGramianAreTheSquaresOfItsSingularValues) {
  const Tensor j3 = at::tensor({1., 2., -1., 0., -2., 1., .5, 1., .5, -1., 3., -2.}, at::kDouble).view({3, 4});
  const Tensor singular = values_of(eigen_of(j3.mm(j3.t()))).sqrt();
  EXPECT_TRUE(close(singular, at::tensor({1.795473, 2.573162, 4.081068}, at::kDouble), 0.0, 1e-6));
  EXPECT_NEAR((singular[2] / singular[0]).item<double>(), 2.272977, 1e-6);
}

TEST_F(SymmetricEigenTest, ScalesByPowersOfTwoToTheBit) {
  Random random(62);
  for (int repetition = 0; repetition < 50; ++repetition) {
    const Tensor j = random.normal({5, 6}), k = j.mm(j.t());
    const SymmetricEigen eigen = eigen_of(k);
    for (const double scale : {0x1p132, 0x1p-132, 0x1p900, 0x1p-900}) {
      const SymmetricEigen scaled = eigen_of(k * scale);
      EXPECT_TRUE(same_bits(values_of(scaled), values_of(eigen) * scale));
      EXPECT_TRUE(same_bits(vectors_of(scaled), vectors_of(eigen)));
    }
    for (const double scale : {1e40, 1e-40, 1e300, 1e-300}) check(k * scale);
  }
  check(at::full({3, 3}, 4e-320, at::kDouble) * at::eye(3, at::kDouble));
}

TEST_F(SymmetricEigenTest, KeepsSmallEigenvaluesOfGradientsOfDifferentNorms) {
  Random random(63);
  for (int repetition = 0; repetition < 300; ++repetition) {
    SCOPED_TRACE(repetition);
    const int64_t n = random.integer(2, 12);
    // rows of unlike directions whose norms differ 1e6-fold, in any order: eigenvalues differ 1e12-fold
    const Tensor norms = at::pow(10.0, random.uniform({n}, -6.0, 0.0)), unlike = at::eye(n, at::kDouble) + 0.3 / static_cast<double>(n) * random.normal({n, n});
    const Tensor j = norms.unsqueeze(1) * unlike, k = j.mm(j.t());
    const Tensor values = values_of(eigen_of(k));
    // the inverse has the same eigenvalues upside down, so that each end is known well from one of the two
    const Tensor inverse = (at::linalg_inv(unlike) / norms).contiguous();
    const Tensor largest_of_inverse = std::get<0>(at::linalg_eigh(inverse.t().mm(inverse))).max();
    EXPECT_NEAR((values.min() * largest_of_inverse).item<double>(), 1.0, 1e-9);
  }
}

}  // namespace
