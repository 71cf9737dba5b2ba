// SPDX-License-Identifier: Apache-2.0
/// @file task_graph_json.hpp
/// @brief TaskGraphOptions as JSON: with the tasks and the weights, all that another process needs to build the same towers and transfer.
#pragma once

#include <htl/io/json.hpp>
#include <htl/transfer/task_graph.hpp>

namespace htl::inline v0_1_0 {

/// @brief The options as JSON, defaults too; of the label embeddings also what training alone uses. Generators are left out: they belong to a process.
///
/// `representation` is "first", "last" or the layer's index; `label.evaluation` is left out where the default follows from noise and hardness.
inline nlohmann::ordered_json to_json(const TaskGraphOptions& options) {
  using Json = nlohmann::ordered_json;
  const int64_t layer = options.representation();
  const LabelEmbeddingOptions& label = options.label();
  Json labels = {
      {"dim", label.dim()}, {"noise", to_string(label.noise())}, {"hardness", to_string(label.hardness())}, {"temperature", label.temperature().to_string()}};
  if (label.evaluation()) labels["evaluation"] = to_string(*label.evaluation());
  return {{"input_width", options.input_width()},
          {"numeric_width", options.numeric_width()},
          {"tower", options.tower()},
          {"dropout", options.dropout()},
          {"representation", layer == first_hidden  ? Json("first")
                             : layer == last_hidden ? Json("last")
                                                    : Json(layer)},
          {"transfer", to_string(options.transfer())},
          {"stop_gradient", to_string(options.stop_gradient())},
          {"fusion", to_string(options.fusion())},
          {"fusion_width", options.fusion_width()},
          {"label_fusion_width", options.label_fusion_width()},
          {"label", labels}};
}

/// @brief Options from what to_json() gave. What is left out has its default; only `input_width` must be there.
/// @throws c10::ValueError naming the key that is missing, unknown or of a wrong type, or a name that nothing has
inline TaskGraphOptions task_graph_options_from_json(const nlohmann::json& json) {
  const std::string where = "htl::task_graph_options_from_json";
  detail::JsonObject object(json, where);
  TaskGraphOptions options(object.integer("input_width"));
  if (object.has("numeric_width")) options.numeric_width(object.integer("numeric_width"));
  if (object.has("tower")) options.tower(object.integers("tower"));
  options.dropout(object.number_or("dropout", options.dropout()));
  if (object.has("representation") && json["representation"].is_string()) {
    const detail::Choices<int64_t> layers{{"first", first_hidden}, {"last", last_hidden}};
    options.representation(detail::choose(where + ", representation", object.text("representation"), layers));
  } else if (object.has("representation")) {
    options.representation(object.integer("representation"));
  }
  if (object.has("transfer")) options.transfer(transfer(object.text("transfer")));
  if (object.has("stop_gradient")) options.stop_gradient(stop_gradient(object.text("stop_gradient")));
  if (object.has("fusion")) options.fusion(fusion_kind(object.text("fusion")));
  if (object.has("fusion_width")) options.fusion_width(object.integer("fusion_width"));
  if (object.has("label_fusion_width")) options.label_fusion_width(object.integer("label_fusion_width"));
  if (object.has("label")) {
    detail::JsonObject label(object.at("label"), where + ", label");
    LabelEmbeddingOptions& made = options.label();
    if (label.has("dim")) made.dim(label.integer("dim"));
    if (label.has("noise")) made.noise(label_noise(label.text("noise")));
    if (label.has("hardness")) made.hardness(label_hardness(label.text("hardness")));
    if (label.has("temperature")) made.temperature(Temperature::parse(label.text("temperature")));
    if (label.has("evaluation")) made.evaluation(label_evaluation(label.text("evaluation")));
    label.finish();
  }
  object.finish();
  return options;
}

}  // namespace htl
