// SPDX-License-Identifier: Apache-2.0
/// @file exponentials.hpp
/// @brief exp_all, logistic_all: exponentials and logistic functions of many numbers at once, where losses spend their time.
/// Not in the umbrella: it belongs to the headers that include it.
#pragma once

#include <htl/loss/detail/special.hpp>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <numbers>

namespace htl::inline v0_1_0::detail {

/// Replaces each number by its exponential, one by one.
inline void exp_all_plain(double* numbers, size_t count) {
  for (size_t i = 0; i < count; ++i) numbers[i] = std::exp(numbers[i]);
}

/// σ(z), σ(−z) and log(1 + e^−|z|) of each number, one by one.
inline void logistic_all_plain(const double* z, size_t count, double* up, double* down, double* log_whole) {
  for (size_t i = 0; i < count; ++i) {
    const Logistic one = logistic(z[i]);
    up[i] = one.up;
    down[i] = one.down;
    log_whole[i] = z[i] < 0.0 ? one.over : one.under;
  }
}

#if defined(__x86_64__)
using FourNumbers = double __attribute__((vector_size(32)));
using FourIntegers = int64_t __attribute__((vector_size(32)));

/// e^x = 2^n·e^r with x = n·log 2 + r, |r| ≤ ½ log 2, and e^r by its series to r^13: within two roundings. x is held in [−708, 709], where 2^n is normal.
[[gnu::always_inline]] inline void exp_four(FourNumbers& x) {
  const FourNumbers low = {-708.0, -708.0, -708.0, -708.0}, high = {709.0, 709.0, 709.0, 709.0};
  x = low > x ? low : x;  // in this order NaN stays
  x = high < x ? high : x;
  const FourNumbers shifted = x * 1.4426950408889634074 + 0x1.8p52, whole = shifted - 0x1.8p52;  // n stands in the lowest bits of shifted
  const FourNumbers r = (x - whole * 0x1.62e42fefa3800p-1) - whole * 0x1.ef35793c76730p-45;      // log 2 in two parts
  const FourNumbers r2 = r * r, r4 = r2 * r2, r8 = r4 * r4;
  const FourNumbers first = (1.0 + r) + r2 * (1.0 / 2 + r * (1.0 / 6));
  const FourNumbers middle = (1.0 / 24 + r * (1.0 / 120)) + r2 * (1.0 / 720 + r * (1.0 / 5040));
  const FourNumbers last = (1.0 / 40320 + r * (1.0 / 362880)) + r2 * (1.0 / 3628800 + r * (1.0 / 39916800)) + r4 * (1.0 / 479001600 + r * (1.0 / 6227020800));
  const FourNumbers power = first + r4 * middle + r8 * last;
  x = (FourNumbers)((FourIntegers)power + ((FourIntegers)shifted << 52));  // the same bits as integers: adds n to the exponent
}

__attribute__((target("avx2"))) inline void exp_all_avx2(double* numbers, size_t count) {
  FourNumbers four;
  size_t i = 0;
  for (; i + 4 <= count; i += 4) {
    std::memcpy(&four, numbers + i, sizeof four);
    exp_four(four);
    std::memcpy(numbers + i, &four, sizeof four);
  }
  if (i == count) return;
  four = FourNumbers{};
  std::memcpy(&four, numbers + i, (count - i) * sizeof(double));
  exp_four(four);
  std::memcpy(numbers + i, &four, (count - i) * sizeof(double));
}

/// 2·atanh(s) for |s| ≤ 1/3; atanh(s)/s is a polynomial in s² here, within 3e−18.
[[gnu::always_inline]] inline void twice_atanh_four(FourNumbers& s) {
  const FourNumbers u = s * s, u2 = u * u, u4 = u2 * u2;
  const FourNumbers first = (1.0 + u * 0.33333333333333074797) + u2 * (0.20000000000092873734 + u * 0.14285714272727057267);
  const FourNumbers middle = (0.11111112040373836587 + u * 0.090908704162524022551) + u2 * (0.076933070211520038808 + u * 0.066501870163373121685);
  const FourNumbers last = (0.060550843640346088273 + u * 0.041622532559304102879) + u2 * 0.085220817813906990645;
  s = 2.0 * s * (first + u4 * (middle + u4 * last));
}

/// log(1 + t) = 2·atanh(t/(2 + t)) for t = e^−|z|.
[[gnu::always_inline]] inline void logistic_four(const FourNumbers& z, FourNumbers& up, FourNumbers& down, FourNumbers& log_whole) {
  FourNumbers tail = z < 0.0 ? z : -z;
  exp_four(tail);
  const FourNumbers rest = 1.0 / (1.0 + tail), of_tail = tail * rest;
  up = z < 0.0 ? of_tail : rest;
  down = z < 0.0 ? rest : of_tail;
  log_whole = tail / (2.0 + tail);
  twice_atanh_four(log_whole);
}

__attribute__((target("avx2"))) inline void logistic_all_avx2(const double* z, size_t count, double* up, double* down, double* log_whole) {
  FourNumbers four, a, b, c;
  size_t i = 0;
  for (; i + 4 <= count; i += 4) {
    std::memcpy(&four, z + i, sizeof four);
    logistic_four(four, a, b, c);
    std::memcpy(up + i, &a, sizeof four);
    std::memcpy(down + i, &b, sizeof four);
    std::memcpy(log_whole + i, &c, sizeof four);
  }
  if (i == count) return;
  const size_t rest = (count - i) * sizeof(double);
  four = FourNumbers{};
  std::memcpy(&four, z + i, rest);
  logistic_four(four, a, b, c);
  std::memcpy(up + i, &a, rest);
  std::memcpy(down + i, &b, rest);
  std::memcpy(log_whole + i, &c, rest);
}
#endif

/// σ(z), σ(−z) and log(1 + e^−|z|) of each number, with full relative precision for |z| ≤ 708 and beyond as there.
inline void logistic_all(const double* z, size_t count, double* up, double* down, double* log_whole) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2")) return logistic_all_avx2(z, count, up, down, log_whole);
#endif
  logistic_all_plain(z, count, up, down, log_whole);
}

