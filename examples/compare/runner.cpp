// SPDX-License-Identifier: Apache-2.0
#include "runner.hpp"

#include <examples/htlnet/evaluate.hpp>
#include <examples/htlnet/machine.hpp>
#include <examples/htlnet/progress.hpp>

#include <torch/utils.h>

#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <exception>
#include <iostream>
#include <map>

namespace compare {
namespace {

constexpr int stopped = 3;  // exit status of a cell that was asked to stop

/// The child's whole life.
[[noreturn]] void live_as_cell(const Setup& setup, const Store& store, const Cell& cell, int64_t threads, const htlnet::StopRequest& stop, pid_t parent) {
  int status = 1;
  try {
    torch::set_num_threads(static_cast<int>(threads));
    const auto result = run_cell(setup, cell, [&] { return stop.signal() != 0 || ::getppid() != parent; });
    if (result) store.keep(cell, *result);
    status = result ? 0 : stopped;
  } catch (const c10::Error& error) {
    std::cerr << "compare: " << cell.name() << ": " << error.what_without_backtrace() << "\n";
  } catch (const std::exception& error) {
    std::cerr << "compare: " << cell.name() << ": " << error.what() << "\n";
  }
  std::cerr.flush();
  ::_exit(status);  // not exit(): the parent's destructors are the parent's
}

/// What is said of a finished cell.
std::string sentence_of(const Cell& cell, const CellResult& result, double seconds) {
  char text[64];
  std::snprintf(text, sizeof(text), "%.1f s", seconds);
  std::string sentence = cell.name() + ": ";
  if (result.figures.contains("failed")) return sentence + "failed: " + result.figures["failed"].get<std::string>();
  if (result.figures.contains("selected_value") && result.figures["selected_value"].is_number()) {
    char value[64];
    std::snprintf(value, sizeof(value), " %.5f, ", result.figures["selected_value"].get<double>());
    sentence += "valid " + result.figures["selected_by"].get<std::string>() + value;
  }
  return sentence + text;
}

}  // namespace

RunReport run_cells(const Setup& setup, const Store& store, const std::vector<Cell>& cells, int64_t threads, const htlnet::StopRequest& stop) {
  struct Begun {
    const Cell* cell;
    std::chrono::steady_clock::time_point start;
  };
  RunReport report;
  std::vector<const Cell*> missing;
  for (const Cell& cell : cells) store.has(cell) ? void(++report.found) : missing.push_back(&cell);
  htlnet::Progress progress(setup.options.base.train.quiet);
  if (report.found > 0) progress.line(std::to_string(report.found) + " of " + std::to_string(cells.size()) + " cells are finished");
  std::map<pid_t, Begun> begun;
  size_t next = 0;
  bool told = false;
  const pid_t parent = ::getpid();
  htlnet::return_freed_memory();  // else a cell grows into what this process has freed, and seems to take less than it does
  while (next < missing.size() || !begun.empty()) {
    if (stop.signal() != 0 && !told) {
      told = true;
      for (const auto& [child, of] : begun) ::kill(child, SIGTERM);
    }
    if (told && begun.empty()) break;
    if (!told && next < missing.size() && static_cast<int64_t>(begun.size()) < setup.options.jobs) {
      std::cout.flush();
      std::cerr.flush();
      const pid_t child = ::fork();
      HTL_CHECK(child >= 0, "compare: can't start a process for a cell: ", std::strerror(errno));
      if (child == 0) live_as_cell(setup, store, *missing[next], std::max<int64_t>(1, threads / setup.options.jobs), stop, parent);
      begun[child] = {missing[next++], std::chrono::steady_clock::now()};
      continue;
    }
    int status = 0;
    const pid_t ended = ::waitpid(-1, &status, 0);
    HTL_CHECK(ended > 0 || errno == EINTR, "compare: can't wait for the process of a cell: ", std::strerror(errno),
              "; the program that started this one must not have it ignore SIGCHLD");
    if (ended < 0) continue;
    const auto found = begun.find(ended);
    if (found == begun.end()) continue;
    const Begun of = found->second;
    begun.erase(found);
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - of.start).count();
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
      ++report.made;
      progress.line("[" + std::to_string(report.found + report.made) + "/" + std::to_string(cells.size()) + "] " +
                    sentence_of(*of.cell, store.read(*of.cell, false), seconds));
    } else if (!(WIFEXITED(status) && WEXITSTATUS(status) == stopped)) {
      report.lost.push_back(of.cell->name() + (WIFSIGNALED(status) ? " (signal " + std::to_string(WTERMSIG(status)) + ")" : ""));
      std::cerr << "compare: lost the cell " << report.lost.back() << "\n";
    } else if (stop.signal() == 0) {
      report.lost.push_back(of.cell->name() + " (stopped alone)");
    }
  }
  report.stopped_by = stop.signal();
  return report;
}

RunReport tune(const Setup& setup, const Store& store, std::vector<Cell>& cells, int64_t threads, const htlnet::StopRequest& stop) {
  std::vector<Cell> draws;
  const std::vector<Rates> rates = draws_of(setup.options.rates(), setup.options.tune);
  for (const Cell& cell : cells) {
    if (cell.kind.is_bound()) continue;
    for (size_t d = 0; d < rates.size(); ++d) draws.push_back({cell.kind, 1, rates[d], static_cast<int64_t>(d)});
  }
  RunReport report = run_cells(setup, store, draws, threads, stop);
  if (report.stopped_by != 0 || !report.lost.empty()) return report;
  for (Cell& cell : cells) {
    double best = std::numeric_limits<double>::quiet_NaN();
    const Cell* chosen = nullptr;
    for (const Cell& draw : draws) {
      if (!(draw.kind == cell.kind)) continue;
      const nlohmann::ordered_json figures = store.read(draw, false).figures;
      if (figures.contains("failed") || !figures["selected_value"].is_number()) continue;
      htlnet::Selection selection;
      const std::string selected_by = figures["selected_by"];
      selection.metric = selected_by.substr(selected_by.find('.') + 1);
      const double value = figures["selected_value"];
      if (std::isfinite(best) && !selection.better(value, best)) continue;
      best = value;
      chosen = &draw;
    }
    if (!chosen) continue;
    cell.rates = chosen->rates;
    report.adopted += store.adopt(*chosen, {cell.kind, chosen->seed, cell.rates}, setup) ? 1 : 0;
    for (const Cell& draw : draws)
      if (draw.kind == cell.kind) store.forget_predictions(draw);
  }
  return report;
}

}  // namespace compare
