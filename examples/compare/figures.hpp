// SPDX-License-Identifier: Apache-2.0
/// @file figures.hpp
/// @brief All figures of a summary for other programs: as CSV and JSON.
#pragma once

#include "summary.hpp"

#include <string>

namespace compare {

/// @brief A line a kind and figure, with the mean and the differences; those of a whole kind (gain, cost, best epoch) have no task.
std::string results_csv(const Summary& summary);

/// @brief A line a cell and figure.
std::string cells_csv(const Summary& summary);

/// @brief The rows of the tables with all their figures, by seed too; null where a number is not defined.
nlohmann::ordered_json to_json(const Summary& summary);

}  // namespace compare
