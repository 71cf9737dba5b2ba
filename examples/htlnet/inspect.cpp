// SPDX-License-Identifier: Apache-2.0
#include "inspect.hpp"

#include "trainer.hpp"

#include <htl/metrics/auc.hpp>

#include <torch/types.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <limits>
#include <ostream>

namespace htlnet {
namespace {

constexpr double suspicious_auc = 0.95, suspicious_r2 = 0.9;
constexpr double prior_rows = 10.0;      // how many rows of the overall mean an id's mean is mixed with, so that rare ids don't shine by chance
constexpr int64_t single_values = 1000;  // a numeric column of at most so many values has a mean for each; else it is cut at as many quantiles

using Parts = std::array<const htl::TableData*, 3>;

std::string text_of(const char* format, double value) {
  if (!std::isfinite(value)) return "-";
  char text[64];
  std::snprintf(text, sizeof(text), format, value);
  return text;
}
std::string percent(int64_t part, int64_t whole) {
  return whole == 0 ? "-" : text_of("%.2f %%", 100.0 * static_cast<double>(part) / static_cast<double>(whole));
}

/// Cells in columns: the first one to the left, figures to the right.
class Table {
 public:
  explicit Table(std::vector<std::string> head) : rows_{std::move(head)} {}
  void add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }
  bool empty() const { return rows_.size() == 1; }
  void print(const std::string& title, std::ostream& out) const {
    std::vector<int64_t> widths(rows_[0].size(), 0);
    for (const std::vector<std::string>& row : rows_)
      for (size_t c = 0; c < row.size(); ++c) widths[c] = std::max(widths[c], width_of(row[c]));
    out << title << "\n";
    for (const std::vector<std::string>& row : rows_) {
      std::string line = "  ";
      for (size_t c = 0; c < row.size(); ++c) {
        const std::string space(static_cast<size_t>(widths[c] - width_of(row[c])), ' ');
        line += c == 0 ? row[c] + space : "  " + space + row[c];
      }
      line.erase(line.find_last_not_of(' ') + 1);
      out << line << "\n";
    }
    out << "\n" << std::flush;
  }

 private:
  static int64_t width_of(const std::string& text) {  // of UTF-8: bytes that begin a letter
    return std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0U) != 0x80U; });
  }
  std::vector<std::vector<std::string>> rows_;
};

/// One task's labels of one part.
struct LabelColumn {
  std::vector<double> value;
  std::vector<bool> seen;
  int64_t count = 0;  // of those seen
};

LabelColumn column_of(const htl::Label& label, const torch::Tensor& mask) {
  const torch::Tensor values = label.value.to(torch::kDouble).contiguous();
  torch::Tensor seen = mask.defined() ? mask : torch::ones({values.size(0)}, torch::kBool);
  if (label.weight.defined()) seen = seen.logical_and(label.weight.ne(0));
  seen = seen.contiguous();
  const double* const value = values.const_data_ptr<double>();
  const bool* const is_seen = seen.const_data_ptr<bool>();
  LabelColumn column{std::vector<double>(value, value + values.numel()), std::vector<bool>(is_seen, is_seen + seen.numel()), 0};
  column.count = std::count(column.seen.begin(), column.seen.end(), true);
  return column;
}

/// What a task learns from or is tested on.
LabelColumn observed(const htl::TaskSet& tasks, int64_t t, const htl::TableData& rows) {
  if (rows.rows() == 0) return {};
  return column_of(rows.labels()[tasks[t].name()], tasks.observed(t, rows.labels()));
}

void print_rows(const Parts& parts, std::ostream& out) {
  Table table({"", "train", "valid", "test"});
  std::vector<std::string> counts = {"rows"};
  for (const htl::TableData* part : parts) counts.push_back(std::to_string(part->rows()));
  table.add(counts);
  table.print("Rows", out);
}

double mean_of(const LabelColumn& column) {
  double sum = 0.0;
  for (size_t row = 0; row < column.value.size(); ++row)
    if (column.seen[row]) sum += column.value[row];
  return column.count == 0 ? std::numeric_limits<double>::quiet_NaN() : sum / static_cast<double>(column.count);
}

double largest_class(const LabelColumn& column, int64_t classes) {
  std::vector<int64_t> counts(static_cast<size_t>(classes), 0);
  for (size_t row = 0; row < column.value.size(); ++row)
    if (column.seen[row]) ++counts.at(static_cast<size_t>(column.value[row]));
  return static_cast<double>(*std::max_element(counts.begin(), counts.end())) / static_cast<double>(column.count);
}