/// Replaces each of the numbers in [−708, 709] by its exponential; beyond that range by that of its nearer end.
inline void exp_all(double* numbers, size_t count) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2")) return exp_all_avx2(numbers, count);
#endif
  exp_all_plain(numbers, count);
}

/// Replaces each number > 0 by its logarithm, one by one.
inline void log_all_plain(double* numbers, size_t count) {
  for (size_t i = 0; i < count; ++i) numbers[i] = std::log(numbers[i]);
}

#if defined(__x86_64__)
/// log x = n·log 2 + log m with x = 2^n·m, m in [√½, √2), and log m = 2·atanh((m − 1)/(m + 1)). Normal x > 0; NaN stays NaN.
[[gnu::always_inline]] inline void log_four(FourNumbers& x) {
  const FourIntegers bits = (FourIntegers)x, offset = bits - 0x3fe6a09e667f3bcd;  // how far above √½, of which the upper bits are n
  const FourIntegers n = (FourIntegers)((FourNumbers)((offset >> 52) + 0x4338000000000000));
  const FourNumbers whole = (FourNumbers)n - 0x1.8p52, m = (FourNumbers)(bits - (offset & (int64_t(0xfff) << 52)));
  FourNumbers of_m = (m - 1.0) / (m + 1.0);
  twice_atanh_four(of_m);
  const FourNumbers result = whole * 0x1.62e42fefa3800p-1 + (whole * 0x1.ef35793c76730p-45 + of_m);
  x = x == x ? result : x;
}

__attribute__((target("avx2"))) inline void log_all_avx2(double* numbers, size_t count) {
  FourNumbers four;
  size_t i = 0;
  for (; i + 4 <= count; i += 4) {
    std::memcpy(&four, numbers + i, sizeof four);
    log_four(four);
    std::memcpy(numbers + i, &four, sizeof four);
  }
  if (i == count) return;
  four = FourNumbers{1.0, 1.0, 1.0, 1.0};
  std::memcpy(&four, numbers + i, (count - i) * sizeof(double));
  log_four(four);
  std::memcpy(numbers + i, &four, (count - i) * sizeof(double));
}
#endif

/// Replaces each number by its logarithm; they must be normal and > 0, or NaN.
inline void log_all(double* numbers, size_t count) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2")) return log_all_avx2(numbers, count);
#endif
  log_all_plain(numbers, count);
}

/// Φ(x) and φ(x)/Φ(x) of each number x ≥ 0, of the normal distribution, one by one.
inline void normal_all_plain(const double* x, size_t count, double* mass, double* ratio) {
  for (size_t i = 0; i < count; ++i) {
    mass[i] = 1.0 - 0.5 * std::erfc(x[i] * (std::numbers::sqrt2 / 2));
    ratio[i] = std::exp(-0.5 * x[i] * x[i] - kHalfLogTwoPi) / mass[i];
  }
}

