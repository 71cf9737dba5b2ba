// SPDX-License-Identifier: Apache-2.0
// The small program of most consumers: a fitted transform and its inverse.
#include <ATen/ops/arange.h>
#include <htl/task/label_transform.hpp>

#include <cstdio>

int main() {
  const htl::ZScoreTransform fitted = htl::ZScoreTransform{}.fitted(at::arange(3, at::kDouble));
  const double back = fitted.inverse(fitted.apply(at::arange(3, at::kDouble)))[2].item<double>();
  std::printf("mean %.1f, back %.1f\n", fitted.mean, back);
  return fitted.mean == 1.0 && back > 1.999 && back < 2.001 ? 0 : 1;
}
