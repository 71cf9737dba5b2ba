// SPDX-License-Identifier: Apache-2.0
/// @file seeded.hpp
/// @brief Seeded: a fixture with known random numbers; Random: random cases of tests; and the four ways in which tests compare.
#pragma once

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <c10/util/Exception.h>
#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <string>
#include <vector>

namespace htl::test {

/// @brief Seeds LibTorch's default generators before a test, and gives the CPU's its former state back afterwards.
class Seeded : public ::testing::Test {
 protected:
  void SetUp() override {
    state_ = generator().get_state();
    at::manual_seed(20240914);
  }
  void TearDown() override { generator().set_state(state_); }

 private:
  static at::Generator generator() { return at::detail::getDefaultCPUGenerator(); }
  at::Tensor state_;
};

/// @brief Random cases from a seed, independent of LibTorch's default generators.
class Random {
 public:
  /// @brief The same seed gives the same cases.
  explicit Random(uint64_t seed) : engine_(seed), generator_(at::detail::createCPUGenerator(seed + 1)) {}

  /// @brief An integer in [low, high], both included.
  int64_t integer(int64_t low, int64_t high) { return low + static_cast<int64_t>(engine_() % static_cast<uint64_t>(high - low + 1)); }
  /// @brief A number in [low, high).
  double real(double low = 0.0, double high = 1.0) { return low + (high - low) * static_cast<double>(engine_() >> 11) * 0x1p-53; }
  /// @brief True with probability p.
  bool chance(double p) { return real() < p; }
  /// @brief One of the choices.
  template <class T>
  T pick(const std::vector<T>& choices) {
    return choices[static_cast<size_t>(integer(0, static_cast<int64_t>(choices.size()) - 1))];
  }

  /// @brief Normal numbers with standard deviation sd.
  at::Tensor normal(at::IntArrayRef sizes, double sd = 1.0, at::ScalarType type = at::kDouble) {
    return (at::randn(sizes, generator_, at::kDouble) * sd).to(type);
  }
  /// @brief Uniform numbers in [low, high).
  at::Tensor uniform(at::IntArrayRef sizes, double low = 0.0, double high = 1.0, at::ScalarType type = at::kDouble) {
    return (at::rand(sizes, generator_, at::kDouble) * (high - low) + low).to(type);
  }
  /// @brief int64 numbers in [0, bound): ids, classes, row numbers with repetitions.
  at::Tensor ids(at::IntArrayRef sizes, int64_t bound) { return at::randint(0, bound, sizes, generator_, at::kLong); }
  /// @brief Bools, each true with probability p: masks of labels.
  at::Tensor mask(at::IntArrayRef sizes, double p = 0.5) { return at::rand(sizes, generator_, at::kDouble) < p; }
  /// @brief Labels 0 or 1, each 1 with probability p.
  at::Tensor events(at::IntArrayRef sizes, double p = 0.5, at::ScalarType type = at::kDouble) { return mask(sizes, p).to(type); }
  /// @brief A random order of 0 … n − 1.
  at::Tensor permutation(int64_t n) { return at::randperm(n, generator_, at::kLong); }
  /// @brief The generator behind the tensors, for code under test that takes one.
  at::Generator& generator() { return generator_; }

 private:
  std::mt19937_64 engine_;
  at::Generator generator_;
};

/// @brief Whether two tensors have the same shape, type and bits (NaN equals NaN; 0 differs from −0).
inline ::testing::AssertionResult same_bits(const at::Tensor& a, const at::Tensor& b) {
  if (!a.defined() || !b.defined())
    return a.defined() == b.defined() ? ::testing::AssertionSuccess() : ::testing::AssertionFailure() << "one tensor is undefined";
  if (a.scalar_type() != b.scalar_type() || a.sizes() != b.sizes())
    return ::testing::AssertionFailure() << a.scalar_type() << " " << a.sizes() << " against " << b.scalar_type() << " " << b.sizes();
  const at::Tensor x = a.detach().to(at::kCPU).contiguous(), y = b.detach().to(at::kCPU).contiguous();
  if (x.nbytes() == 0 || std::memcmp(x.const_data_ptr(), y.const_data_ptr(), x.nbytes()) == 0) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << "same shape " << a.sizes() << ", but the bits differ";
}

/// @brief Whether two tensors agree: the same shape and |a − b| ≤ absolute + relative · max(|a|, |b|) in every element, computed in fp64.
///
/// Equal infinities agree; NaN agrees with nothing.
inline ::testing::AssertionResult close(const at::Tensor& a, const at::Tensor& b, double relative = 1e-12, double absolute = 1e-12) {
  if (!a.defined() || !b.defined()) return ::testing::AssertionFailure() << "a tensor is undefined";
  if (a.sizes() != b.sizes()) return ::testing::AssertionFailure() << "shape " << a.sizes() << " against " << b.sizes();
  const at::Tensor x = a.detach().to(at::kCPU, at::kDouble).flatten(), y = b.detach().to(at::kCPU, at::kDouble).flatten();
  const at::Tensor bad = (x.eq(y).logical_or((x - y).abs() <= absolute + relative * at::maximum(x.abs(), y.abs()))).logical_not();
  const int64_t count = bad.sum().item<int64_t>();
  if (count == 0) return ::testing::AssertionSuccess();
  const int64_t worst = at::where(bad, (x - y).abs().nan_to_num(1e300, 1e300), at::full_like(x, -1.0)).argmax().item<int64_t>();
  return ::testing::AssertionFailure() << count << " of " << x.numel() << " elements of " << a.sizes() << " differ; the worst at flat position " << worst
                                       << ": " << x[worst].item<double>() << " against " << y[worst].item<double>() << " (difference "
                                       << (x[worst] - y[worst]).item<double>() << ")";
}

/// @brief Whether a result in fp64 or fp32 agrees with its reference in fp64: as close() does, or in fp32 to 1e-5 of the reference's largest element
/// and 1e-6, what sums of terms around 1 keep of their rounding when they cancel.
/// @param result of the code under test; its type decides
/// @param reference computed in fp64 from the same numbers
/// @param tolerance of an fp64 result, relative and absolute
inline ::testing::AssertionResult close_to_reference(const at::Tensor& result, const at::Tensor& reference, double tolerance = 1e-12) {
  if (!result.defined() || result.scalar_type() == at::kDouble) return close(result, reference, tolerance, tolerance);
  return close(result, reference, 0.0, 1e-6 + (reference.defined() && reference.numel() > 0 ? 1e-5 * reference.detach().abs().max().item<double>() : 0.0));
}

/// @brief The sentence of the c10::Error that a call throws, without the backtrace; "no error" where it throws none.
template <class Call>
std::string sentence_of(Call&& call) {
  try {
    call();
  } catch (const c10::Error& error) {
    return error.what_without_backtrace();
  }
  return "no error";
}

/// @brief Whether a sentence holds all of these parts.
template <class... Parts>
::testing::AssertionResult contains(const std::string& sentence, const Parts&... parts) {
  for (const std::string& part : {std::string(parts)...})
    if (sentence.find(part) == std::string::npos) return ::testing::AssertionFailure() << "\"" << part << "\" is missing in: " << sentence;
  return ::testing::AssertionSuccess();
}

}  // namespace htl::test
