// SPDX-License-Identifier: Apache-2.0
/// @file models.hpp
/// @brief All models of this folder by name.
#pragma once

#include "aitm.hpp"
#include "bottom_model.hpp"
#include "esmm.hpp"
#include "towers.hpp"
#include "trunk_model.hpp"

#include <htl/nn/adatt.hpp>
#include <htl/nn/cross_stitch.hpp>
#include <htl/nn/mixture_of_experts.hpp>
#include <htl/nn/progressive_layered_extraction.hpp>
#include <htl/transfer/relation_graph.hpp>

#include <functional>
#include <memory>
#include <type_traits>

namespace models {

/// A model by its name, and what it makes of the tasks.
struct NamedModel {
  std::function<std::shared_ptr<Model>(const ModelOptions&)> make;
  std::function<htl::TaskSet(const htl::TaskSet&)> tasks = [](const htl::TaskSet& given) { return given; };
};

namespace detail {

inline htl::MixtureOfExperts mixture(const ModelOptions& options) {
  return htl::MixtureOfExperts(htl::MixtureOfExpertsOptions(part_widths(options), options.tasks.size())
                                   .experts(options.experts)
                                   .expert(options.trunk)
                                   .gate_dropout(options.gate_dropout)
                                   .dropout(options.dropout)
                                   .generator(options.generator));
}
inline htl::ProgressiveLayeredExtraction extraction(const ModelOptions& options) {
  std::vector<htl::ExtractionLevel> levels;
  for (const int64_t width : options.trunk) levels.push_back({.expert = {width}});
  return htl::ProgressiveLayeredExtraction(htl::ProgressiveLayeredExtractionOptions(part_widths(options), options.tasks.size())
                                               .levels(levels)
                                               .gate_dropout(options.gate_dropout)
                                               .dropout(options.dropout)
                                               .generator(options.generator));
}
/// One layer a level.
inline std::vector<std::vector<int64_t>> layer_by_layer(const std::vector<int64_t>& widths) {
  std::vector<std::vector<int64_t>> levels;
  for (const int64_t width : widths) levels.push_back({width});
  return levels;
}
inline htl::AdaTT adaptive_fusion(const ModelOptions& options) {
  return htl::AdaTT(htl::AdaTTOptions(part_widths(options), options.tasks.size())
                        .levels(layer_by_layer(options.trunk))
                        .gate_dropout(options.gate_dropout)
                        .dropout(options.dropout)
                        .generator(options.generator));
}
inline htl::CrossStitch stitched(const ModelOptions& options) {
  return htl::CrossStitch(htl::CrossStitchOptions(part_widths(options), options.tasks.size())
                              .levels(layer_by_layer(options.trunk))
                              .dropout(options.dropout)
                              .generator(options.generator));
}
inline htl::TaskGraph<> towers_above(const ModelOptions& options) {
  return {options.tasks, htl::TaskGraphOptions(options.trunk.back())
                             .tower(options.tower_above_trunk)
                             .dropout(options.dropout)
                             .generator(options.generator)
                             .transfer(htl::Transfer::none)};
}
inline htl::RelationGraph relations_above(const ModelOptions& options) {
  return htl::RelationGraph(options.tasks, htl::RelationGraphOptions(options.trunk.back())
                                               .task({options.tower_above_trunk.front()})
                                               .relation({options.tower_above_trunk.back()})
                                               .dropout(options.dropout)
                                               .generator(options.generator));
}
template <class Top>
NamedModel on_bottom(Top (*top)(const ModelOptions&)) {
  return {[=](const ModelOptions& options) { return std::make_shared<BottomModel<Top>>(options, top(options)); }};
}
/// What tasks share of a trunk: experts that several of them read. Gates, and a task's own experts in the last level, are the task's: no method weighs them.
inline htl::Shared shared_in(htl::MixtureOfExperts& trunk) { return htl::shared(trunk->experts()); }
inline htl::Shared shared_in(htl::CrossStitch& trunk) { return htl::shared(trunk); }
template <class Trunk>
htl::Shared shared_in(Trunk& trunk) {
  constexpr bool owns_last = std::is_same_v<Trunk, htl::ProgressiveLayeredExtraction>;  // in AdaTT all tasks read all experts
  htl::Shared shared;
  const auto tasks = static_cast<size_t>(trunk->options.tasks());
  for (size_t level = 0; level < trunk->options.levels().size(); ++level)
    for (size_t task = owns_last && level + 1 == trunk->options.levels().size() ? tasks : 0; task <= tasks; ++task)
      if (const htl::ParallelMlp experts = trunk->experts(level, task); experts) shared.add(experts);
  return shared;
}
template <class Trunk>
NamedModel on_trunk(Trunk (*make)(const ModelOptions&), htl::Transfer transfer) {
  return {[=](const ModelOptions& options) {
    Trunk trunk = make(options);
    return std::make_shared<TrunkModel<Trunk>>(options, trunk, shared_in(trunk), transfer);
  }};
}

}  // namespace detail

/// All models; each fits any graph of tasks.
inline htl::Named<NamedModel> all_models() {
  using enum htl::Transfer;
  const auto towers = [](htl::Transfer transfer) { return [=](const ModelOptions& options) { return std::make_shared<TaskTowers>(options, transfer); }; };
  htl::Named<NamedModel> models;
  models.set("shared_embedding", {towers(none)});
  models.set("htlnet", {towers(both)});
  models.set("esmm", {towers(none), [](const htl::TaskSet& tasks) { return over_the_entire_space(tasks, EntireSpaceForm::esmm); }});
  models.set("escm2", {towers(none), [](const htl::TaskSet& tasks) { return over_the_entire_space(tasks, EntireSpaceForm::escm2); }});
  models.set("aitm", {[](const ModelOptions& options) { return std::make_shared<Aitm>(options); },
                      [](const htl::TaskSet& tasks) { return with_order_calibration(tasks); }});
  models.set("shared_bottom", detail::on_bottom(detail::towers_above));
  models.set("dbmtl", detail::on_bottom(detail::relations_above));
  models.set("mmoe", detail::on_trunk(detail::mixture, none));
  models.set("ple", detail::on_trunk(detail::extraction, none));
  models.set("adatt", detail::on_trunk(detail::adaptive_fusion, none));
  models.set("cross_stitch", detail::on_trunk(detail::stitched, none));
  models.set("htlnet_mmoe", detail::on_trunk(detail::mixture, both));
  models.set("htlnet_ple", detail::on_trunk(detail::extraction, both));
  models.set("htlnet_adatt", detail::on_trunk(detail::adaptive_fusion, both));
  return models;
}

}  // namespace models
