// SPDX-License-Identifier: Apache-2.0
/// @file kept_files_test.cpp
/// @brief Files that earlier versions wrote, tests/files/v*: each is read by the library and the program of today, and means what it meant then.

#include <htl/data/csv.hpp>
#include <htl/io/checkpoint.hpp>
#include <htl/io/feature_map_json.hpp>
#include <htl/io/module_state.hpp>
#include <htl/io/task_graph_json.hpp>
#include <htl/io/task_set_json.hpp>

#include <support/temporary_folder.hpp>

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <sstream>

namespace {

namespace fs = std::filesystem;

#ifdef HTLNET_PROGRAM
constexpr const char* program = HTLNET_PROGRAM;
#else
constexpr const char* program = "";
#endif

/// All folders that are kept, oldest first.
std::vector<fs::path> kept() {
  std::vector<fs::path> folders;
  for (const auto& entry : fs::directory_iterator(fs::path(__FILE__).parent_path().parent_path() / "files"))
    if (entry.is_directory()) folders.push_back(entry.path());
  std::sort(folders.begin(), folders.end());
  return folders;
}
std::vector<std::vector<double>> numbers_of(const fs::path& path, std::vector<std::string>& header) {
  htl::CsvReader reader(path.string());
  header = reader.header();
  std::vector<std::vector<double>> rows;
  while (reader.next()) {
    rows.emplace_back();
    for (size_t column = 0; column < header.size(); ++column) rows.back().push_back(reader.number(column));
  }
  return rows;
}

class KeptFiles : public testing::TestWithParam<fs::path> {
 protected:
  fs::path run(const std::string& file) const { return GetParam() / "run" / file; }
  std::string rows() const { return (GetParam() / "rows.csv").string(); }
  /// What htlnet prints.
  std::string htlnet(const std::string& arguments) const {
    const fs::path printed = folder_.path("printed");
    const std::string command = "'" + std::string(program) + "' " + arguments + " >'" + printed.string() + "' 2>&1";
    const int status = std::system(command.c_str());  // NOLINT(concurrency-mt-unsafe): one thread
    const std::string text = htl::read_file(printed);
    EXPECT_EQ(status, 0) << command << "\n" << text;
    return text;
  }
  static bool has_program() { return std::string(program) != ""; }
  htl::test::TemporaryFolder folder_;
};

TEST_P(KeptFiles, HtlnetPredictsTheSame) {
  if (!has_program()) GTEST_SKIP() << "the program htlnet is not built: set HTL_BUILD_EXAMPLES=ON";
  const fs::path written = folder_.path("predictions.csv");
  htlnet("predict --run '" + run("").string() + "' --data '" + rows() + "' --output '" + written.string() + "'");
  std::vector<std::string> header, expected_header;
  const auto found = numbers_of(written, header), expected = numbers_of(GetParam() / "predictions.csv", expected_header);
  EXPECT_EQ(header, expected_header);
  ASSERT_EQ(found.size(), expected.size());
  ASSERT_GT(expected.size(), 0U);
  for (size_t row = 0; row < expected.size(); ++row)
    for (size_t column = 0; column < header.size(); ++column)
      EXPECT_NEAR(found[row][column], expected[row][column], 1e-5 * std::max(1.0, std::abs(expected[row][column]))) << "row " << row << ", " << header[column];
}

TEST_P(KeptFiles, EvaluateGivesTheStoredMetrics) {
  if (!has_program()) GTEST_SKIP() << "the program htlnet is not built: set HTL_BUILD_EXAMPLES=ON";
  const nlohmann::json stored = htl::read_json(run("summary.json")).at("test");
  std::istringstream table(htlnet("evaluate --run '" + run("").string() + "' --data '" + rows() + "'"));
  int compared = 0;
  for (std::string line; std::getline(table, line);) {
    std::istringstream words(line);
    std::string task, metric;
    double value = 0.0;
    if (!(words >> task >> metric >> value) || !stored.contains(task)) continue;
    const double expected = stored.at(task).at(metric).get<double>();
    EXPECT_NEAR(value, expected, 2e-5 * std::max(1.0, std::abs(expected))) << task << " " << metric;  // five digits are printed
    ++compared;
  }
  int expected = 0;  // the others are the number of rows, and names of denominators
  for (const auto& [task, metrics] : stored.items())
    for (const auto& [metric, value] : metrics.items()) expected += value.is_number() && metric != "rows" ? 1 : 0;
  EXPECT_EQ(compared, expected);
  EXPECT_GT(compared, 0);
}

TEST_P(KeptFiles, FeaturesTasksAndManifestMeanTheSame) {
  const nlohmann::json manifest = htl::read_json(run("manifest.json")), features_json = htl::read_json(run("features.json")),
                       tasks_json = htl::read_json(run("tasks.json"));
  const htl::FeatureMap features = htl::feature_map_from_json(features_json);
  const htl::TaskSet tasks = htl::task_set_from_json(tasks_json);
  const htl::TaskGraphOptions graph = htl::task_graph_options_from_json(manifest.at("model"));
  EXPECT_EQ(nlohmann::json(htl::to_json(features)), features_json);
  EXPECT_EQ(nlohmann::json(htl::to_json(tasks)), tasks_json);
  EXPECT_EQ(nlohmann::json(htl::to_json(graph)), manifest.at("model"));
  EXPECT_EQ(graph.numeric_width(), static_cast<int64_t>(features.numeric().size()));
  int64_t row = 0;
  for (size_t f = 0; f < features.fields().size(); ++f) {
    EXPECT_EQ(manifest.at("fields").at(f).at("name"), features.fields()[f].name);
    EXPECT_EQ(manifest.at("fields").at(f).at("first_row"), row);
    row += features.sizes()[f];
  }
  for (int64_t t = 0; t < tasks.size(); ++t) EXPECT_EQ(manifest.at("order").at(static_cast<size_t>(t)), tasks[tasks.order()[static_cast<size_t>(t)]].name());
  const htl::Named<at::Tensor> weights = htl::load_safetensors(run(manifest.at("files").at("weights").get<std::string>())).tensors;
  EXPECT_EQ(weights.size(), manifest.at("tensors").size());
  for (const auto& [name, tensor] : weights) EXPECT_EQ(manifest.at("tensors").at(name).at("shape"), nlohmann::json(tensor.sizes().vec())) << name;
  EXPECT_EQ(weights["embedding.weight"].size(0), row);
}

TEST_P(KeptFiles, CheckpointsLoad) {
  const std::optional<htl::Checkpoint> checkpoint = htl::Checkpoints(run("checkpoints")).newest();
  ASSERT_TRUE(checkpoint.has_value());
  EXPECT_TRUE(checkpoint->damaged.empty());
  EXPECT_EQ(checkpoint->step, htl::read_json(run("summary.json")).at("steps").get<int64_t>());
  EXPECT_EQ(checkpoint->tensors["step"].item<int64_t>(), checkpoint->step);
  for (const auto& [name, tensor] : htl::load_safetensors(run("model.safetensors")).tensors)
    EXPECT_EQ(checkpoint->tensors["model." + name].sizes(), tensor.sizes()) << name;  // before averaging
}

TEST_P(KeptFiles, NewRunsBeginWithThem) {
  if (!has_program()) GTEST_SKIP() << "the program htlnet is not built: set HTL_BUILD_EXAMPLES=ON";
  const fs::path begun = folder_.path("begun");
  htlnet("train --config '" + run("config.toml").string() + "' --data '" + rows() + "' --schema '" + run("schema.toml").string() + "' --warm-start '" +
         run("").string() + "' --epochs 1 --output '" + begun.string() + "'");
  const nlohmann::json report = htl::read_json(begun / "warm_start.json");
  for (const char* less : {"in_part", "new_here", "not_carried"}) EXPECT_TRUE(report.at(less).empty()) << report.at(less);
  EXPECT_FALSE(report.at("whole").empty());
}

TEST_P(KeptFiles, LinesOfMetricsAreJson) {
  std::istringstream lines(htl::read_file(run("metrics.jsonl")));
  nlohmann::json last;
  for (std::string line; std::getline(lines, line);) last = htl::parse_json(line, "a line");
  EXPECT_EQ(last.at("split"), "test");
}

INSTANTIATE_TEST_SUITE_P(OfVersion, KeptFiles, testing::ValuesIn(kept()), [](const auto& folder) { return folder.param.filename().string(); });

}  // namespace
