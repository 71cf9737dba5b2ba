// SPDX-License-Identifier: Apache-2.0
/// @file runner.hpp
/// @brief Runs the cells that are not finished, some at a time.
#pragma once

#include "store.hpp"

#include <examples/htlnet/stop_request.hpp>

#include <vector>

namespace compare {

/// @brief What came of a list of cells.
struct RunReport {
  int64_t found = 0, made = 0;    ///< finished before, and now
  int64_t adopted = 0;            ///< of the cells with the first seed, those that tuning has trained already
  std::vector<std::string> lost;  ///< cells whose process died; the same command tries them again
  int stopped_by = 0;             ///< the signal that ended the run; 0 = none
};

/// @brief Trains each cell in a process of its own, which has the rows from this one without a copy: memory is measured for one cell alone, what one breaks
/// harms no other, and each has LibTorch's default generator to itself, so that results don't depend on the order, nor on `--jobs` where that leaves a cell the
/// same number of threads (docs/determinism.md); each cell's cost names its own.
///
/// This process must have had one thread only (at::set_num_threads(1) before all else): the threads of a pool are not there after a fork.
/// @param threads of all jobs together; each cell has its equal share, at least one
/// @throws c10::ValueError before anything is run if the folder holds one of the cells with another spec
RunReport run_cells(const Setup& setup, const Store& store, const std::vector<Cell>& cells, int64_t threads, const htlnet::StopRequest& stop);

/// @brief Chooses each kind's rates by its validation figure with the first seed, whose training is then kept as that cell. Kinds whose draws all failed keep
/// the given rates.
/// @param cells one for each kind, with the given rates; gets the chosen ones
/// @returns what came of the draws; rates are chosen only if none is missing
RunReport tune(const Setup& setup, const Store& store, std::vector<Cell>& cells, int64_t threads, const htlnet::StopRequest& stop);

}  // namespace compare
