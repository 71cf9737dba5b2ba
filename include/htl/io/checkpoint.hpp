// SPDX-License-Identifier: Apache-2.0
/// @file checkpoint.hpp
/// @brief Checkpoints: a folder of states of one run, each whole and checksummed, the last K kept.
#pragma once

#include <htl/io/training_state.hpp>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief Settings of Checkpoints.
struct CheckpointsOptions {
  int64_t keep = 2;  ///< how many are kept, ≥ 1; with two, a damaged newest one leaves another
};

/// @brief One state that was read.
struct Checkpoint {
  int64_t step = 0;                       ///< what it was saved as
  std::filesystem::path path;             ///< its file
  Named<at::Tensor> tensors;              ///< for TrainingState::load()
  Named<std::string> metadata;            ///< the texts that were saved with it
  std::vector<std::string> damaged = {};  ///< a sentence for every newer file that can't be read
};

/// @brief A folder of checkpoints: FOLDER/step-000000000123.safetensors, newest last. One writer at a time.
///
/// save() writes beside, makes durable, then takes the name, and only then removes older ones: whenever the process is killed, there is a whole checkpoint, or
/// none was finished yet. Any program that reads safetensors reads them. **Cost.** one pass over the state; peak memory is not raised on the CPU.
class Checkpoints {
 public:
  /// @brief A folder that is made with the first save().
  /// @throws c10::ValueError unless keep ≥ 1
  explicit Checkpoints(std::filesystem::path folder, CheckpointsOptions options = {}) : folder_(std::move(folder)), options_(options) {
    HTL_CHECK(options.keep >= 1, "htl::Checkpoints: expected to keep at least 1, got ", options.keep);
  }

  /// @brief Saves a state, and removes all but the last `keep`.
  /// @param step ≥ 0; a checkpoint of the same step is replaced
  /// @param state what to save
  /// @param metadata texts to keep with it, for checks before load(): options, fingerprints of the data
  /// @throws c10::ValueError if it can't be written (the folder, a full disk); what was there before is then untouched
  void save(int64_t step, const TrainingState& state, Named<std::string> metadata = {}) const {
    HTL_CHECK(step >= 0 && step <= last_step, "htl::Checkpoints: expected a step in [0, ", last_step, "], got ", step);
    std::error_code error;
    std::filesystem::create_directories(folder_, error);
    HTL_CHECK(!error, "htl::Checkpoints: can't make the folder \"", folder_.string(), "\": ", error.message());
    remove_stale_temporaries(folder_);
    metadata.set("format", format).set("version", std::to_string(version));
    save_safetensors(path_of(step), {state.tensors(), std::move(metadata)});
    const std::vector<std::pair<int64_t, std::filesystem::path>> all = list();
    for (size_t i = static_cast<size_t>(options_.keep); i < all.size(); ++i) std::filesystem::remove(all[i].second, error);
  }

  /// @brief The newest one that is whole; nothing if there is none at all.
  /// @throws c10::ValueError if there are some and all are damaged (with the reason of each), or if the newest is of a newer version of the format
  std::optional<Checkpoint> newest() const {
    std::vector<std::string> damaged;
    for (const auto& [step, path] : list()) {
      TensorFile content;
      try {
        content = load_safetensors(path);
      } catch (const c10::ValueError& error) {
        damaged.emplace_back(error.what_without_backtrace());
        continue;
      }
      if (!content.is_checked) {
        damaged.push_back("htl::Checkpoints: \"" + path.string() + "\" has no checksum; it is damaged, or not a checkpoint");
        continue;
      }
      check_format(path, content.metadata);
      return Checkpoint{step, path, std::move(content.tensors), std::move(content.metadata), std::move(damaged)};
    }
    std::string reasons;
    for (const std::string& sentence : damaged) reasons += "\n  " + sentence;
    HTL_CHECK(damaged.empty(), "htl::Checkpoints: none of the ", damaged.size(), " checkpoints in \"", folder_.string(),
              "\" can be read; start anew in another folder:", reasons);
    return std::nullopt;
  }

  /// @brief Step and path of every checkpoint in the folder, newest first.
  std::vector<std::pair<int64_t, std::filesystem::path>> list() const {
    std::vector<std::pair<int64_t, std::filesystem::path>> found;
    std::error_code error;
    for (const auto& entry : std::filesystem::directory_iterator(folder_, error)) {
      const std::string name = entry.path().filename().string();
      const bool fits = name.size() == name_of(0).size() && name.starts_with(prefix) && name.ends_with(suffix);
      const std::string digits = fits ? name.substr(prefix.size(), name.size() - prefix.size() - suffix.size()) : "";
      if (fits && digits.find_first_not_of("0123456789") == std::string::npos) found.emplace_back(std::stoll(digits), entry.path());
    }
    HTL_CHECK(!error || error == std::errc::no_such_file_or_directory, "htl::Checkpoints: can't read the folder \"", folder_.string(), "\": ", error.message());
    std::sort(found.rbegin(), found.rend());
    return found;
  }

  /// @brief The folder.
  const std::filesystem::path& folder() const { return folder_; }

 private:
  static constexpr const char* format = "htl.checkpoint";
  static constexpr int64_t version = 1, last_step = 999'999'999'999;
  static constexpr std::string_view prefix = "step-", suffix = ".safetensors";

  static std::string name_of(int64_t step) {
    std::string digits = std::to_string(step);
    return std::string(prefix) + std::string(12 - digits.size(), '0') + digits + std::string(suffix);
  }
  std::filesystem::path path_of(int64_t step) const { return folder_ / name_of(step); }
  static void check_format(const std::filesystem::path& path, const Named<std::string>& metadata) {
    const std::string *found = metadata.find("format"), *number = metadata.find("version");
    HTL_CHECK(found && *found == format && number, "htl::Checkpoints: \"", path.string(), "\" is not a checkpoint: expected the metadata format \"", format,
              "\" and a version; take it out of the folder");
    HTL_CHECK(*number == std::to_string(version), "htl::Checkpoints: \"", path.string(), "\" has version ", *number, " of the format, expected ", version,
              "; it was written by a newer library: use that one");
  }

  std::filesystem::path folder_;
  CheckpointsOptions options_;
};

}  // namespace htl
