// SPDX-License-Identifier: Apache-2.0
/// @file store.hpp
/// @brief Store: the folder of --output, in which every finished cell is kept.
#pragma once

#include "cell.hpp"

#include <filesystem>
#include <string>

namespace compare {

/// @brief DIR/cells/NAME/ and DIR/tuning/NAME/: predictions.safetensors, then cell.json; where that is, the cell is finished. A cell is known by its spec:
/// kind, seed, rates, options, tasks, and the checksums of features and rows.
class Store {
 public:
  /// @brief Makes the folder, and locks it against a second process for as long as this lives, and the cells that it has begun.
  /// @throws c10::ValueError if it can't be made, or another process has it
  Store(const CompareOptions& options, const htlnet::Dataset& data);
  ~Store();
  Store(const Store&) = delete;
  Store& operator=(const Store&) = delete;

  /// @brief Whether a cell is finished.
  /// @throws c10::ValueError naming the first difference if the folder holds that cell with another spec
  bool has(const Cell& cell) const;
  /// @brief Keeps a finished cell.
  void keep(const Cell& cell, const CellResult& result) const;
  /// @brief Takes a draw of tuning for the cell that would be the same training, where its predictions are still there and the cell is not finished.
  /// @returns whether it did
  bool adopt(const Cell& draw, const Cell& cell, const Setup& setup) const;
  /// @brief Removes the predictions of a draw that nothing needs any more.
  void forget_predictions(const Cell& cell) const;
  /// @brief Reads a finished cell.
  /// @param with_predictions otherwise `test` is empty
  CellResult read(const Cell& cell, bool with_predictions) const;
  /// @brief A file of the folder.
  std::filesystem::path file(const char* name) const { return path_ / name; }

 private:
  std::filesystem::path folder_of(const Cell& cell) const { return path_ / (cell.draw < 0 ? "cells" : "tuning") / cell.name(); }
  nlohmann::ordered_json spec_of(const Cell& cell) const;

  const CompareOptions& options_;
  htl::TaskSet tasks_;
  std::filesystem::path path_;
  std::string group_, features_, fingerprint_;  // the last two are checksums: of the feature map, of training, validation and test rows
  int lock_ = -1;
};

}  // namespace compare
