// SPDX-License-Identifier: Apache-2.0
/// @file models.hpp
/// @brief All models of this folder by name.
#pragma once

#include "aitm.hpp"
#include "dbmtl.hpp"
#include "esmm.hpp"
#include "shared_bottom.hpp"
#include "towers.hpp"
#include "trunk_model.hpp"

#include <htl/nn/adatt.hpp>
#include <htl/nn/cross_stitch.hpp>
#include <htl/nn/mixture_of_experts.hpp>
#include <htl/nn/progressive_layered_extraction.hpp>

#include <functional>
#include <memory>

namespace models {

/// A model by its name, and what it makes of the tasks.
struct NamedModel {
  std::function<std::shared_ptr<Model>(const ModelOptions&)> make;
  std::function<htl::TaskSet(const htl::TaskSet&)> tasks = [](const htl::TaskSet& given) { return given; };
};

namespace detail {

/// The trunks before their model is there: what stands below them is an embedding of every field, and the numbers.
inline std::vector<int64_t> inputs_of(const ModelOptions& options) {
  std::vector<int64_t> widths{static_cast<int64_t>(options.fields.sizes().size()) * options.fields.dim()};
  if (options.numeric_width > 0) widths.push_back(options.numeric_width);
  return widths;
}
inline htl::MixtureOfExperts mixture(const ModelOptions& options) {
  return htl::MixtureOfExperts(htl::MixtureOfExpertsOptions(inputs_of(options), options.tasks.size())
                                   .experts(options.experts)
                                   .expert(options.trunk)
                                   .gate_dropout(options.gate_dropout)
                                   .dropout(options.dropout)
                                   .generator(options.generator));
}
inline htl::ProgressiveLayeredExtraction extraction(const ModelOptions& options) {
  std::vector<htl::ExtractionLevel> levels;
  for (const int64_t width : options.trunk) levels.push_back({.expert = {width}});
  return htl::ProgressiveLayeredExtraction(htl::ProgressiveLayeredExtractionOptions(inputs_of(options), options.tasks.size())
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
  return htl::AdaTT(htl::AdaTTOptions(inputs_of(options), options.tasks.size())
                        .levels(layer_by_layer(options.trunk))
                        .gate_dropout(options.gate_dropout)
                        .dropout(options.dropout)
                        .generator(options.generator));
}
inline htl::CrossStitch stitched(const ModelOptions& options) {
  return htl::CrossStitch(htl::CrossStitchOptions(inputs_of(options), options.tasks.size())
                              .levels(layer_by_layer(options.trunk))
                              .dropout(options.dropout)
                              .generator(options.generator));
}
template <class Trunk>
NamedModel on_trunk(Trunk (*trunk)(const ModelOptions&), htl::Transfer transfer) {
  return {[=](const ModelOptions& options) { return std::make_shared<TrunkModel<Trunk>>(options, trunk(options), transfer); }};
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
  models.set("shared_bottom", {[](const ModelOptions& options) { return std::make_shared<SharedBottom>(options); }});
  models.set("dbmtl", {[](const ModelOptions& options) { return std::make_shared<Dbmtl>(options); }});
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
