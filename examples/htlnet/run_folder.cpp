// SPDX-License-Identifier: Apache-2.0
#include "run_folder.hpp"

#include "data/fingerprint.hpp"

#include <htl/io/feature_map_json.hpp>
#include <htl/io/task_graph_json.hpp>
#include <htl/io/task_set_json.hpp>
#include <htl/optim/dense_parameters.hpp>
#include <htl/version.hpp>

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

namespace htlnet {
namespace {

/// Options that a run may go on with other values of: they change no step. (The data may have moved: what they are is compared.)
constexpr std::array<const char*, 6> free_options = {"data", "schema", "threads", "quiet", "checkpoint-every", "keep-checkpoints"};

/// What another program needs beside the files that it names, to predict from the weights; docs/files.md explains it.
nlohmann::ordered_json manifest_of(const htl::FeatureMap& features, const htl::TaskSet& tasks, const HtlNet& net) {
  using Json = nlohmann::ordered_json;
  htl::TaskGraphOptions graph = net->graph->options;
  graph.label().evaluation(htl::LabelEmbedding(graph.label())->evaluation());  // as it is, not as a default that a reader must work out
  Json fields = Json::array(), order = Json::array(), dense = Json::array(), parents = Json::object(), tensors = Json::object();
  int64_t first_row = 0;
  const std::vector<int64_t> sizes = features.sizes();
  for (size_t f = 0; f < sizes.size(); ++f) {
    fields.push_back({{"name", htl::detail::bytes_to_json(features.fields()[f].name)}, {"first_row", first_row}, {"rows", sizes[f]}});
    first_row += sizes[f];
  }
  for (const int64_t t : tasks.order()) {
    order.push_back(tasks[t].name());
    parents[tasks[t].name()] = Json::array();
    for (const int64_t parent : tasks.parents(t)) parents[tasks[t].name()].push_back(tasks[parent].name());
  }
  for (const torch::Tensor& parameter : htl::dense_parameters(net))
    for (const auto& named : net->named_parameters())
      if (named.value().is_same(parameter)) dense.push_back(named.key());
  for (const auto& [name, tensor] : htl::module_state(*net)) tensors[name] = {{"shape", tensor.sizes().vec()}, {"type", c10::toString(tensor.scalar_type())}};
  return {{"format", "htl.manifest"},
          {"version", 1},
          {"library", c10::str(HTL_VERSION_MAJOR, ".", HTL_VERSION_MINOR, ".", HTL_VERSION_PATCH)},
          {"files", {{"weights", "model.safetensors"}, {"features", "features.json"}, {"tasks", "tasks.json"}}},
          {"model", htl::to_json(graph)},
          {"embedding", {{"dim", net->embedding->options.dim()}, {"pooling", "sum"}}},
          {"fields", fields},
          {"order", order},
          {"parents", parents},
          {"tensors", tensors},
          {"dense_parameters", dense}};
}

/// What TensorBoard shows of a line of metrics.jsonl, by the names of that: losses/TASK, cosines/TASK,TASK, valid/TASK/METRIC. Of an epoch's line nothing: its
/// last step has said it.
htl::Named<double> scalars_of(const nlohmann::json& line) {
  htl::Named<double> scalars;
  const auto add = [&](const std::string& group, const nlohmann::json& values) {
    for (const auto& [name, value] : values.items())
      if (value.is_number() && name != "rows") scalars.set(group + "/" + name, value.get<double>());
  };
  if (line.at("kind") == "evaluation")
    for (const auto& [task, metrics] : line.at("metrics").items()) add(line.at("split").get<std::string>() + "/" + task, metrics);
  if (line.at("kind") != "step") return scalars;
  for (const char* group : {"losses", "loss_weights", "norms", "weights", "cosines", "magnitude_similarity"})
    if (line.contains(group)) add(group, line[group]);
  for (const char* rate : {"row_lr", "dense_lr"}) scalars.set("rates/" + std::string(rate), line.at(rate).get<double>());
  for (const char* name : {"gradient_norm", "combined_norm", "conflict_rate", "condition_number", "fallbacks", "samples_per_second"})
    if (line.contains(name)) scalars.set(name, line[name].get<double>());
  return scalars;
}

void remove_file(const std::filesystem::path& path) {
  std::error_code error;
  std::filesystem::remove_all(path, error);
  HTL_CHECK(!error, "htlnet: can't remove \"", path.string(), "\" of the run before: ", error.message());
}

}  // namespace

RunFolder::RunFolder(const Options& options)
    : options_(options), path_(options.output), checkpoints_(path_ / "checkpoints", {.keep = options.train.keep_checkpoints}) {
  lock();
  const bool has_checkpoint = !checkpoints_.list().empty(), has_summary = std::filesystem::exists(file("summary.json"));
  if (options.resume) {
    if (has_checkpoint || has_summary) compare_options();
    finished_ = has_summary;
    goes_on_ = has_checkpoint;
    return;
  }
  if (options.overwrite) return;
  for (const char* saved : {"summary.json", "model.safetensors"})
    HTL_CHECK(!std::filesystem::exists(file(saved)), "htlnet: the folder \"", options.output, "\" holds the ", saved,
              " of an earlier run; give another --output, ", has_summary ? "" : "--resume to go on with that run, ", "or --overwrite to replace it");
  HTL_CHECK(!has_checkpoint, "htlnet: the folder \"", options.output,
            "\" holds checkpoints of an earlier run; give another --output, --resume to go on with that run, ", "or --overwrite to replace it");
}

RunFolder::~RunFolder() {
  if (lock_ >= 0) ::close(lock_);
}

/// A lock on the folder itself: it goes with the process, however that ends.
void RunFolder::lock() {
  lock_ = ::open(path_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (lock_ < 0) return;  // not there yet
  HTL_CHECK(::flock(lock_, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK, "htlnet: another process is training into \"", path_.string(),
            "\"; wait for it, or give another --output");
}

void RunFolder::compare_options() const {
  const nlohmann::ordered_json recorded = read_run_options(file("config.toml").string()).values;
  const auto differs = [&](const std::string& name) {
    if (std::find(free_options.begin(), free_options.end(), name) != free_options.end()) return;
    const auto in_run = recorded.find(name), given = options_.values.find(name);
    const std::string was = in_run == recorded.end() ? "none" : in_run->dump(), is = given == options_.values.end() ? "none" : given->dump();
    HTL_CHECK(was == is, "htlnet: --", name, " ", is, " contradicts the run in \"", path_.string(), "\", which has ", was,
              "; leave it out to go on with that run, or give another --output");
  };
  for (const auto& [name, value] : recorded.items()) differs(name);
  for (const auto& [name, value] : options_.values.items()) differs(name);
}

int64_t RunFolder::begin(const Dataset& data, const htl::TaskSet& tasks, const HtlNet& net, const htl::TrainingState& state,
                         const nlohmann::ordered_json& warm_start) {
  state_ = state;
  state_.add("metrics_size", metrics_size_).add("events_size", events_size_);
  fingerprint_ = fingerprint_of(data.train) + " " + fingerprint_of(data.valid);
  std::optional<htl::Checkpoint> found;
  if (options_.resume) found = checkpoints_.newest();
  if (!found) {
    write_new(data, tasks, net, warm_start);
    return 0;
  }
  const auto unchanged = [&](bool same, const char* what) {
    HTL_CHECK(same, "htlnet: the ", what, " are not those that the run in \"", path_.string(), "\" was begun with; give it the same data, or another --output");
  };
  unchanged(htl::read_json(file("features.json")) == nlohmann::json(htl::to_json(data.features)), "features of the training rows");
  nlohmann::json begun = htl::read_json(file("tasks.json"));
  for (nlohmann::json& task : begun.at("tasks"))  // a run that was stopped behind its training has fitted them already, and fits them again
    if (task.contains("calibration")) task["calibration"].erase("statistics");
  unchanged(begun == nlohmann::json(htl::to_json(tasks)), "tasks or their labels' statistics");
  const std::string* const rows = found->metadata.find("rows");
  unchanged(rows && *rows == fingerprint_, "training or validation rows");
  for (const std::string& sentence : found->damaged) warnings_.push_back(sentence + "; going on from the checkpoint before it");
  state_.load(found->tensors);
  htl::remove_stale_temporaries(path_);
  open_logs(metrics_size_, events_size_);
  return found->step;
}

/// Makes the folder with what is known before training. What another run left there goes first, so that a stopped run never shows its results.
void RunFolder::write_new(const Dataset& data, const htl::TaskSet& tasks, const HtlNet& net, const nlohmann::ordered_json& warm_start) {
  const std::string schema = options_.data.dataset == "csv" ? htl::read_file(options_.data.schema) : "";  // may be the one in this folder
  std::error_code error;
  std::filesystem::create_directories(path_, error);
  HTL_CHECK(!error, "htlnet: can't make the folder \"", path_.string(), "\": ", error.message());
  if (lock_ < 0) lock();
  for (const char* name : {"checkpoints", "summary.json", "model.safetensors", "optimizer.safetensors", "warm_start.json", "schema.toml"})
    remove_file(file(name));
  htl::remove_stale_temporaries(path_);
  htl::write_atomically(file("config.toml"), to_toml(options_.values));
  if (options_.data.dataset == "csv") htl::write_atomically(file("schema.toml"), schema);
  htl::write_json(file("features.json"), htl::to_json(data.features));
  htl::write_json(file("tasks.json"), htl::to_json(tasks));
  htl::write_json(file("manifest.json"), manifest_of(data.features, tasks, net));
  if (!warm_start.is_null()) htl::write_json(file("warm_start.json"), warm_start);
  open_logs(0, 0);
}

void RunFolder::open_logs(int64_t metrics_size, int64_t events_size) {
  const std::filesystem::path events = file("events");
  std::error_code error;
  std::filesystem::create_directories(events, error);
  HTL_CHECK(!error, "htlnet: can't make the folder \"", events.string(), "\": ", error.message());
  metrics_ = std::make_unique<htl::AppendFile>(file("metrics.jsonl"));
  metrics_->keep(metrics_size);
  events_ = std::make_unique<htl::EventFile>(events / "events.out.tfevents.htl");
  events_->keep(events_size);
}

void RunFolder::log(const nlohmann::json& line) {
  metrics_->append(line.dump() + "\n");
  events_->add(line.at("step").get<int64_t>(), scalars_of(line));
}

void RunFolder::checkpoint(int64_t step) {
  metrics_->sync();
  events_->sync();
  metrics_size_ = metrics_->size();
  events_size_ = events_->size();
  checkpoints_.save(step, state_, htl::Named<std::string>().set("rows", fingerprint_));
}

void RunFolder::finish(const nlohmann::ordered_json& summary) {
  metrics_->sync();
  events_->sync();
  htl::write_json(file("summary.json"), summary);
}

}  // namespace htlnet
