// SPDX-License-Identifier: Apache-2.0
/// @file run_folder.hpp
/// @brief RunFolder: the files of one run, written so that a run that is killed at any moment can go on as if it had not been.
#pragma once

#include "data/dataset.hpp"
#include "model.hpp"

#include <htl/io/append_file.hpp>
#include <htl/io/checkpoint.hpp>
#include <htl/io/event_file.hpp>

#include <filesystem>
#include <memory>
#include <optional>
#include <string>

namespace htlnet {

/// @brief The folder of `--output`, locked against a second process for as long as this lives.
///
/// config.toml, schema.toml, features.json, tasks.json, manifest.json: what is known before training. metrics.jsonl and events/: grow, and hold the same for
/// programs and for TensorBoard. model.safetensors: the best epoch's weights; optimizer.safetensors: the optimizers' state then. warm_start.json: what an
/// earlier run gave. checkpoints/: what `--resume` goes on from. summary.json: the last file; where it is, the run is finished.
class RunFolder {
 public:
  /// @brief Looks at the folder, and changes nothing: refuses one that holds another run, unless options say what to do with that.
  /// @throws c10::ValueError with a sentence: another run, another process, options that contradict those of the run to go on with
  explicit RunFolder(const Options& options);
  ~RunFolder();
  RunFolder(const RunFolder&) = delete;
  RunFolder& operator=(const RunFolder&) = delete;

  /// @brief Whether `--resume` found a run that came to its end.
  bool is_finished() const { return finished_; }
  /// @brief Whether `--resume` found a checkpoint, which begin() goes on from.
  bool goes_on() const { return goes_on_; }
  /// @brief Begins the run, or goes on with it where `--resume` finds a checkpoint.
  /// @param net for the manifest
  /// @param state everything that training remembers; loaded where there is a checkpoint
  /// @param warm_start what to_json() says of a warm start; null = a fresh model
  /// @returns the step to go on from; 0 = anew
  int64_t begin(const Dataset& data, const htl::TaskSet& tasks, const HtlNet& net, const htl::TrainingState& state, const nlohmann::ordered_json& warm_start);
  /// @brief Adds a line to metrics.jsonl, and the scalars of a step or an evaluation to the events.
  void log(const nlohmann::json& line);
  /// @brief Saves a checkpoint of the state that begin() was given.
  void checkpoint(int64_t step);
  /// @brief Ends the run.
  void finish(const nlohmann::ordered_json& summary);
  /// @brief A file of the folder.
  std::filesystem::path file(const char* name) const { return path_ / name; }
  /// @brief Sentences for people, about what begin() found.
  const std::vector<std::string>& warnings() const { return warnings_; }

 private:
  void lock();
  void compare_options() const;
  void write_new(const Dataset& data, const htl::TaskSet& tasks, const HtlNet& net, const nlohmann::ordered_json& warm_start);
  void open_logs(int64_t metrics_size, int64_t events_size);

  const Options& options_;
  std::filesystem::path path_;
  htl::Checkpoints checkpoints_;
  std::vector<std::string> warnings_;
  std::unique_ptr<htl::AppendFile> metrics_;
  std::unique_ptr<htl::EventFile> events_;
  int64_t metrics_size_ = 0, events_size_ = 0;  // at the last checkpoint
  std::string fingerprint_;                     // of the data
  htl::TrainingState state_;
  int lock_ = -1;
  bool finished_ = false, goes_on_ = false;
};

}  // namespace htlnet
