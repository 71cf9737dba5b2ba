// SPDX-License-Identifier: Apache-2.0
#include <ATen/ops/arange.h>
#include <htl/task/label_transform.hpp>

#include <cstdio>

int main() {
  const htl::ZScoreTransform fitted = htl::ZScoreTransform{}.fitted(at::arange(3, at::kDouble));
  std::printf("mean %.1f\n", fitted.mean);
  return fitted.mean == 1.0 ? 0 : 1;
}
