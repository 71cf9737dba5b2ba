// SPDX-License-Identifier: Apache-2.0
// compare: models × adjusters × losses × balancers on one data set, with seeds, controls, statistics and a report. See compare --help.
#include "expression.hpp"
#include "inputs.hpp"
#include "report.hpp"
#include "runner.hpp"

#include <examples/htlnet/adjuster.hpp>
#include <examples/htlnet/data/load.hpp>
#include <examples/htlnet/evaluate.hpp>
#include <examples/htlnet/machine.hpp>
#include <examples/htlnet/memory.hpp>

#include <htl/io/atomic_file.hpp>
#include <htl/loss/hybrid_loss.hpp>

#include <torch/types.h>
#include <torch/utils.h>

#include <iostream>
#include <optional>
#include <utility>

namespace compare {
namespace {

std::string title_of(const CompareOptions& options, const htlnet::Dataset& data) {
  const htlnet::DataOptions& of = options.base.data;
  return "compare: " + of.dataset + (of.dataset == "synthetic" ? " " + of.scenario : "") + ", " + std::to_string(data.train.rows()) + " training, " +
         std::to_string(data.valid.rows()) + " validation and " + std::to_string(data.test.rows()) + " test rows";
}

/// Where no loss is named: the one that others are compared with, or the data's own where theirs is another.
std::string default_loss(const htl::TaskSet& tasks) {
  for (const htl::TaskSpec& task : tasks)
    if (task.is_core() && task.kind() == htl::TaskKind::regression && (!task.losses().empty() || task.transform().name() != "z_score")) return as_the_data_say;
  return plain_loss;
}

/// What the grid is of, for these data.
GridParts parts_of(const CompareOptions& options, const htlnet::Dataset& data) {
  GridParts parts{.models = options.models, .adjusters = options.adjusters, .losses = options.losses, .balancers = options.balancers, .tasks = {}};
  parts.has_core = !data.tasks.cores().empty();
  parts.is_synthetic = options.base.data.dataset == "synthetic";
  parts.predictions = options.predictions.names();
  if (parts.losses.empty()) parts.losses = {default_loss(data.tasks)};
  parts.has_core_regression = false;
  for (const htl::TaskSpec& task : data.tasks)
    parts.has_core_regression = parts.has_core_regression || (task.is_core() && task.kind() == htl::TaskKind::regression);
  if (!parts.has_core_regression) {
    HTL_CHECK(options.losses.empty() || parts.losses == std::vector<std::string>{as_the_data_say},
              "compare: --losses are for a core regression, and the data have none; leave it out");
    parts.losses = {as_the_data_say};
  }
  if (options.single_tasks) parts.tasks = data.tasks.names();
  return parts;
}

/// A loss on all training rows, whose labels may be outside what it is for; in slices, since some losses want a wide output of each row.
void check_loss(const std::string& loss, const htlnet::Dataset& data) {
  constexpr int64_t slice = 65536;
  const htl::TaskSet tasks = tasks_of(data.tasks, {.model = "", .loss = loss}).fitted(data.train.labels());
  const htl::HybridLoss all(tasks);
  for (int64_t begin = 0; begin < data.train.rows(); begin += slice) {
    const htl::TableData rows = data.train.slice(begin, std::min(begin + slice, data.train.rows()));
    htl::TaskOutputs outputs;
    for (const htl::TaskSpec& task : tasks) outputs.set(task.name(), torch::zeros({rows.rows(), task.output_width()}));
    (void)all(outputs, rows.labels());
  }
}

/// Predictions that were made outside: whether they are there, fit the rows, and can be measured.
void check_predictions(const Setup& setup, const std::string& name) {
  try {
    (void)measure_test(setup, Kind::bound(name), bound_predictions(setup, name));
  } catch (const c10::Error& error) {
    const std::string sentence = error.what_without_backtrace();
    HTL_CHECK(false, sentence.starts_with("compare: ") ? "" : "compare: --predictions " + name + ": ", sentence);
  }
}

/// Everything that can be refused before a cell is trained.
void check(const Setup& setup, const GridParts& parts, const std::vector<Kind>& kinds) {
  const CompareOptions& options = setup.options;
  const htlnet::Dataset& data = setup.data;
  HTL_CHECK(data.test.rows() > 0, "compare: expected test rows, found none; the data or their split have none");
  HTL_CHECK(options.tune == 0 || data.valid.rows() > 0, "compare: --tune expects validation rows, found none");
  (void)group_column(options, data);
  std::vector<Kind> shown;
  for (const Kind& kind : kinds) {
    if (!kind.is_bound()) (void)tasks_of(data.tasks, kind);
    if (kind.task.empty()) shown.push_back(kind);
  }
  check_selection(setup, {});
  for (const std::string& task : parts.tasks) check_selection(setup, {.model = "", .loss = as_the_data_say, .task = task});
  (void)reference_of(shown, options.reference);
  for (const std::string& adjuster : options.adjusters) {
    htlnet::ModelOptions model;
    model.adjuster = adjuster;
    htlnet::check_adjuster(model, data.tasks);
  }
  for (const std::string& loss : parts.losses) check_loss(loss, data);
  for (const std::string& name : parts.predictions) check_predictions(setup, name);
  if (options.score.empty()) return;
  HTL_CHECK(!group_column(options, data).empty(),
            "compare: --score orders rows within groups, and the data have no column \"user\" or \"user_id\" of which several test rows have one value; name "
            "another one by --group, or leave --score out");
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
  htlnet::check_memory_of_rows(options.base);
  const htlnet::Dataset data = htlnet::load(options.base);
  htlnet::check_memory(options.base, data.features, data.tasks);
  const GridParts parts = parts_of(options, data);
  const std::vector<Kind> kinds = kinds_of(parts);
  const Setup setup{options, data, std::make_shared<const models::InputOptions>(inputs_of(options, data))};
  check(setup, parts, kinds);
  const Store store(options, data);
  std::optional<htlnet::StopRequest> stop(std::in_place);

  std::vector<Cell> chosen;
  for (const Kind& kind : kinds) chosen.push_back({kind, 0, options.rates()});
  RunReport tuned;
  if (options.tune > 0) {
    tuned = tune(setup, store, chosen, threads, *stop);
    if (tuned.stopped_by != 0 || !tuned.lost.empty()) return incomplete(tuned);
  }
  std::vector<Cell> cells;
  for (int64_t seed = 1; seed <= options.seeds; ++seed)  // seed by seed, so that an interrupted grid has something of every kind
    for (Cell cell : chosen) {
      cell.seed = cell.kind.is_bound() ? 0 : static_cast<uint64_t>(seed);
      if (seed == 1 || !cell.kind.is_bound()) cells.push_back(cell);
    }
  const RunReport report = run_cells(setup, store, cells, threads, *stop);
  if (report.stopped_by != 0 || !report.lost.empty()) return incomplete(report);
  stop.reset();  // from here on nobody asks it: the cells are kept, and Ctrl-C may end the process

  torch::set_num_threads(static_cast<int>(threads));
  progress.line("comparing " + std::to_string(cells.size()) + " cells …");
  const Summary summary = summarize(setup, store, kinds, cells);
  write_report(summary, title_of(options, data), options.output);
  std::cout << htl::read_file(store.file("results.md")) << "\n";
  std::cout << report.found - tuned.adopted << " cells were finished before, " << report.made + tuned.adopted << " are new; everything is in " << options.output
            << "\n";
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
