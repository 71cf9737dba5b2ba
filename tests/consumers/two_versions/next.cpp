// SPDX-License-Identifier: Apache-2.0
#include <ATen/ops/zeros.h>
#include <htl/task/label_transform.hpp>

double next_function();

double next_function() { return htl::ZScoreTransform{2.0, 1.0}.inverse(at::zeros({}, at::kDouble)).item<double>(); }
