// SPDX-License-Identifier: Apache-2.0
/// @file task_set_json.hpp
/// @brief TaskSet as JSON: everything that a program needs to rebuild tasks, losses and fitted transforms in another process.
#pragma once

#include <htl/io/options_json.hpp>
#include <htl/loss/built_in_losses.hpp>
#include <htl/task/built_in_calibrators.hpp>
#include <htl/task/built_in_transforms.hpp>
#include <htl/task/task_set.hpp>

#include <functional>

namespace htl::inline v0_1_0 {

/// @brief How names in files become losses, transforms and calibrators; replace them to add your own, and fall back to the defaults for the others.
struct TaskSetReaders {
  /// A loss by its name and parameters.
  std::function<AnyLoss(std::string_view, const Options&)> loss = [](std::string_view name, const Options& parameters) {
    return loss_by_name(name, parameters);
  };
  /// An unfitted label transform by its name and parameters.
  std::function<AnyLabelTransform(std::string_view, const Options&)> transform = [](std::string_view name, const Options& parameters) {
    return label_transform(name, parameters);
  };
  /// An unfitted calibrator by its name and parameters.
  std::function<AnyCalibrator(std::string_view, const Options&)> calibrator = [](std::string_view name, const Options& parameters) {
    return built_in_calibrators().make(name, parameters);
  };
};

/// @brief The tasks as JSON. What equals the default is left out; numbers keep every bit.
///
/// Per task: name, kind, classes (multiclass), after, core, losses (name, weight, parameters), transform (name, parameters, statistics once fitted),
/// calibration (the same), observed_when, weight, mask_column, weight_column, context.
inline nlohmann::ordered_json to_json(const TaskSet& tasks) {
  using Json = nlohmann::ordered_json;
  Json list = Json::array();
  for (const TaskSpec& task : tasks) {
    Json json = {{"name", task.name()}, {"kind", to_string(task.kind())}};
    if (task.kind() == TaskKind::multiclass) json["classes"] = task.classes();
    if (task.parents()) json["after"] = *task.parents();
    if (task.is_core()) json["core"] = true;
    for (const WeightedLoss& weighted : task.losses()) {
      Json loss = {{"name", weighted.loss.name()}, {"weight", weighted.weight}};
      if (!weighted.loss.parameters().empty()) loss["parameters"] = to_json(weighted.loss.parameters());
      json["losses"].push_back(loss);
    }
    if (task.transform().name() != "none") {
      json["transform"] = {{"name", task.transform().name()}};
      if (!task.transform().parameters().empty()) json["transform"]["parameters"] = to_json(task.transform().parameters());
      if (task.transform().is_fitted()) json["transform"]["statistics"] = to_json(task.transform().statistics());
    }
    if (task.calibration()) {
      json["calibration"] = {{"name", task.calibration().name()}};
      if (!task.calibration().parameters().empty()) json["calibration"]["parameters"] = to_json(task.calibration().parameters());
      if (task.calibration().is_fitted()) json["calibration"]["statistics"] = to_json(task.calibration().statistics());
    }
    if (!task.observed_when().empty()) json["observed_when"] = task.observed_when();
    if (task.weight() != 1.0) json["weight"] = task.weight();
    if (!task.mask_column().empty()) json["mask_column"] = task.mask_column();
    if (!task.weight_column().empty()) json["weight_column"] = task.weight_column();
    if (!task.context().empty()) json["context"] = task.context();
    list.push_back(json);
  }
  return {{"format", "htl.task_set"}, {"version", 1}, {"tasks", list}};
}

namespace detail {

inline Options options_under(JsonObject& object, const std::string& key) {
  return object.has(key) ? options_from_json(object.at(key), object.where() + ", " + key) : Options();
}

template <class Unfitted>
Unfitted with_statistics_of(JsonObject& object, const Unfitted& unfitted) {
  Unfitted result = unfitted;
  if (object.has("statistics")) try {
      result = unfitted.with_statistics(options_under(object, "statistics"));
    } catch (const c10::Error& error) {
      HTL_CHECK(false, object.where(), ", statistics: ", error.what_without_backtrace());
    }
  object.finish();
  return result;
}

inline TaskSpec task_from_json(const nlohmann::json& json, const std::string& where, const TaskSetReaders& readers) {
  JsonObject object(json, where);
  const std::string name = object.text("name"), kind = object.text("kind");
  const std::vector<std::string> kinds = {"binary", "multiclass", "regression"};
  HTL_CHECK(std::find(kinds.begin(), kinds.end(), kind) != kinds.end(), where, ": unknown kind \"", kind, "\"; did you mean \"", nearest(kind, kinds), "\"?");
  TaskSpec task = kind == "binary" ? binary(name) : kind == "regression" ? regression(name) : multiclass(name, object.integer("classes"));
  if (object.has("after")) task = task.after(object.texts("after"));
  task = task.core(object.flag_or("core", false));
  if (object.has("losses"))
    for (const nlohmann::json& element : object.list("losses")) {
      JsonObject loss(element, where + ", losses");
      task = task.loss(readers.loss(loss.text("name"), options_under(loss, "parameters")), loss.number("weight"));
      loss.finish();
    }
  if (object.has("transform")) {
    JsonObject transform(object.at("transform"), where + ", transform");
    task = task.transform(with_statistics_of(transform, readers.transform(transform.text("name"), options_under(transform, "parameters"))));
  }
  if (object.has("calibration")) {
    JsonObject calibration(object.at("calibration"), where + ", calibration");
    task = task.calibration(with_statistics_of(calibration, readers.calibrator(calibration.text("name"), options_under(calibration, "parameters"))));
  }
  if (object.has("observed_when")) task = task.observed_when(object.text("observed_when"));
  task = task.weight(object.number_or("weight", 1.0));
  if (object.has("mask_column")) task = task.mask_column(object.text("mask_column"));
  if (object.has("weight_column")) task = task.weight_column(object.text("weight_column"));
  if (object.has("context")) task = task.context(object.texts("context"));
  object.finish();
  return task;
}

}  // namespace detail

/// @brief Tasks from what to_json() gave.
/// @param json the document
/// @param readers losses, transforms and calibrators by name
/// @throws c10::ValueError naming the key that is missing, unknown or of a wrong type, an unknown loss or transform, or what TaskSet refuses
inline TaskSet task_set_from_json(const nlohmann::json& json, const TaskSetReaders& readers = {}) {
  detail::JsonObject document(json, "htl::task_set_from_json");
  document.expect_format("htl.task_set", 1);
  std::vector<TaskSpec> tasks;
  for (const nlohmann::json& task : document.list("tasks"))
    tasks.push_back(detail::task_from_json(task, c10::str("htl::task_set_from_json: task ", tasks.size()), readers));
  document.finish();
  return TaskSet(std::move(tasks));
}

}  // namespace htl
