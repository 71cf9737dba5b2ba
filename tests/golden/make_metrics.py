"""Writes tests/golden/metrics.hpp: metrics of small tied and weighted data by scikit-learn 1.9.1 and scipy 1.17.1 (numpy 2.4.6).

python3 tests/golden/make_metrics.py > tests/golden/metrics.hpp
"""
import textwrap

import numpy as np
from scipy.stats import spearmanr
from sklearn.metrics import log_loss, mean_absolute_error, mean_squared_error, roc_auc_score


def row(values):
    return "{" + ", ".join(repr(float(value)) for value in values) + "}"


def wrapped(text):
    return textwrap.fill(text, 150, initial_indent="    ", subsequent_indent="     ")


print("""// SPDX-License-Identifier: Apache-2.0
/// @file metrics.hpp
/// @brief Metrics by scikit-learn 1.9.1 and scipy 1.17.1; written by make_metrics.py, not by hand.
#pragma once

#include <vector>

namespace htl::golden {

/// @brief One data set and what other implementations make of it. Weights are whole numbers; plain figures ignore them.
struct MetricCase {
  std::vector<double> probability, event, amount, weight;
  double auc, weighted_auc, log_loss, weighted_log_loss, spearman, weighted_spearman, weighted_rmse, weighted_mae;
};

// clang-format off
inline const std::vector<MetricCase> metric_cases = {""")
random = np.random.default_rng(20240601)
for n, levels in [(5, 3), (8, 4), (12, 3), (12, 100), (20, 5), (30, 4), (30, 1000), (40, 7)]:
    p = (random.integers(1, levels, n) + random.random(n) * (levels > 50)) / (levels + 1)
    y = (random.random(n) < 0.3 + 0.4 * p).astype(float)
    y[:2] = [0, 1]
    amount = np.floor(np.exp(random.normal(size=n) + p) * (random.random(n) < 0.7) * 4) / 4
    w = random.integers(1, 4, n).astype(float)
    copies = np.repeat(np.arange(n), w.astype(int))
    print(wrapped("{" + ", ".join(map(row, [p, y, amount, w])) + ", " + ", ".join(repr(float(v)) for v in [
        roc_auc_score(y, p), roc_auc_score(y, p, sample_weight=w), log_loss(y, p), log_loss(y, p, sample_weight=w),
        spearmanr(p, amount).statistic, spearmanr(p[copies], amount[copies]).statistic,
        mean_squared_error(amount, p, sample_weight=w) ** 0.5, mean_absolute_error(amount, p, sample_weight=w)]) + "},"))
print("""};

}  // namespace htl::golden""")
