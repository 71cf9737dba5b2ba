// SPDX-License-Identifier: Apache-2.0
/// @file warm_start_maps.hpp
/// @brief Maps of a WarmStart from names: vocabularies by text, input columns by block, task graphs by task, statistics by task.
#pragma once

#include <htl/data/feature_map.hpp>
#include <htl/io/warm_start.hpp>
#include <htl/transfer/task_graph.hpp>

#include <algorithm>
#include <numeric>
#include <string_view>
#include <unordered_map>

namespace htl::inline v0_1_0 {

/// @brief Neighbouring indices of one name: the columns that a field's embedding, a number or a parent's vector takes in a layer's input.
struct IndexBlock {
  std::string name;  ///< unique in its list
  int64_t size = 0;  ///< how many
};

/// @brief Blocks by name. A block of another size is not carried; new columns start at zero, so that what is new says nothing before the first step.
inline IndexMap map_blocks(const std::vector<IndexBlock>& before, const std::vector<IndexBlock>& now) {
  std::map<std::string_view, std::pair<int64_t, int64_t>> known;  // name → first index, size
  IndexMap map{.fresh = IndexMap::New::zero};
  for (const IndexBlock& block : before) {
    HTL_CHECK(known.emplace(block.name, std::pair(map.before, block.size)).second, "htl::map_blocks: the block \"", block.name, "\" is there twice");
    map.before += block.size;
  }
  for (const IndexBlock& block : now) {
    const auto found = known.find(block.name);
    const bool fits = found != known.end() && found->second.second == block.size;
    for (int64_t i = 0; i < block.size; ++i) map.source.push_back(fits ? found->second.first + i : -1);
  }
  return map;
}

/// @brief The blocks of what FieldEmbedding and numeric columns give a layer: d columns a field, one a number.
inline std::vector<IndexBlock> input_blocks(const FeatureMap& features, int64_t dim) {
  std::vector<IndexBlock> blocks;
  for (const FeatureMap::Field& field : features.fields()) blocks.push_back({"field \"" + field.name + "\"", dim});
  for (const FeatureMap::Numeric& column : features.numeric()) blocks.push_back({"numeric column \"" + column.name + "\"", 1});
  return blocks;
}

/// @brief Maps the rows of a FieldEmbedding's table: fields by name, their ids by text, id 0 always; and lists every field.
///
/// A text that is new starts as its field's id 0, as which yesterday's model knew it: so the model predicts as yesterday on every row before its first step.
/// Its optimizer state is empty. Rows of a new field stay as initialised. A bucketised field is carried only where its edges are the same.
/// @param start gets the map, a line for each field, and a note for each numeric column whose stand-in for missing values is another one
/// @param table the table's name in the module, "embedding.weight"
/// @param before the earlier model's features
/// @param now the new model's
inline void map_vocabularies(WarmStart& start, const std::string& table, const FeatureMap& before, const FeatureMap& now) {
  std::unordered_map<std::string_view, std::pair<size_t, int64_t>> known;  // name → place, first row
  IndexMap map;
  const std::vector<int64_t> sizes = before.sizes(), sizes_now = now.sizes();
  for (size_t f = 0; f < sizes.size(); ++f) {
    known.emplace(before.fields()[f].name, std::pair(f, map.before));
    map.before += sizes[f];
  }
  const auto named = [&](const std::string& field) { return c10::str(table, ", field \"", field, "\""); };
  for (size_t f = 0; f < sizes_now.size(); ++f) {
    const FeatureMap::Field& field = now.fields()[f];
    const size_t first = map.source.size();
    map.source.resize(first + static_cast<size_t>(sizes_now[f]), -1);
    map.stand_in.resize(map.source.size(), -1);
    WarmStartEntry entry{.name = named(field.name), .unit = "rows", .now = sizes_now[f]};
    if (const auto found = known.find(field.name); found != known.end()) {
      const int64_t row = found->second.second;
      const FeatureMap::Field& old = before.fields()[found->second.first];
      const bool has_buckets = field.kind == FieldKind::bucketised, had_buckets = old.kind == FieldKind::bucketised;
      entry.before = sizes[found->second.first];
      map.source[first] = row;
      if (has_buckets != had_buckets) {
        entry.reason = "it was " + to_string(old.kind) + " and is " + to_string(field.kind);
      } else if (has_buckets && field.edges != old.edges) {
        entry.reason = "its bucket edges are others";
      } else if (has_buckets) {
        std::iota(map.source.begin() + static_cast<std::ptrdiff_t>(first), map.source.end(), row);
      } else {
        std::unordered_map<std::string_view, int64_t> rows;
        for (const std::string& text : old.vocabulary) rows.emplace(text, row + 1 + static_cast<int64_t>(rows.size()));
        for (size_t i = 0; i < field.vocabulary.size(); ++i) {
          const auto text = rows.find(field.vocabulary[i]);
          (text == rows.end() ? map.stand_in : map.source)[first + 1 + i] = text == rows.end() ? row : text->second;
        }
      }
      entry.carried = std::count_if(map.source.begin() + static_cast<std::ptrdiff_t>(first), map.source.end(), [](int64_t from) { return from >= 0; });
      known.erase(found);
    }
    start.add(std::move(entry));
  }
  for (size_t f = 0; f < sizes.size(); ++f)
    if (const std::string& name = before.fields()[f].name; known.contains(name))
      start.add({.name = named(name), .unit = "rows", .before = sizes[f], .reason = "the field is not in this model"});
  for (const FeatureMap::Numeric& column : now.numeric())
    for (const FeatureMap::Numeric& old : before.numeric())
      if (old.name == column.name && old.missing != column.missing)
        start.note(c10::str("numeric column \"", column.name, "\": a missing value stands for ", column.missing, ", and stood for ", old.missing));
  start.map(table, 0, std::move(map));
}

/// @brief What a TaskGraph was made from, with a name for each part of its towers' input.
struct TaskGraphParts {
  TaskSet tasks;                   ///< its tasks
  TaskGraphOptions options;        ///< its options
  std::vector<IndexBlock> inputs;  ///< the columns of every view, then those of the numeric inputs: input_blocks()
};

/// @brief Maps a TaskGraph<> of Tower, LabelEmbedding and InformationFusion: towers by task, their first layers' columns by block, fusions by parent.
///
/// Where only inputs and tasks were added, the tasks that were there predict as before. A task of another kind keeps its hidden layers only. A parent more or
/// less makes another mixture of the parents' vectors, and a label transform with other statistics another unit: a note says so.
/// @param start gets the maps and the notes
/// @param path the graph's name in the module, "graph"
/// @param before the earlier model's graph
/// @param now the new model's
/// @throws c10::ValueError where the blocks are not as wide as the views and the numbers
void map_task_graph(WarmStart& start, const std::string& path, const TaskGraphParts& before, const TaskGraphParts& now);

/// @brief Tasks that measure their labels as earlier ones did: the fitted statistics of each task of the same name with a transform of the same name.
///
/// A tower has learned its label in the unit of those statistics. Fitting them anew to other rows moves every prediction before the first step.
inline TaskSet with_statistics_of(const TaskSet& before, const TaskSet& now) {
  std::vector<TaskSpec> tasks;
  for (const TaskSpec& task : now) {
    tasks.push_back(task);
    for (const TaskSpec& old : before)
      if (old.name() == task.name() && old.transform().name() == task.transform().name()) tasks.back() = task.transform(old.transform());
  }
  return TaskSet(std::move(tasks));
}

namespace detail {

/// One task's inputs in its graph.
struct GraphTask {
  std::vector<IndexBlock> inputs, representations, labels;
  std::vector<std::string> parents;