void print_labels(const htl::TaskSet& tasks, const Parts& parts, std::ostream& out) {
  Table table({"task", "observed: train", "valid", "test", "figure", "train", "valid", "test"});
  for (int64_t t = 0; t < tasks.size(); ++t) {
    const htl::TaskKind kind = tasks[t].kind();
    std::vector<std::string> shares = {tasks[t].name()}, figures = {kind == htl::TaskKind::binary       ? "rate of 1"
                                                                    : kind == htl::TaskKind::multiclass ? "largest class"
                                                                                                        : "mean"};
    for (const htl::TableData* part : parts) {
      const LabelColumn column = observed(tasks, t, *part);
      shares.push_back(percent(column.count, part->rows()));
      figures.push_back(text_of("%.5g", kind == htl::TaskKind::multiclass && column.count > 0 ? largest_class(column, tasks[t].classes()) : mean_of(column)));
    }
    shares.insert(shares.end(), figures.begin(), figures.end());
    table.add(shares);
  }
  table.print("Labels", out);
}

/// An event, or an amount, where the binary task that it follows did not happen. What observed_when would hide is counted too. Amounts are not flagged: some
/// time is watched without a click, no purchase is made without one.
void print_conversions(const htl::TaskSet& tasks, const Parts& parts, std::ostream& out) {
  Table table({"task", "after", "train", "valid", "test", "of its events: train", "valid", "test"});
  for (int64_t t = 0; t < tasks.size(); ++t)
    for (const int64_t parent : tasks.parents(t)) {
      if (tasks[parent].kind() != htl::TaskKind::binary || tasks[t].kind() == htl::TaskKind::multiclass) continue;
      std::vector<std::string> counts = {tasks[t].name(), tasks[parent].name()}, shares;
      for (const htl::TableData* part : parts) {
        int64_t events = 0, without = 0;
        if (part->rows() > 0) {
          const htl::Labels& labels = part->labels();
          const htl::Label &of_child = labels[tasks[t].name()], &of_parent = labels[tasks[parent].name()];
          const LabelColumn child = column_of(of_child, of_child.mask), before = column_of(of_parent, of_parent.mask);
          for (size_t row = 0; row < child.value.size(); ++row) {
            if (!child.seen[row] || !before.seen[row] || child.value[row] == 0.0) continue;
            ++events;
            without += before.value[row] == 0.0 ? 1 : 0;
          }
        }
        counts.push_back(std::to_string(without) + (without > 0 && tasks[t].kind() == htl::TaskKind::binary ? " !" : "  "));
        shares.push_back(percent(without, events));
      }
      counts.insert(counts.end(), shares.begin(), shares.end());
      table.add(counts);
    }
  if (!table.empty()) table.print("Conversions without their precondition (label not 0 where the task before has 0)", out);
}

/// The ids of one feature in the rows of a part, those of row r from begin[r] to begin[r + 1].
struct FeatureColumn {
  std::vector<int32_t> ids;
  std::vector<int64_t> begin;
  int64_t rows() const { return static_cast<int64_t>(begin.size()) - 1; }
};

FeatureColumn field_of(const htl::TableData& part, int64_t f) {
  const htl::FieldBatch& fields = part.all().fields;
  const torch::Tensor ids = fields.ids.to(torch::kInt).contiguous();
  const int32_t* const id = ids.const_data_ptr<int32_t>();
  const int64_t* const offsets = fields.is_short() ? nullptr : fields.offsets.const_data_ptr<int64_t>();
  FeatureColumn column{{}, {0}};
  for (int64_t row = 0; row < part.rows(); ++row) {
    const int64_t at = row * fields.fields + f;
    for (int64_t i = offsets ? offsets[at] : at; i < (offsets ? offsets[at + 1] : at + 1); ++i) column.ids.push_back(id[i]);
    column.begin.push_back(static_cast<int64_t>(column.ids.size()));
  }
  return column;
}

std::vector<float> numbers_of(const htl::TableData& part, int64_t column) {
  if (part.rows() == 0) return {};
  const torch::Tensor numbers = part.all().numeric.select(1, column).to(torch::kFloat).contiguous();
  return {numbers.const_data_ptr<float>(), numbers.const_data_ptr<float>() + numbers.numel()};
}

