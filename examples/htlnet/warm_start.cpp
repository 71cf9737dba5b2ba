// SPDX-License-Identifier: Apache-2.0
#include "warm_start.hpp"

#include <htl/io/checkpoint.hpp>
#include <htl/io/feature_map_json.hpp>
#include <htl/io/task_set_json.hpp>
#include <htl/io/warm_start_maps.hpp>

#include <optional>

namespace htlnet {
namespace {

htl::TaskGraphParts graph_parts(const htl::FeatureMap& features, const htl::TaskSet& tasks, const ModelOptions& options) {
  return {tasks, graph_options_of(options, features.size() * options.embedding_dim, static_cast<int64_t>(features.numeric().size())),
          htl::input_blocks(features, options.embedding_dim)};
}

ModelOptions model_of(const std::filesystem::path& folder) {
  HTL_CHECK(std::filesystem::exists(folder / "config.toml"), "htlnet: --warm-start expects the folder of a run, and \"", folder.string(),
            "\" has no config.toml; give the --output of an earlier htlnet train");
  return read_run_options((folder / "config.toml").string()).model;
}

}  // namespace

RunStatistics RunStatistics::read(const std::filesystem::path& folder) {
  return {htl::feature_map_from_json(htl::read_json(folder / "features.json")), htl::task_set_from_json(htl::read_json(folder / "tasks.json"))};
}

EarlierRun::EarlierRun(const std::filesystem::path& folder) : options_(model_of(folder)), statistics_(RunStatistics::read(folder)) {
  const std::filesystem::path model = folder / "model.safetensors", optimizer = folder / "optimizer.safetensors";
  if (!std::filesystem::exists(model)) {
    read_checkpoint(folder);
    return;
  }
  htl::TensorFile weights = htl::load_safetensors(model);
  weights_ = std::move(weights.tensors);
  if (!std::filesystem::exists(optimizer)) {
    notes_.push_back("\"" + folder.string() + "\" has no optimizer.safetensors: the optimizers begin anew");
    return;
  }
  htl::TensorFile state = htl::load_safetensors(optimizer);
  const std::string *const of_weights = weights.metadata.find("step"), *const of_state = state.metadata.find("step");
  if (of_weights && of_state && *of_weights == *of_state) {
    state_ = std::move(state.tensors);
  } else {
    notes_.push_back("optimizer.safetensors of \"" + folder.string() + "\" is of step " + (of_state ? *of_state : "?") + ", and its weights are of step " +
                     (of_weights ? *of_weights : "?") + ": the optimizers begin anew");
  }
}

// A checkpoint names the optimizers' state by table and by position; the manifest has the parameters' names.
void EarlierRun::read_checkpoint(const std::filesystem::path& folder) {
  const std::optional<htl::Checkpoint> found = htl::Checkpoints(folder / "checkpoints").newest();
  HTL_CHECK(found, "htlnet: --warm-start expects a run with weights, and \"", folder.string(),
            "\" has neither model.safetensors nor a checkpoint; let it finish an epoch");
  const nlohmann::json manifest = htl::read_json(folder / "manifest.json");
  const nlohmann::json dense = manifest.value("dense_parameters", nlohmann::json::array());
  std::vector<std::pair<std::string, torch::Tensor>> weights, state;
  for (const auto& [name, tensor] : found->tensors) {
    const size_t dot = name.find('.'), last = name.rfind('.');
    const std::string part = name.substr(0, dot), rest = dot == std::string::npos ? "" : name.substr(dot + 1);
    if (part == "model" && manifest.at("tensors").contains(rest)) weights.emplace_back(rest, tensor);
    if (part == "rows") state.emplace_back("embedding.weight" + name.substr(last), tensor);
    int64_t position = 0;
    if (part == "dense" && htl::parse_integer(name.substr(dot + 1, last - dot - 1), position) && position < static_cast<int64_t>(dense.size()))
      state.emplace_back(dense[static_cast<size_t>(position)].get<std::string>() + name.substr(last), tensor);
  }
  weights_ = htl::Named<torch::Tensor>(std::move(weights));
  state_ = htl::Named<torch::Tensor>(std::move(state));
  notes_.push_back("no epoch of \"" + folder.string() + "\" has ended: this is its checkpoint of step " + std::to_string(found->step) + ", not averaged");
}

htl::WarmStart EarlierRun::map_to(const htl::FeatureMap& features, const htl::TaskSet& tasks, const ModelOptions& options) const {
  htl::WarmStart start;
  for (const std::string& sentence : notes_) start.note(sentence);
  htl::map_vocabularies(start, "embedding.weight", statistics_.features, features);
  htl::map_task_graph(start, "graph", graph_parts(statistics_.features, statistics_.tasks, options_), graph_parts(features, tasks, options));
  return start;
}

}  // namespace htlnet
