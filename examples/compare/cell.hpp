// SPDX-License-Identifier: Apache-2.0
/// @file cell.hpp
/// @brief A cell of the grid: one model trained with one seed, its best epoch's metrics and test predictions, and what it cost.
#pragma once

#include "measure.hpp"

#include <functional>
#include <optional>

namespace compare {

/// @brief What a cell came to.
struct CellResult {
  nlohmann::ordered_json figures;  ///< best epoch, metrics, curve, cost; or `failed`: a sentence
  htl::Predictions test;           ///< of the test rows, float32; empty where it failed
};

/// @brief Trains a cell on as many threads as LibTorch has, with its default generator seeded by the cell's seed: the same cell gives the same bits.
///
/// Its figure memory_mb is what the process grew by at most, over what it had from the process before it: parameters, optimizers and batches, and the code
/// that it was the first to use.
/// @param is_asked_to_stop between two steps
/// @returns nothing if it was asked to stop; a refusal or a loss that is not finite is a result, `failed`
/// @throws c10::Error or std::bad_alloc where the memory did not suffice: that is no result
std::optional<CellResult> run_cell(const Setup& setup, const Cell& cell, const std::function<bool()>& is_asked_to_stop);

}  // namespace compare
