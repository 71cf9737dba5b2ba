// SPDX-License-Identifier: Apache-2.0
// compare: models × adjusters × losses × balancers on one data set, with seeds, controls, statistics and a report. See compare --help.
#include "expression.hpp"
#include "report.hpp"
#include "runner.hpp"

#include <examples/htlnet/adjuster.hpp>
#include <examples/htlnet/data/load.hpp>
#include <examples/htlnet/evaluate.hpp>
#include <examples/htlnet/machine.hpp>

#include <htl/io/atomic_file.hpp>
#include <htl/loss/hybrid_loss.hpp>

#include <torch/types.h>
#include <torch/utils.h>

#include <iostream>

namespace compare {
namespace {

std::string title_of(const CompareOptions& options, const htlnet::Dataset& data) {
  const htlnet::DataOptions& of = options.base.data;
  return "compare: " + of.dataset + (of.dataset == "synthetic" ? " " + of.scenario : "") + ", " + std::to_string(data.train.rows()) + " training, " +
         std::to_string(data.valid.rows()) + " validation and " + std::to_string(data.test.rows()) + " test rows";
}

/// What the grid is of, for these data.
GridParts parts_of(const CompareOptions& options, const htlnet::Dataset& data) {
  GridParts parts{.models = options.models, .adjusters = options.adjusters, .losses = options.losses, .balancers = options.balancers, .tasks = {}};
  parts.has_core = !data.tasks.cores().empty();
  parts.is_synthetic = options.base.data.dataset == "synthetic";
  parts.has_core_regression = false;
  for (const htl::TaskSpec& task : data.tasks)
    parts.has_core_regression = parts.has_core_regression || (task.is_core() && task.kind() == htl::TaskKind::regression);
  if (!parts.has_core_regression) {
    HTL_CHECK(parts.losses == std::vector<std::string>{plain_loss} || parts.losses == std::vector<std::string>{as_the_data_say},
              "compare: --losses are for a core regression, and the data have none; leave it out");
    parts.losses = {as_the_data_say};
  }
  if (options.single_tasks) parts.tasks = data.tasks.names();
  return parts;
}

/// Everything that can be refused before a cell is trained.
void check(const CompareOptions& options, const GridParts& parts, const htlnet::Dataset& data, const std::vector<Kind>& kinds) {
  HTL_CHECK(data.test.rows() > 0, "compare: expected test rows, found none; the data or their split have none");
  HTL_CHECK(options.tune == 0 || data.valid.rows() > 0, "compare: --tune expects validation rows, found none");
  (void)htlnet::Selection::parse(options.base.train.select_by, data.tasks, data.groups);
  (void)group_column(options, data);
  std::vector<Kind> shown;
  for (const Kind& kind : kinds) {
    if (!kind.is_bound()) (void)tasks_of(data.tasks, kind);
    if (kind.task.empty()) shown.push_back(kind);
  }
  (void)reference_of(shown, options.reference);
  for (const std::string& adjuster : options.adjusters) {
    htlnet::ModelOptions model;
    model.adjuster = adjuster;
    htlnet::check_adjuster(model, data.tasks);
  }
  for (const std::string& loss : parts.losses) {  // once on all training rows, whose labels may be outside what it is for
    const htl::TaskSet tasks = tasks_of(data.tasks, {.model = "", .loss = loss}).fitted(data.train.labels());
    htl::TaskOutputs outputs;
    for (const htl::TaskSpec& task : tasks) outputs.set(task.name(), torch::zeros({data.train.rows(), task.output_width()}));
    (void)htl::HybridLoss(tasks)(outputs, data.train.labels());
  }
  if (options.score.empty()) return;
  std::vector<std::string> names;
  for (const htl::TaskSpec& task : data.tasks)
    if (task.kind() != htl::TaskKind::multiclass) names.push_back(task.name());
  const Expression score(options.score, names);
}

/// @returns the exit status where not all cells are there
int incomplete(const RunReport& report) {
  if (report.stopped_by != 0) {
    std::cerr << "compare: stopped; the finished cells are kept, and the same command goes on\n";
    return 128 + report.stopped_by;
  }
  std::cerr << "compare: " << report.lost.size() << " cells were lost; the same command tries them again\n";
  return 1;
}

int run(const CompareOptions& options) {
  htlnet::keep_freed_memory();
  const int64_t threads = options.base.train.threads > 0 ? options.base.train.threads : torch::get_num_threads();
  torch::set_num_threads(1);  // until the last cell is trained: see run_cells()
  htlnet::choose_matrix_backend(options.base.train.matrix_backend);
  htlnet::Progress progress(options.base.train.quiet);
  if (options.base.data.dataset == "kuairand") htlnet::warn_of_days(options.base.data, progress);
  progress.line(htlnet::loading(options.base.data));
  const htlnet::Dataset data = htlnet::load(options.base);
  const GridParts parts = parts_of(options, data);
  const std::vector<Kind> kinds = kinds_of(parts);
  check(options, parts, data, kinds);
  const Setup setup{options, data};
  const Store store(options, data);
  const htlnet::StopRequest stop;

  std::vector<Cell> chosen;
  for (const Kind& kind : kinds) chosen.push_back({kind, 0, options.rates()});
  if (options.tune > 0) {
    const RunReport tuned = tune(setup, store, chosen, threads, stop);
    if (tuned.stopped_by != 0 || !tuned.lost.empty()) return incomplete(tuned);
  }
  std::vector<Cell> cells;
  for (int64_t seed = 1; seed <= options.seeds; ++seed)  // seed by seed, so that an interrupted grid has something of every kind
    for (Cell cell : chosen) {
      cell.seed = cell.kind.is_bound() ? 0 : static_cast<uint64_t>(seed);
      if (seed == 1 || !cell.kind.is_bound()) cells.push_back(cell);
    }
  const RunReport report = run_cells(setup, store, cells, threads, stop);
  if (report.stopped_by != 0 || !report.lost.empty()) return incomplete(report);

  torch::set_num_threads(static_cast<int>(threads));
  progress.line("comparing " + std::to_string(cells.size()) + " cells …");
  const Summary summary = summarize(setup, store, kinds, cells);
  write_report(summary, title_of(options, data), options.output);
  std::cout << htl::read_file(store.file("results.md")) << "\n";
  std::cout << report.found << " cells were finished before, " << report.made << " are new; everything is in " << options.output << "\n";
  return 0;
}

}  // namespace
}  // namespace compare

int main(int argc, char** argv) {
  int exit_code = 0;
  const compare::CompareOptions options = compare::parse_compare_options(argc, argv, exit_code);
  if (options.models.empty()) return exit_code;
  try {
    return compare::run(options);
  } catch (const c10::Error& error) {
    const std::string sentence = error.what_without_backtrace();
    std::cerr << (sentence.starts_with("compare: ") || sentence.starts_with("htlnet: ") ? "" : "compare: ") << sentence << "\n";
  } catch (const std::bad_alloc&) {
    std::cerr << "compare: there is not enough memory; give fewer --rows\n";
  } catch (const std::exception& error) {
    std::cerr << "compare: " << error.what() << "\n";
  }
  return 1;
}
