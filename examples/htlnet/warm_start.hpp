// SPDX-License-Identifier: Apache-2.0
/// @file warm_start.hpp
/// @brief EarlierRun: the run that `--warm-start` names, as another one takes it over.
#pragma once

#include "model.hpp"

#include <htl/data/feature_map.hpp>
#include <htl/io/warm_start.hpp>

#include <filesystem>
#include <string>

namespace htlnet {

/// @brief What buckets, missing numbers and labels mean in a run.
struct RunStatistics {
  htl::FeatureMap features;
  htl::TaskSet tasks;

  /// @brief From features.json and tasks.json.
  /// @throws c10::ValueError naming the file that is missing or damaged
  static RunStatistics read(const std::filesystem::path& folder);
};

/// @brief A run with weights: the best epoch's and the optimizers' state then, or, where no epoch has ended yet, its newest checkpoint.
class EarlierRun {
 public:
  /// @brief Reads it.
  /// @throws c10::ValueError if the folder holds no run, or none with weights
  explicit EarlierRun(const std::filesystem::path& folder);

  /// @brief The maps from its model to another one, and what is to be said about them.
  htl::WarmStart map_to(const htl::FeatureMap& features, const htl::TaskSet& tasks, const ModelOptions& options) const;
  /// @brief By the names of the model.
  const htl::Named<torch::Tensor>& weights() const { return weights_; }
  /// @brief The optimizers' state by parameter; empty where the run has none that belongs to the weights.
  const htl::Named<torch::Tensor>& state() const { return state_; }

 private:
  void read_checkpoint(const std::filesystem::path& folder);

  ModelOptions options_;
  RunStatistics statistics_;
  htl::Named<torch::Tensor> weights_, state_;
  std::vector<std::string> notes_;
};

}  // namespace htlnet
