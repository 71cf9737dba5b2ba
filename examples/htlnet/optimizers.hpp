// SPDX-License-Identifier: Apache-2.0
/// @file optimizers.hpp
/// @brief The optimizers, schedules and the average of weights that training options ask for.
#pragma once

#include "options.hpp"

#include <htl/optim/lazy_adam.hpp>
#include <htl/optim/row_adagrad.hpp>
#include <htl/optim/schedule.hpp>
#include <htl/optim/weight_average.hpp>

#include <algorithm>
#include <memory>
#include <variant>
#include <vector>

namespace htlnet {

using RowOptimizer = std::variant<htl::RowAdagrad, htl::LazyAdam>;

inline RowOptimizer row_optimizer_of(const htl::RowTables& tables, const TrainOptions& options) {
  if (options.row_optimizer == "lazy_adam") return htl::LazyAdam(tables, {.lr = options.row_lr, .weight_decay = options.row_weight_decay});
  return htl::RowAdagrad(tables, {.lr = options.row_lr, .weight_decay = options.row_weight_decay, .elementwise = options.row_optimizer == "adagrad"});
}

/// @param steps of the whole run, with which a decay ends
inline htl::AnySchedule schedule_of(const TrainOptions& options, double rate, int64_t steps) {
  const int64_t rest = std::max<int64_t>(1, steps - 1 - options.warmup);
  if (options.decay == "linear") return htl::WarmUp{options.warmup, htl::LinearDecay{rate, rest, 0.0}};
  if (options.decay == "cosine") return htl::WarmUp{options.warmup, htl::CosineDecay{rate, rest, 0.0}};
  return htl::WarmUp{options.warmup, htl::ConstantRate{rate}};
}

/// @returns nothing without averaging
inline std::unique_ptr<htl::WeightAverage> average_of(const TrainOptions& options, const htl::RowTables& tables, const std::vector<at::Tensor>& parameters,
                                                      int64_t steps_per_epoch) {
  if (options.average == "none") return nullptr;
  if (options.average == "mean")
    return std::make_unique<htl::WeightAverage>(tables, parameters, htl::WeightAverageOptions{.decay = 0.0, .start = steps_per_epoch, .every = 1});
  return std::make_unique<htl::WeightAverage>(tables, parameters, htl::WeightAverageOptions{.decay = average_decay(options.average)});
}

}  // namespace htlnet