  GraphTask(const TaskGraphParts& parts, int64_t position) : inputs(parts.inputs) {
    const TaskGraphOptions& options = parts.options;
    const std::vector<int64_t>& tower = options.tower();
    const int64_t layer = options.representation() < 0 ? options.representation() + static_cast<int64_t>(tower.size()) : options.representation();
    for (const int64_t parent : parts.tasks.parents(position)) {
      const TaskSpec& task = parts.tasks[parent];
      parents.push_back(task.name());
      if (has_representation(options.transfer())) representations.push_back({task.name(), tower.at(static_cast<size_t>(layer))});
      if (has_label(options.transfer()) && task.is_discrete()) labels.push_back({task.name(), options.label().dim()});
    }
    if (!representations.empty()) inputs.push_back({"representations", options.fusion_width() > 0 ? options.fusion_width() : representations.front().size});
    if (!labels.empty()) inputs.push_back({"labels", options.label_fusion_width() > 0 ? options.label_fusion_width() : labels.front().size});
  }
};

/// The maps of one fusion unit, where its shapes depend on which parents there are.
inline void map_fusion(WarmStart& start, const std::string& unit, FusionKind kind, const std::vector<IndexBlock>& before, const std::vector<IndexBlock>& now) {
  if (now.empty() || before.empty()) return;
  if (kind == FusionKind::concat) start.map(unit + ".value.weight", 1, map_blocks(before, now));
  if (kind != FusionKind::gate || now.size() < 2) return;
  const auto scores = [](std::vector<IndexBlock> blocks) {
    for (IndexBlock& block : blocks) block.size = 1;
    return blocks;
  };
  start.map(unit + ".gate.weight", 0, map_blocks(scores(before), scores(now))).map(unit + ".gate.weight", 1, map_blocks(before, now));
  start.map(unit + ".gate.bias", 0, map_blocks(scores(before), scores(now)));
}

}  // namespace detail

inline void map_task_graph(WarmStart& start, const std::string& path, const TaskGraphParts& before, const TaskGraphParts& now) {
  for (const TaskGraphParts* parts : {&before, &now}) {
    int64_t width = 0;
    for (const IndexBlock& block : parts->inputs) width += block.size;
    HTL_CHECK(width == parts->options.input_width() + parts->options.numeric_width(), "htl::map_task_graph: expected blocks of ",
              parts->options.input_width() + parts->options.numeric_width(), " columns in all, got ", width);
  }
  for (int64_t t = 0; t < now.tasks.size(); ++t) {
    const TaskSpec& task = now.tasks[t];
    const std::vector<std::string> names = before.tasks.names();
    const auto found = std::find(names.begin(), names.end(), task.name());
    if (found == names.end()) continue;
    const int64_t position = found - names.begin();
    const TaskSpec& old = before.tasks[position];
    if (old.kind() != task.kind()) {
      const std::string reason = "the task was " + to_string(old.kind()) + " and is " + to_string(task.kind());
      start.leave(path + ".towers." + task.name() + ".output.", reason).leave(path + ".label_embeddings." + task.name() + ".", reason);
    }
    const detail::GraphTask was(before, position), is(now, t);
    start.map(path + ".towers." + task.name() + ".layers.0.weight", 1, map_blocks(was.inputs, is.inputs));
    if (before.options.fusion() == now.options.fusion()) {
      detail::map_fusion(start, path + ".fusions." + task.name() + ".representation", now.options.fusion(), was.representations, is.representations);
      detail::map_fusion(start, path + ".fusions." + task.name() + ".label", now.options.fusion(), was.labels, is.labels);
    }
    if (was.parents != is.parents && now.options.transfer() != Transfer::none)
      start.note("task \"" + task.name() + "\" follows " + quoted(is.parents) + ", and followed " + quoted(was.parents) +
                 "; what flows into it is not the same before the first step");
    const AnyLabelTransform &measured = old.transform(), &measures = task.transform();
    const Options was_fitted = measured.statistics(), is_fitted = measures.statistics();
    if (measured.name() != measures.name() || !std::equal(was_fitted.begin(), was_fitted.end(), is_fitted.begin(), is_fitted.end())) {
      const auto text = [](const AnyLabelTransform& transform) {
        std::string words = transform.name();
        for (const auto& [name, value] : transform.statistics()) words += c10::str(words == transform.name() ? " (" : ", ", name, " ", value.text());
        return words + (words == transform.name() ? "" : ")");
      };
      start.note("task \"" + task.name() + "\" has the label transform " + text(measures) + ", and learned in that of " + text(measured));
    }
  }
}

}  // namespace htl
