// SPDX-License-Identifier: Apache-2.0
#include <ATen/ops/zeros.h>
#include <htl/task/label_transform.hpp>

#include <cstdio>

double next_STATIC();
double next_SHARED();

int main() {
  const double mine = htl::ZScoreTransform{2.0, 1.0}.inverse(at::zeros({}, at::kDouble)).item<double>();
  std::printf("this version %.1f, the next one %.1f and %.1f\n", mine, next_STATIC(), next_SHARED());
  return mine == 2.0 && next_STATIC() == 102.0 && next_SHARED() == 102.0 ? 0 : 1;
}
