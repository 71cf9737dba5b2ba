// SPDX-License-Identifier: Apache-2.0
#include "summary.hpp"

#include "fused.hpp"

#include <htl/metrics/task_metrics.hpp>

#include <algorithm>
#include <numeric>
#include <optional>
#include <set>

namespace compare {
namespace {

/// One cell as the summary needs it.
struct Read {
  CellResult result;
  nlohmann::json test;  // by task and metric, the score's among them
};
using ReadKind = std::vector<std::optional<Read>>;  // by seed; nothing where it failed or is no cell

std::vector<Measured> columns_of(const htl::TaskSet& tasks, bool grouped) {
  std::vector<Measured> columns;
  for (const htl::TaskSpec& task : tasks) {
    const auto add = [&](const std::string& metric, bool is_main = false) {
      columns.push_back({task.name(), metric, htl::TaskMetrics::greater_is_better(metric) || metric == "gauc", is_main, is_main || metric == "spearman"});
    };
    if (task.kind() == htl::TaskKind::binary) {
      add("auc", true);
      if (grouped) add("gauc");
      add("log_loss");
    } else if (task.kind() == htl::TaskKind::multiclass) {
      add("log_loss", true);
      add("accuracy");
    } else {
      add("nrmse", true);
      for (const char* metric : {"spearman", "normalized_gini", "mae"}) add(metric);
    }
  }
  return columns;
}

double value_of(const nlohmann::json& test, const Measured& column) {
  if (!test.contains(column.task) || !test[column.task].contains(column.metric)) return undefined;
  const nlohmann::json& value = test[column.task][column.metric];
  return value.is_number() ? value.get<double>() : undefined;
}

/// The rows of a task's metric, ready to be resampled.
ResampledMetric resampled(const htl::TaskSet& tasks, const Measured& column, const htl::Predictions& predictions, const htl::Labels& labels) {
  const int64_t t = tasks.index(column.task);
  const at::Tensor& prediction = predictions[column.task];
  const htl::TaskSpec& task = tasks[t];
  const at::Tensor guesses = prediction.to(at::kDouble).contiguous(), label = labels[task.name()].value.to(at::kDouble).contiguous(),
                   mask = tasks.observed(t, labels);
  const at::Tensor seen = mask.defined() ? mask.contiguous() : mask,
                   given = labels[task.name()].weight.defined() ? labels[task.name()].weight.to(at::kDouble).contiguous() : at::Tensor();
  std::vector<ResampledMetric::Row> rows;
  for (int64_t r = 0; r < label.size(0); ++r) {
    const double weight = given.defined() ? given.const_data_ptr<double>()[r] : 1.0, y = label.const_data_ptr<double>()[r];
    if ((seen.defined() && !seen.const_data_ptr<bool>()[r]) || weight == 0.0) continue;
    const int64_t at = task.kind() == htl::TaskKind::multiclass ? r * task.classes() + static_cast<int64_t>(y) : r;
    const double guess = guesses.const_data_ptr<double>()[at];
    rows.push_back({static_cast<int32_t>(r), weight, task.kind() == htl::TaskKind::multiclass ? -std::log(std::max(guess, 1e-12)) : guess, y});
  }
  return column.metric == "spearman"                ? ResampledMetric::spearman(std::move(rows))
         : task.kind() == htl::TaskKind::binary     ? ResampledMetric::auc(std::move(rows))
         : task.kind() == htl::TaskKind::regression ? ResampledMetric::nrmse(rows)
                                                    : ResampledMetric::mean(rows);
}

/// The rates that two have in common; NaN where they differ.
Rates common(const Rates& a, const Rates& b) {
  const auto one = [&](double Rates::*rate) { return a.*rate == b.*rate ? a.*rate : undefined; };
  return {one(&Rates::row_lr), one(&Rates::dense_lr), one(&Rates::weight_decay), one(&Rates::dropout)};
}

/// Reads a kind's cells, and the failures among them.
ReadKind read_kind(const Store& store, const std::vector<Cell>& cells, const Kind& kind, KindSummary& into) {
  ReadKind read;
  for (const Cell& cell : cells) {
    if (!(cell.kind == kind)) continue;
    into.rates = cell.rates;
    Read one{store.read(cell, true), {}};
    if (one.result.figures.contains("failed")) {
      into.failures.push_back("seed " + std::to_string(cell.seed) + ": " + one.result.figures["failed"].get<std::string>());
      read.emplace_back();
      continue;
    }
    one.test = one.result.figures["test"];
    read.push_back(std::move(one));
  }
  return read;
}

/// Puts a cell's cost beside its seed.
void add_costs(const ReadKind& read, KindSummary& into) {
  for (const auto& one : read) {
    const bool has_cost = one && one->result.figures.contains("cost");
    const nlohmann::ordered_json figures = one ? one->result.figures : nlohmann::ordered_json(), cost = has_cost ? figures["cost"] : nlohmann::ordered_json();
    const auto value = [](const nlohmann::ordered_json& of, const char* name) { return of.contains(name) ? of[name].get<double>() : undefined; };
    into.ms_per_step.by_seed.push_back(value(cost, "ms_per_step"));
    into.memory_mb.by_seed.push_back(value(cost, "memory_mb"));
    into.parameters.by_seed.push_back(value(cost, "parameters"));
    into.best_epoch.by_seed.push_back(value(figures, "best_epoch"));
    if (!figures.contains("best_epoch")) continue;  // several models together
    into.curve_of = figures["selected_by"];
    const size_t dot = into.curve_of.find('.');
    auto& curve = into.curves.emplace_back();
    for (const auto& point : figures["curve"]) {
      if (!point.contains("valid")) continue;
      const auto& found = point["valid"][into.curve_of.substr(0, dot)][into.curve_of.substr(dot + 1)];
      if (found.is_number()) curve.emplace_back(point["epoch"].get<int64_t>(), found.get<double>());
    }
  }
  for (Figure* const figure : {&into.ms_per_step, &into.memory_mb, &into.parameters, &into.best_epoch}) figure->moments = moments_of(figure->by_seed);
}

/// The single-task models of one seed as one: predictions and metrics side by side, costs added up.
ReadKind together(const std::vector<ReadKind>& kinds, int64_t seeds) {
  ReadKind result;
  for (int64_t s = 0; s < seeds; ++s) {
    Read all;
    double ms = 0.0, memory = 0.0;
    int64_t parameters = 0;
    bool whole = true;
    for (const ReadKind& kind : kinds) {
      const auto& one = kind[static_cast<size_t>(s)];
      whole = whole && one.has_value();
      if (!whole) break;
      for (const auto& [name, value] : one->result.test) all.result.test.set(name, value);
      all.test.update(one->test);
      const auto& cost = one->result.figures["cost"];
      ms += cost["ms_per_step"].get<double>();
      memory += cost["memory_mb"].get<double>();
      parameters += cost["parameters"].get<int64_t>();
    }
    all.result.figures["cost"] = {{"ms_per_step", ms}, {"memory_mb", memory}, {"parameters", parameters}};
    result.push_back(whole ? std::optional<Read>(std::move(all)) : std::nullopt);
  }
  return result;
}

/// What the bootstrap draws: the number of each test row's unit.
struct Units {
  std::vector<int32_t> of_row;
  int64_t count = 0;
};
/// The rows themselves, or with all their rows the values of a column.
Units units_of(const htl::Labels& labels, const std::string& column, int64_t rows) {
  Units units{std::vector<int32_t>(static_cast<size_t>(rows)), rows};
  std::iota(units.of_row.begin(), units.of_row.end(), 0);
  if (column.empty()) return units;
  std::map<int64_t, int32_t> seen;
  const at::Tensor values = labels.context[column].to(at::kLong).contiguous();
  for (size_t r = 0; r < units.of_row.size(); ++r)
    units.of_row[r] = seen.try_emplace(values.const_data_ptr<int64_t>()[r], static_cast<int32_t>(seen.size())).first->second;
  units.count = static_cast<int64_t>(seen.size());
  return units;
}

/// The differences to the reference over resampled rows, of the seeds that both have: of groups where there are enough of them.
void resample_rows(const Setup& setup, const std::vector<ReadKind>& reads, Summary& summary) {
  constexpr int64_t fewest_groups = 30;  // of fewer no interval can be told
  const htl::Labels& labels = setup.data.test.labels();
  Units units = units_of(labels, summary.group, summary.test_rows);
  summary.unit = summary.group;
  if (!summary.group.empty() && units.count < fewest_groups) {
    summary.notes.push_back("The test rows have " + std::to_string(units.count) + " values of \"" + summary.group + "\", fewer than " +
                            std::to_string(fewest_groups) + ": the bootstrap draws rows instead, as if they did not depend on each other.");
    summary.unit.clear();
    units = units_of(labels, "", summary.test_rows);
  }
  constexpr size_t none = std::numeric_limits<size_t>::max();
  for (size_t c = 0; c < summary.columns.size(); ++c) {
    if (!summary.columns[c].is_resampled) continue;
    std::vector<ResampledMetric> metrics;     // of all cells
    std::vector<std::vector<size_t>> places;  // of each kind's cells among them, by seed
    for (size_t k = 0; k < reads.size(); ++k) {
      std::vector<size_t>& own = places.emplace_back();
      for (const auto& one : reads[k]) {
        own.push_back(one ? metrics.size() : none);
        if (one) metrics.push_back(resampled(setup.data.tasks, summary.columns[c], one->result.test, labels));
      }
      if (summary.kinds[k].kind.is_bound()) own.assign(static_cast<size_t>(summary.seeds), own.front());  // the same beside every seed
    }
    const auto values = resample(metrics, units.of_row, units.count, summary.replicates, 1);
    const std::vector<size_t>& of_reference = places[summary.reference];
    for (size_t k = 0; k < reads.size(); ++k) {
      std::vector<const std::vector<double>*> own, others;
      for (size_t s = 0; k != summary.reference && s < of_reference.size(); ++s) {
        if (places[k][s] == none || of_reference[s] == none) continue;
        own.push_back(&values[places[k][s]]);
        others.push_back(&values[of_reference[s]]);
      }
      summary.kinds[k].figures[c].by_rows = interval_of(mean_of(own), mean_of(others));
    }
  }
}

/// Of each figure how far it comes from the best additive model to the optimum, where the rows are simulated: 0 is the one, 1 the other.
void add_shares(Summary& summary) {
  const auto bound = [&](const char* name) {
    return std::find_if(summary.kinds.begin(), summary.kinds.end(), [&](const KindSummary& of) { return of.kind.is_bound() && of.kind.model == name; });
  };
  const auto from = bound("additive"), to = bound("oracle");
  if (from == summary.kinds.end() || to == summary.kinds.end()) return;
  for (KindSummary& of : summary.kinds)
    for (size_t c = 0; c < summary.columns.size(); ++c) {
      const double start = from->figures[c].moments.mean, gap = to->figures[c].moments.mean - start;
      Figure share;
      for (const double value : of.figures[c].by_seed) share.by_seed.push_back((value - start) / gap);
      share.moments = moments_of(share.by_seed);
      if (of.kind.is_bound()) share.moments.sd = undefined;
      of.shares.push_back(std::move(share));
    }
}

}  // namespace

size_t Summary::column(const std::string& task, const std::string& metric) const {
  return static_cast<size_t>(std::find_if(columns.begin(), columns.end(), [&](const Measured& c) { return c.task == task && c.metric == metric; }) -
                             columns.begin());
}

Summary summarize(const Setup& setup, const Store& store, const std::vector<Kind>& kinds, const std::vector<Cell>& cells) {
  const htl::TaskSet& tasks = setup.data.tasks;
  Summary summary;
  summary.seeds = setup.options.seeds;
  summary.test_rows = setup.data.test.rows();
  summary.score = setup.options.score;
  summary.group = group_column(setup.options, setup.data);
  if (!tasks.cores().empty()) summary.core = tasks[tasks.cores().front()].name();
  const Fused fused(setup, summary.group);
  summary.columns = columns_of(tasks, !summary.group.empty());
  for (const Measured& column : fused.columns()) summary.columns.push_back(column);
  if (summary.group.empty())
    summary.notes.push_back("The data have no column \"user\" or \"user_id\": there are no figures within groups (--group names another column).");
  else if (summary.score.empty())
    summary.notes.push_back("No --score was given: there is no fused score.");

  // Rows of the tables: the single-task models are one
  std::vector<ReadKind> reads, singles;
  KindSummary single{.kind = {"single_task", "sum", "", "none", ""}};
  for (const Kind& kind : kinds) {
    KindSummary of{.kind = kind};
    ReadKind read = read_kind(store, cells, kind, of);
    if (!kind.task.empty()) {
      single.kind.loss = kind.loss;
      single.rates = singles.empty() ? of.rates : common(single.rates, of.rates);
      for (const std::string& failure : of.failures) single.failures.push_back(kind.task + ", " + failure);
      singles.push_back(std::move(read));
      continue;
    }
    reads.push_back(std::move(read));
    summary.kinds.push_back(std::move(of));
  }
  const size_t networks =
      static_cast<size_t>(std::count_if(summary.kinds.begin(), summary.kinds.end(), [](const KindSummary& of) { return !of.kind.is_bound(); }));
  if (!singles.empty()) {
    reads.insert(reads.begin() + static_cast<std::ptrdiff_t>(networks), together(singles, summary.seeds));
    summary.kinds.insert(summary.kinds.begin() + static_cast<std::ptrdiff_t>(networks), std::move(single));
  } else {
    summary.notes.push_back("Without single-task models there is no gain over them.");
  }

  std::set<int64_t> threads;
  for (const ReadKind& kind : reads)
    for (const auto& one : kind)
      if (one && one->result.figures.contains("cost") && one->result.figures["cost"].contains("threads"))
        threads.insert(one->result.figures["cost"]["threads"].get<int64_t>());
  if (threads.size() > 1)
    summary.notes.push_back("Some cells ran with " + std::to_string(*threads.begin()) + ", others with up to " + std::to_string(*threads.rbegin()) +
                            " threads: their times don't compare, and their bits may differ.");
  bool is_finite = true;
  for (size_t k = 0; k < reads.size(); ++k) {
    KindSummary& of = summary.kinds[k];
    add_costs(reads[k], of);
    for (auto& one : reads[k])
      if (one) is_finite = fused.add_to(one->test, one->result.test) && is_finite;
    for (const Measured& column : summary.columns) {
      Figure figure;
      for (const auto& one : reads[k]) figure.by_seed.push_back(one ? value_of(one->test, column) : undefined);
      figure.moments = moments_of(figure.by_seed);
      if (of.kind.is_bound()) figure.by_seed.assign(static_cast<size_t>(summary.seeds), figure.by_seed.front());  // the same beside every seed
      of.figures.push_back(std::move(figure));
    }
  }
  if (!is_finite) summary.notes.push_back("The score is not finite for all rows of some cells, which then have no figures of it.");

  std::vector<Kind> shown;
  for (const KindSummary& of : summary.kinds) shown.push_back(of.kind);
  summary.reference = reference_of(shown, setup.options.reference);
  const KindSummary& reference = summary.kinds[summary.reference];
  for (KindSummary& of : summary.kinds)
    for (size_t c = 0; c < summary.columns.size(); ++c) {
      PairedDifference& difference = of.figures[c].by_seeds = paired_difference(of.figures[c].by_seed, reference.figures[c].by_seed);
      if (of.kind.is_bound() && reference.kind.is_bound()) difference.sd = difference.p = undefined;  // no seed is in either
    }

  add_shares(summary);

  // Gains over the single-task models, seed by seed
  std::vector<bool> greater;
  for (const Measured& column : summary.columns)
    if (column.is_main) greater.push_back(column.greater_is_better);
  const auto main_values = [&](const KindSummary& of, size_t seed) {
    std::vector<double> values;
    for (size_t c = 0; c < summary.columns.size(); ++c)
      if (summary.columns[c].is_main) values.push_back(of.figures[c].by_seed[seed]);
    return values;
  };
  for (KindSummary& of : summary.kinds) {
    for (size_t s = 0; s < static_cast<size_t>(summary.seeds); ++s)
      of.gain.by_seed.push_back(singles.empty() ? undefined : relative_gain(main_values(of, s), main_values(summary.kinds[networks], s), greater));
    of.gain.moments = moments_of(of.gain.by_seed);
    if (of.kind.is_bound()) of.gain.moments.sd = undefined;  // that of the single-task models
  }

  summary.replicates = summary.test_rows > 0 ? setup.options.bootstrap : 0;
  if (summary.replicates > 0) resample_rows(setup, reads, summary);
  return summary;
}

}  // namespace compare