/// Each value of few, or as many quantiles of many: a rare value that gives the label away is not lost among the others.
std::vector<float> edges_of(std::vector<float> numbers) {
  std::sort(numbers.begin(), numbers.end());
  std::vector<float> values = numbers;
  values.erase(std::unique(values.begin(), values.end()), values.end());
  if (static_cast<int64_t>(values.size()) <= single_values) return values;
  std::vector<float> edges;
  for (int64_t q = 0; q < single_values; ++q) edges.push_back(numbers[static_cast<size_t>(static_cast<int64_t>(numbers.size()) * q / single_values)]);
  edges.erase(std::unique(edges.begin(), edges.end()), edges.end());
  return edges;
}

FeatureColumn bucketed(const std::vector<float>& numbers, const std::vector<float>& edges) {
  FeatureColumn column{{}, {0}};
  for (const float number : numbers) {
    column.ids.push_back(htl::FeatureMap::bucket_of(edges, number));
    column.begin.push_back(static_cast<int64_t>(column.ids.size()));
  }
  return column;
}

void print_ids(const htl::FeatureMap& features, const Parts& parts, std::ostream& out) {
  Table table({"field", "ids", "unknown: train", "valid", "test"});
  for (int64_t f = 0; f < features.size(); ++f) {
    const htl::FeatureMap::Field& field = features.fields()[static_cast<size_t>(f)];
    std::vector<std::string> row = {field.name, std::to_string(features.sizes()[static_cast<size_t>(f)] - 1)};
    for (const htl::TableData* part : parts) {
      const FeatureColumn column = field_of(*part, f);
      row.push_back(percent(std::count(column.ids.begin(), column.ids.end(), 0), static_cast<int64_t>(column.ids.size())));
    }
    table.add(row);
  }
  if (!table.empty()) table.print("Ids (unknown: missing, too rare in the training rows, or not there; of a multi-valued field a share of its values)", out);
}

/// What rows are guessed to have by one feature alone: the mean label of its ids in the training rows.
std::vector<double> guesses(const FeatureColumn& train, const LabelColumn& label, const FeatureColumn& rows) {
  int32_t last = 0;
  for (const FeatureColumn* column : {&train, &rows})
    for (const int32_t id : column->ids) last = std::max(last, id);
  std::vector<double> sums(static_cast<size_t>(last) + 1, 0.0), counts = sums;
  for (int64_t row = 0; row < train.rows(); ++row) {
    const auto at = static_cast<size_t>(row);
    if (!label.seen[at]) continue;
    for (int64_t i = train.begin[at]; i < train.begin[at + 1]; ++i) {
      const auto id = static_cast<size_t>(train.ids[static_cast<size_t>(i)]);
      sums[id] += label.value[at];
      counts[id] += 1.0;
    }
  }
  const double overall = mean_of(label);
  std::vector<double> result;
  for (int64_t row = 0; row < rows.rows(); ++row) {
    const int64_t begin = rows.begin[static_cast<size_t>(row)], end = rows.begin[static_cast<size_t>(row) + 1];
    double sum = begin == end ? overall : 0.0;
    for (int64_t i = begin; i < end; ++i) {
      const auto id = static_cast<size_t>(rows.ids[static_cast<size_t>(i)]);
      sum += (sums[id] + prior_rows * overall) / (counts[id] + prior_rows);
    }
    result.push_back(sum / static_cast<double>(std::max<int64_t>(1, end - begin)));
  }
  return result;
}

double auc_of(const std::vector<double>& guess, const LabelColumn& label) {
  std::vector<double> scores, values;
  for (size_t row = 0; row < guess.size(); ++row)
    if (label.seen[row]) {
      scores.push_back(guess[row]);
      values.push_back(label.value[row]);
    }
  htl::Auc auc;
  auc.add(torch::tensor(scores, torch::kDouble), {torch::tensor(values, torch::kDouble)});
  return auc.value();
}

double r2_of(const std::vector<double>& guess, const LabelColumn& label) {
  const double mean = mean_of(label);
  double errors = 0.0, spread = 0.0;
  for (size_t row = 0; row < guess.size(); ++row) {
    if (!label.seen[row]) continue;
    errors += (label.value[row] - guess[row]) * (label.value[row] - guess[row]);
    spread += (label.value[row] - mean) * (label.value[row] - mean);
  }
  return spread > 0.0 ? 1.0 - errors / spread : std::numeric_limits<double>::quiet_NaN();
}

