// SPDX-License-Identifier: Apache-2.0
/// @file aitm.hpp
/// @brief Aitm: towers in a chain of conversions, each of which attends to what the one before hands over (Xi et al., KDD 2021).
#pragma once

#include "model.hpp"

#include <htl/loss/binary_cross_entropy.hpp>
#include <htl/loss/order_calibration.hpp>
#include <htl/transfer/adaptive_information_transfer.hpp>

namespace models {

/// AITM on any graph of tasks. Later losses reach earlier towers: the walk of htl::backward sees it and takes the passes that it needs.
class Aitm final : public Model {
 public:
  explicit Aitm(const ModelOptions& options)
      : Model(options),
        towers(register_module("towers", htl::AdaptiveInformationTransfer(options.tasks, htl::AdaptiveInformationTransferOptions(options.inputs.width())
                                                                                             .numeric_width(options.inputs.numeric_width)
                                                                                             .tower(options.tower)
                                                                                             .dropout(options.dropout)
                                                                                             .generator(options.generator)))) {}
  htl::TaskOutputs forward(const htl::Batch& batch) override { return towers->forward(views_of(batch), inputs->numbers(batch)); }

  htl::AdaptiveInformationTransfer towers{nullptr};
};

/// The tasks with AITM's calibrator: a later event is not likelier than one that must come before it. Each binary task that directly follows binary ones
/// gets it beside its own loss, for those whose labels are of the same rows: a conditional probability may well exceed that of the condition.
inline htl::TaskSet with_order_calibration(const htl::TaskSet& tasks, double weight = 0.6) {
  std::vector<htl::TaskSpec> specs(tasks.begin(), tasks.end());
  for (int64_t t = 0; t < tasks.size(); ++t) {
    htl::TaskSpec& task = specs[static_cast<size_t>(t)];
    std::vector<std::string> before;
    for (const int64_t parent : tasks.parents(t))
      if (tasks[parent].kind() == htl::TaskKind::binary && tasks[parent].observed_when() == task.observed_when()) before.push_back(tasks[parent].name());
    if (task.kind() != htl::TaskKind::binary || before.empty()) continue;
    if (task.losses().empty()) task = task.loss(htl::BinaryCrossEntropy{});
    task = task.loss(htl::OrderCalibration(htl::OrderCalibrationOptions{.after = before}), weight);
  }
  return htl::TaskSet(std::move(specs));
}

}  // namespace models
