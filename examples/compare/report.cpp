// SPDX-License-Identifier: Apache-2.0
#include "report.hpp"

#include "figures.hpp"
#include "picture.hpp"

#include <examples/htlnet/evaluate.hpp>

#include <htl/io/json.hpp>

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <string_view>

namespace compare {
namespace {

std::string number(double value, const char* format = nullptr) {
  if (!std::isfinite(value)) return "–";
  char text[48];
  std::snprintf(text, sizeof(text), format ? format : std::abs(value) < 10.0 ? "%.4f" : "%.2f", value);
  return text;
}
std::string with_sd(const Moments& moments, const char* format = nullptr, const char* format_of_sd = nullptr) {
  return number(moments.mean, format) + (std::isfinite(moments.sd) ? " ± " + number(moments.sd, format_of_sd ? format_of_sd : format) : "");
}
std::string signed_number(double value) { return number(value, std::abs(value) < 10.0 ? "%+.4f" : "%+.2f"); }

std::vector<std::string> name_of(const Summary& summary, size_t k) {
  const Kind& kind = summary.kinds[k].kind;
  const auto dash = [&](const std::string& text) { return kind.is_bound() ? std::string("–") : text; };
  return {std::to_string(k + 1), kind.model, dash(kind.adjuster), dash(kind.loss), dash(kind.balancer)};
}
const std::vector<std::string> name_columns = {"#", "model", "adjuster", "loss", "balancer"};

/// A text in Markdown, of which no part is markup.
std::string in_markdown(const std::string& text) {
  std::string result;
  for (size_t i = 0; i < text.size(); ++i) {
    const char next = i + 1 < text.size() ? text[i + 1] : ' ';
    const bool is_tag = text[i] == '<' && (std::isalpha(static_cast<unsigned char>(next)) || next == '/' || next == '!');
    if (is_tag || std::string_view("|*`\\").find(text[i]) != std::string_view::npos) result += '\\';
    result += text[i];
  }
  return result;
}

/// A difference: in words of one cell.
std::string difference(const Figure& figure, bool greater_is_better) {
  if (!std::isfinite(figure.by_seeds.mean)) return "–";
  std::string text = signed_number(figure.by_seeds.mean);
  if (std::isfinite(figure.by_rows.low)) text += " [" + signed_number(figure.by_rows.low) + ", " + signed_number(figure.by_rows.high) + "]";
  const auto p = [&](const char* name, double value) {
    if (std::isfinite(value)) text += std::string(" ") + name + " " + (value < 0.001 ? "<.001" : value < 0.9995 ? number(value, "%.3f").substr(1) : "1");
  };
  p("s", figure.by_seeds.p);
  p("r", figure.by_rows.p);
  if (figure.by_seeds.p < 0.05 && figure.by_rows.p < 0.05) text += (figure.by_seeds.mean > 0.0) == greater_is_better ? " ▲" : " ▼";
  return text;
}

/// A table with a row a kind and a column a chosen figure.
template <class Choose, class Text>
Table table_of_figures(const Summary& summary, std::string title, std::string note, const Choose& choose, const Text& text) {
  Table table{std::move(title), std::move(note), name_columns, {}};
  for (const Measured& column : summary.columns)
    if (choose(column)) table.columns.push_back(column.name() + (column.greater_is_better ? " ↑" : " ↓"));
  for (size_t k = 0; k < summary.kinds.size(); ++k) {
    std::vector<std::string> row = name_of(summary, k);
    for (size_t c = 0; c < summary.columns.size(); ++c)
      if (choose(summary.columns[c])) row.push_back(text(k, c));
    table.rows.push_back(std::move(row));
  }
  return table;
}

Table cost_table(const Summary& summary) {
  Table table{
      "Gain and cost",
      "Gain: over the single-task models, the mean over tasks of the relative change of the main metric (auc, nrmse, log_loss), with errors turned round. "
      "Cost: of the training alone, the median epoch's milliseconds a step, and by how much the cell's process grew at most; cells that run beside others are "
      "slower. A rate that the cells of a row don't have in common is –.",
      name_columns,
      {}};
  for (const char* name : {"gain, %", "ms a step", "memory, MB", "parameters", "best epoch", "row-lr", "dense-lr", "weight-decay", "dropout"})
    table.columns.push_back(name);
  for (size_t k = 0; k < summary.kinds.size(); ++k) {
    const KindSummary& of = summary.kinds[k];
    const Moments gain{100.0 * of.gain.moments.mean, 100.0 * of.gain.moments.sd, of.gain.moments.count};
    std::vector<std::string> row = name_of(summary, k);
    const auto rate = [&](double value) { return of.kind.is_bound() ? std::string("–") : number(value, "%.3g"); };
    row.insert(row.end(), {with_sd(gain, "%+.2f", "%.2f"), with_sd(of.ms_per_step.moments, "%.2f"), with_sd(of.memory_mb.moments, "%.0f"),
                           number(of.parameters.moments.mean, "%.0f"), number(of.best_epoch.moments.mean, "%.1f"), rate(of.rates.row_lr),
                           rate(of.rates.dense_lr), rate(of.rates.weight_decay), rate(of.rates.dropout)});
    table.rows.push_back(std::move(row));
  }
  return table;
}

/// The main column of the core task, else the last main one.
size_t core_column(const Summary& summary) {
  size_t found = summary.columns.size();
  for (size_t c = 0; c < summary.columns.size(); ++c)
    if (summary.columns[c].is_main && (found == summary.columns.size() || summary.columns[found].task != summary.core)) found = c;
  return found;
}

/// A kind's model, and those of its parts that not all kinds have alike.
std::string name_in_pictures(const Summary& summary, const Kind& kind) {
  std::string name = kind.model;
  for (std::string Kind::*const part : {&Kind::adjuster, &Kind::loss, &Kind::balancer})
    if (std::any_of(summary.kinds.begin(), summary.kinds.end(), [&](const KindSummary& of) { return !of.kind.is_bound() && of.kind.*part != kind.*part; }))
      name += "+" + kind.*part;
  return name;
}

std::vector<Picture> pictures_of(const Summary& summary) {
  const size_t core = core_column(summary);
  const Measured& of_core = summary.columns.at(core);
  std::vector<size_t> others;
  for (size_t c = 0; c < summary.columns.size(); ++c)
    if (c != core && summary.columns[c].metric == "auc") others.push_back(c);
  const auto points = [&](Picture picture, auto&& x_of) {
    std::vector<double> xs, ys;
    for (size_t k = 0; k < summary.kinds.size(); ++k) {
      const double x = x_of(summary.kinds[k]), y = summary.kinds[k].figures[core].moments.mean;
      if (summary.kinds[k].kind.is_bound() || !std::isfinite(x) || !std::isfinite(y)) continue;  // far from what is to be told apart
      picture.series.push_back({static_cast<int64_t>(k + 1), name_in_pictures(summary, summary.kinds[k].kind), {{x, y}}, false});
      xs.push_back(picture.x_greater_is_better ? x : -x);
      ys.push_back(picture.y_greater_is_better ? y : -y);
    }
    const std::vector<bool> front = pareto_front(xs, ys);
    for (size_t i = 0; i < front.size(); ++i) picture.series[i].is_on_front = front[i];
    return picture;
  };
  std::vector<Picture> pictures;
  const std::string better = of_core.greater_is_better ? " (better: up)" : " (reversed: better is up)";
  if (!others.empty()) {
    Picture trade{.title = "The core task against the others",
                  .x_label = others.size() == 1 ? summary.columns[others[0]].name() : "mean AUC of the other tasks"};
    trade.y_label = of_core.name() + better;
    trade.y_greater_is_better = of_core.greater_is_better;
    pictures.push_back(points(trade, [&](const KindSummary& of) {
      double sum = 0.0;
      for (const size_t c : others) sum += of.figures[c].moments.mean;
      return sum / static_cast<double>(others.size());
    }));
  }
  Picture cost{.title = "The core task against cost", .x_label = "ms a step (reversed: better is right)", .y_label = of_core.name() + better};
  cost.x_greater_is_better = false;
  cost.y_greater_is_better = of_core.greater_is_better;
  pictures.push_back(points(cost, [](const KindSummary& of) { return of.ms_per_step.moments.mean; }));

  Picture curves{.title = "Learning curves on the validation rows", .x_label = "epoch", .is_curves = true};
  for (size_t k = 0; k < summary.kinds.size(); ++k) {
    const KindSummary& of = summary.kinds[k];
    if (of.curves.empty()) continue;
    htlnet::Selection selection;
    selection.metric = of.curve_of.substr(of.curve_of.find('.') + 1);
    curves.y_greater_is_better = selection.better(1.0, 0.5) || selection.metric == "calibration_ratio";
    curves.y_label = of.curve_of + ", mean over seeds" + (curves.y_greater_is_better ? "" : " (reversed: better is up)");
    Picture::Series series{static_cast<int64_t>(k + 1), name_in_pictures(summary, of.kind), {}, false};
    for (int64_t epoch = 1;; ++epoch) {  // as long as every seed has it
      std::vector<double> values;
      for (const auto& curve : of.curves)
        for (const auto& [at, value] : curve)
          if (at == epoch) values.push_back(value);
      if (values.size() < of.curves.size()) break;
      series.points.emplace_back(static_cast<double>(epoch), moments_of(values).mean);
    }
    curves.series.push_back(std::move(series));
  }
  pictures.push_back(std::move(curves));
  return pictures;
}

std::string html_of(const Table& table) {
  std::string html = "<h2>" + escaped(table.title) + "</h2><p>" + escaped(table.note) + "</p><div class=\"wide\"><table><thead><tr>";
  for (const std::string& column : table.columns) html += "<th>" + escaped(column) + "</th>";
  html += "</tr></thead><tbody>";
  for (const auto& row : table.rows) {
    html += "<tr>";
    for (size_t c = 0; c < row.size(); ++c) html += std::string(c < name_columns.size() ? "<td class=\"n\">" : "<td>") + escaped(row[c]) + "</td>";
    html += "</tr>";
  }
  return html + "</tbody></table></div>\n";
}

nlohmann::ordered_json json_of(const std::vector<Picture>& pictures) {
  nlohmann::ordered_json result = nlohmann::ordered_json::array();
  for (const Picture& picture : pictures) {
    nlohmann::ordered_json series = nlohmann::ordered_json::array();
    for (const Picture::Series& of : picture.series)
      series.push_back({{"number", of.number}, {"label", of.label}, {"points", of.points}, {"is_on_front", of.is_on_front}});
    result.push_back({{"title", picture.title},
                      {"x_label", picture.x_label},
                      {"y_label", picture.y_label},
                      {"x_greater_is_better", picture.x_greater_is_better},
                      {"y_greater_is_better", picture.y_greater_is_better},
                      {"is_curves", picture.is_curves},
                      {"series", series}});
  }
  return result;
}

std::vector<std::string> remarks_of(const Summary& summary) {
  std::vector<std::string> remarks = summary.notes;
  for (const KindSummary& of : summary.kinds)
    for (const std::string& failure : of.failures) remarks.push_back("Failed: " + of.kind.label() + ", " + failure + ".");
  return remarks;
}

}  // namespace

std::vector<Table> tables_of(const Summary& summary) {
  const auto mean = [&](size_t k, size_t c) {
    const Moments& moments = summary.kinds[k].figures[c].moments;
    const bool is_whole = moments.count == summary.seeds || summary.kinds[k].kind.is_bound() || moments.count == 0;
    return with_sd(moments) + (is_whole ? "" : " (of " + std::to_string(moments.count) + ")");
  };
  const std::string seeds = std::to_string(summary.seeds) + (summary.seeds == 1 ? " seed" : " seeds"), rows = std::to_string(summary.test_rows) + " test rows";
  std::vector<Table> tables;
  tables.push_back(table_of_figures(
      summary, "Test metrics",
      "Mean ± standard deviation over " + seeds + " (where some failed, over as many as stand in brackets), " + rows +
          ". nrmse is RMSE over the standard deviation of the test labels.",
      [](const Measured& column) { return column.task != "score" && column.metric != "log_loss" && column.metric != "mae"; }, mean));
  std::string note = "Reference: #" + std::to_string(summary.reference + 1) + " " + summary.kinds[summary.reference].kind.label() +
                     ". The mean difference over seeds; s: p of a paired t-test over seeds";
  if (summary.replicates > 0)
    note += "; in brackets 95 % of " + std::to_string(summary.replicates) + " paired resamplings of the " +
            (summary.unit.empty() ? "test rows" : "values of \"" + summary.unit + "\" with all their test rows") + ", r: their p";
  note += ". ▲ better and ▼ worse by both at .05. The p are not corrected for the number of comparisons.";
  tables.push_back(table_of_figures(
      summary, "Differences to the reference", note, [](const Measured& column) { return column.is_resampled; },
      [&](size_t k, size_t c) {
        return k == summary.reference ? std::string("reference") : difference(summary.kinds[k].figures[c], summary.columns[c].greater_is_better);
      }));
  if (std::any_of(summary.columns.begin(), summary.columns.end(), [](const Measured& column) { return column.task == "score"; }))
    tables.push_back(table_of_figures(
        summary, "Fused score",
        "Rows in the order of " + summary.score + " within each value of \"" + summary.group +
            "\": GAUC of the events, NDCG of the core label. A predicted number below all training labels counts as the least of them.",
        [](const Measured& column) { return column.task == "score"; }, mean));
  if (!summary.kinds.empty() && !summary.kinds.front().shares.empty())
    tables.push_back(table_of_figures(
        summary, "Share of the gap, %",
        "How far each comes from the best additive model, fitted to the true expectations (0), to the generator's own expectations (100).",
        [](const Measured& column) { return column.is_main || column.is_resampled; },
        [&](size_t k, size_t c) {
          const Moments& share = summary.kinds[k].shares[c].moments;
          return with_sd({100.0 * share.mean, 100.0 * share.sd, share.count}, "%.1f", "%.1f");
        }));
  tables.push_back(cost_table(summary));
  return tables;
}

std::string markdown_of(const Table& table) {
  std::string text = "## " + table.title + "\n\n" + in_markdown(table.note) + "\n\n|";
  for (const std::string& column : table.columns) text += " " + in_markdown(column) + " |";
  text += "\n|";
  for (size_t c = 0; c < table.columns.size(); ++c) text += c < name_columns.size() ? "---|" : "---:|";
  for (const auto& row : table.rows) {
    text += "\n|";
    for (const std::string& cell : row) text += " " + in_markdown(cell) + " |";
  }
  return text + "\n";
}

void write_report(const Summary& summary, const std::string& title, const std::filesystem::path& folder) {
  const std::vector<Table> tables = tables_of(summary);
  const std::vector<Picture> pictures = pictures_of(summary);
  const std::vector<std::string> remarks = remarks_of(summary);
  std::string markdown = "# " + title + "\n";
  for (const Table& table : tables) markdown += "\n" + markdown_of(table);
  if (!remarks.empty()) markdown += "\n## Remarks\n\n";
  for (const std::string& remark : remarks) markdown += "- " + in_markdown(remark) + "\n";

  std::string html =
      "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\"><title>" + escaped(title) +
      "</title><style>body{font:15px/1.5 sans-serif;max-width:1400px;margin:2em auto;padding:0 1em;color:#222}h1{font-size:1.4em}h2{font-size:1.1em;"
      "margin-top:2em}p{color:#555}.wide{overflow-x:auto}table{border-collapse:collapse;font-size:13px;font-variant-numeric:tabular-nums}td,th{padding:.25em "
      ".7em;border-bottom:1px solid #ddd;text-align:right;white-space:nowrap}td.n,th:nth-child(-n+5){text-align:left}tbody tr:hover{background:#f4f7fa}"
      ".pictures{display:grid;grid-template-columns:repeat(auto-fit,minmax(420px,1fr));gap:1em}svg{width:100%;height:auto}</style></head><body><h1>" +
      escaped(title) + "</h1>\n";
  html += html_of(tables[0]) +
          "<h2>Pictures</h2><p>Numbers are those of the tables' rows; the dashed line joins the models that no other one beats in both."
          "</p><div class=\"pictures\">";
  for (const Picture& picture : pictures) html += "<div>" + svg_of(picture) + "</div>";
  html += "</div>\n";
  for (size_t t = 1; t < tables.size(); ++t) html += html_of(tables[t]);
  if (!remarks.empty()) html += "<h2>Remarks</h2><ul>";
  for (const std::string& remark : remarks) html += "<li>" + escaped(remark) + "</li>";
  if (!remarks.empty()) html += "</ul>";

  htl::write_json(folder / "report.json", {{"format", "compare.report"},
                                           {"version", 1},
                                           {"title", title},
                                           {"seeds", summary.seeds},
                                           {"test_rows", summary.test_rows},
                                           {"replicates", summary.replicates},
                                           {"score", summary.score},
                                           {"group", summary.group},
                                           {"reference", summary.reference},
                                           {"kinds", to_json(summary)},
                                           {"remarks", remarks},
                                           {"pictures", json_of(pictures)}});
  htl::write_atomically(folder / "results.csv", results_csv(summary));
  htl::write_atomically(folder / "cells.csv", cells_csv(summary));
  htl::write_atomically(folder / "results.md", markdown);
  htl::write_atomically(folder / "report.html", html + "</body></html>\n");
}

}  // namespace compare
