// SPDX-License-Identifier: Apache-2.0
/// @file report.hpp
/// @brief The files that people read: tables as Markdown and CSV, a report as one HTML file, and the numbers of its pictures as JSON.
#pragma once

#include "summary.hpp"

#include <filesystem>
#include <string>
#include <vector>

namespace compare {

/// @brief A table of texts; the first columns name the row.
struct Table {
  std::string title, note;
  std::vector<std::string> columns;
  std::vector<std::vector<std::string>> rows;
};

/// @brief Metrics, differences to the reference, the fused score, gain and cost.
std::vector<Table> tables_of(const Summary& summary);

std::string markdown_of(const Table& table);

/// @brief Writes results.md, results.csv (a line a kind and figure), cells.csv (a line a cell and figure), report.json (for scripts/plot_compare.py) and
/// report.html (pictures within it; it asks no network for anything).
/// @param title what was compared: the data set in words
void write_report(const Summary& summary, const std::string& title, const std::filesystem::path& folder);

}  // namespace compare