#if defined(__x86_64__)
/// 1 − Φ(x) = e^{−x²/2}·p(t) with t = (x − 3.5)/(x + 3.5), p a polynomial for x ≤ 9; beyond, where Φ is 1 in fp64, that of 9. Within 1e−17 and its roundings.
[[gnu::always_inline]] inline void normal_four(const FourNumbers& x, FourNumbers& mass, FourNumbers& ratio) {
  const FourNumbers nine = {9.0, 9.0, 9.0, 9.0}, last = {26.0, 26.0, 26.0, 26.0};    // e^{−26²/2} = 1e−147
  const FourNumbers held = last < x ? last : x, inside = nine < held ? nine : held;  // in this order NaN stays
  FourNumbers density = -0.5 * held * held;
  exp_four(density);
  const FourNumbers t = (inside - 3.5) / (inside + 3.5), t2 = t * t, t4 = t2 * t2, t8 = t4 * t4;
  const FourNumbers a = (0.10634515363370908 + t * -0.18713969878423228) + t2 * (0.12585525513140672 + t * -0.061639414142716765);
  const FourNumbers b = (0.019065537028668807 + t * -0.0015616578504589135) + t2 * (-0.0013807333102536625 + t * 0.00039219124704587026);
  const FourNumbers c = (0.00013238176355996424 + t * -5.658267734577255e-05) + t2 * (-1.666331961163364e-05 + t * 1.3218074414415403e-05);
  const FourNumbers d = (9.304038795177067e-06 + t * 2.433189675293586e-06) + t2 * 2.540901073710911e-07;
  mass = 1.0 - density * ((a + t4 * b) + t8 * (c + t4 * d));
  ratio = 0.39894228040143267794 * density / mass;
}

__attribute__((target("avx2"))) inline void normal_all_avx2(const double* x, size_t count, double* mass, double* ratio) {
  FourNumbers four, a, b;
  for (size_t i = 0; i < count; i += 4) {
    const size_t size = std::min<size_t>(count - i, 4) * sizeof(double);
    four = FourNumbers{};
    std::memcpy(&four, x + i, size);
    normal_four(four, a, b);
    std::memcpy(mass + i, &a, size);
    std::memcpy(ratio + i, &b, size);
  }
}
#endif

/// Φ(x) and φ(x)/Φ(x) of each number x ≥ 0, of the normal distribution; NaN stays NaN.
inline void normal_all(const double* x, size_t count, double* mass, double* ratio) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2")) return normal_all_avx2(x, count, mass, ratio);
#endif
  normal_all_plain(x, count, mass, ratio);
}

/// x where `on`, else 0, whatever x is: without the branch that compilers make of a choice and random masks mispredict.
inline double kept(double x, bool on) { return std::bit_cast<double>(std::bit_cast<uint64_t>(x) & (uint64_t{0} - static_cast<uint64_t>(on))); }

/// max(x, 0) and [x > 0], which compilers make branches of that random numbers mispredict.
inline double positive_part(double x) { return 0.5 * std::abs(x) + 0.5 * x; }
inline double is_positive(double x) { return 0.5 - std::copysign(0.5, 0.0 - x); }

/// Σ of numbers, in four sums that do not wait for each other.
inline double sum_all(const double* numbers, size_t count) {
  double a = 0.0, b = 0.0, c = 0.0, d = 0.0;
  size_t i = 0;
  for (; i + 4 <= count; i += 4) {
    a += numbers[i];
    b += numbers[i + 1];
    c += numbers[i + 2];
    d += numbers[i + 3];
  }
  for (; i < count; ++i) a += numbers[i];
  return (a + c) + (b + d);
}

/// The largest of numbers without NaN.
inline double top_of_all_plain(const double* numbers, size_t count) { return *std::max_element(numbers, numbers + count); }

#if defined(__x86_64__)
__attribute__((target("avx2"))) inline double top_of_all_avx2(const double* numbers, size_t count) {
  if (count < 4) return top_of_all_plain(numbers, count);
  FourNumbers top, next;
  std::memcpy(&top, numbers, sizeof top);
  for (size_t i = 4; i < count; i += 4) {
    std::memcpy(&next, numbers + std::min(i, count - 4), sizeof next);  // the last four overlap
    top = next > top ? next : top;
  }
  return std::max(std::max(top[0], top[1]), std::max(top[2], top[3]));
}
#endif

/// The largest of numbers, without branches that random ones mispredict; with NaN among them, any.
inline double top_of_all(const double* numbers, size_t count) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2")) return top_of_all_avx2(numbers, count);
#endif
  return top_of_all_plain(numbers, count);
}

}  // namespace htl