void print_leaks(const Dataset& data, std::ostream& out) {
  const bool by_valid = data.valid.rows() > 0;
  const htl::TableData& rows = by_valid ? data.valid : data.test;
  if (data.train.rows() == 0 || rows.rows() == 0) return;
  std::vector<std::string> head = {"feature"};
  std::vector<int64_t> judged;
  std::vector<LabelColumn> train, tested;
  for (int64_t t = 0; t < data.tasks.size(); ++t) {
    if (data.tasks[t].kind() == htl::TaskKind::multiclass) continue;
    LabelColumn in_train = observed(data.tasks, t, data.train), in_test = observed(data.tasks, t, rows);
    if (in_train.count == 0 || in_test.count == 0) continue;
    head.push_back(data.tasks[t].name() + (data.tasks[t].kind() == htl::TaskKind::binary ? " AUC" : " R²") + "  ");
    judged.push_back(t);
    train.push_back(std::move(in_train));
    tested.push_back(std::move(in_test));
  }
  if (judged.empty()) return;
  Table table(head);
  const auto judge = [&](const std::string& name, const FeatureColumn& seen, const FeatureColumn& unseen) {
    std::vector<std::string> row = {name};
    for (size_t i = 0; i < judged.size(); ++i) {
      const bool binary = data.tasks[judged[i]].kind() == htl::TaskKind::binary;
      const std::vector<double> guess = guesses(seen, train[i], unseen);
      const double value = binary ? auc_of(guess, tested[i]) : r2_of(guess, tested[i]);
      row.push_back(text_of("%.4f", value) + (value > (binary ? suspicious_auc : suspicious_r2) ? " !" : "  "));
    }
    table.add(row);
  };
  for (int64_t f = 0; f < data.features.size(); ++f) judge(data.features.fields()[static_cast<size_t>(f)].name, field_of(data.train, f), field_of(rows, f));
  for (size_t n = 0; n < data.features.numeric().size(); ++n) {
    const auto column = static_cast<int64_t>(n);
    const std::vector<float> numbers = numbers_of(data.train, column), edges = edges_of(numbers);
    judge(data.features.numeric()[n].name, bucketed(numbers, edges), bucketed(numbers_of(rows, column), edges));
  }
  table.print(std::string("What a feature alone knows of a label: its ids' mean labels in the training rows, on the ") + (by_valid ? "validation" : "test") +
                  " rows\n(!: so much that it may come from the label: is it known before the event?)",
              out);
}

/// The gradients at the embeddings of a fresh model: those of the first step of a training with these options, but for the noise on the labels.
void print_conflict(const Dataset& data, const Options& options, std::ostream& out) {
  if (data.train.rows() == 0) return;
  const htl::TaskSet tasks = data.tasks.fitted(data.train.labels());
  HtlNet net(data.features, static_cast<int64_t>(data.features.numeric().size()), tasks, options.model);
  htl::BatchLoader loader = training_loader(data.train, options.train, torch::kCPU);
  const htl::Batch batch = *loader.begin();
  const htl::TaskLosses losses = htl::HybridLoss(tasks)(net->forward(batch, Gradients::watched), batch.labels);
  const htl::GradientReport report = htl::backward(losses, net->plain_sum);
  const torch::Tensor norms = report.norms(), cosines = report.cosines();
  std::vector<std::string> head = {"task", "loss", "norm"};
  for (const std::string& name : tasks.names()) head.push_back("with " + name);
  Table table(head);
  for (int64_t t = 0; t < tasks.size(); ++t) {
    std::vector<std::string> row = {tasks[t].name(), text_of("%.4f", losses.values[tasks[t].name()].item<double>()), text_of("%.3g", norms[t].item<double>())};
    for (int64_t s = 0; s < tasks.size(); ++s) {
      const double cosine = cosines[t][s].item<double>();
      row.push_back(s == t ? "" : text_of("%+.3f", cosine) + (cosine < 0.0 ? " !" : "  "));
    }
    table.add(row);
  }
  table.print(
      "Conflict on a first batch of " + std::to_string(batch.rows()) + " rows: gradients of a fresh model at its embeddings, and their cosines (!: below 0)",
      out);
}

}  // namespace

void inspect(const Dataset& data, const Options& options, std::ostream& out) {
  const Parts parts = {&data.train, &data.valid, &data.test};
  print_rows(parts, out);
  print_labels(data.tasks, parts, out);
  print_conversions(data.tasks, parts, out);
  print_ids(data.features, parts, out);
  print_leaks(data, out);
  print_conflict(data, options, out);
}

}  // namespace htlnet
