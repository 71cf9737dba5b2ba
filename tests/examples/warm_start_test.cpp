// SPDX-License-Identifier: Apache-2.0
/// @file warm_start_test.cpp
/// @brief `htlnet train --warm-start`: yesterday's run in today's, which knows more users, another field and a sixth task.

#include <htl/io/checkpoint.hpp>
#include <htl/io/feature_map_json.hpp>

#include <support/program.hpp>

#include <fstream>
#include <map>
#include <random>

namespace {

namespace fs = std::filesystem;
using htl::test::contains;
using htl::test::Ended;

const std::string still = " --row-lr 0 --dense-lr 0 --average none";  // the weights after training are those before the first step

class WarmStartProgram : public htl::test::ProgramTest {
 protected:
  void SetUp() override {
    ProgramTest::SetUp();
    if (IsSkipped()) return;
    write_day("day1", 1, 10, 30);
    write_day("day2", 2, 14, 45);
    write_schema("day1.toml", "[\"user\", \"item\"]", "");
    write_schema("day2.toml", "[\"city\", \"user\", \"item\"]", "[[task]]\nname = \"follow\"\nkind = \"binary\"\nafter = [\"click\"]\n");
    const Ended end = run(train("day1", "yesterday"));
    ASSERT_EQ(end.status, 0) << end.text;
  }
  void write_day(const std::string& day, unsigned seed, int users, int oldest) const {
    std::mt19937 random(seed);
    const auto below = [&](int count) { return static_cast<int>(random() % static_cast<unsigned>(count)); };
    fs::create_directories(folder.path(day));
    std::ofstream file(folder.path(day) / "rows.csv");
    file << "user,item,city,age,price,part,click,like,share,save,follow,time\n";
    for (int row = 0; row < 400; ++row) {
      const int user = below(users), item = below(6), click = below(3) > user % 3;
      file << "u" << user << ",i" << item << ",c" << below(3) << "," << 20 + below(oldest) << "," << below(50)
           << (row < 300   ? ",train,"
               : row < 350 ? ",valid,"
                           : ",test,")
           << click << "," << below(2) << "," << below(2) << "," << below(2) << "," << below(2) << "," << (click * 10 + item + below(5) + oldest) << "\n";
    }
  }
  void write_schema(const std::string& name, const std::string& categorical, const std::string& more) const {
    std::ofstream file(folder.path(name));
    file << "features = { categorical = " << categorical << ", bucketised = [\"age\"], numeric = [\"price\"], buckets = 5, min_count = 1 }\n"
         << "split = { column = \"part\", train = \"train\", valid = \"valid\", test = \"test\" }\n"
         << "[[task]]\nname = \"click\"\nkind = \"binary\"\nafter = []\n"
         << "[[task]]\nname = \"like\"\nkind = \"binary\"\nafter = [\"click\"]\n"
         << "[[task]]\nname = \"share\"\nkind = \"binary\"\nafter = [\"click\", \"like\"]\n"
         << "[[task]]\nname = \"save\"\nkind = \"binary\"\nafter = [\"like\"]\n"
         << more << "[[task]]\nname = \"time\"\nkind = \"regression\"\nafter = [\"click\", \"like\"]\ncore = true\n";
  }
  static std::string train(const std::string& day, const std::string& output) {
    return "train --dataset csv --data " + day + " --schema " + day +
           ".toml --epochs 1 --batch-size 64 --tower 8,4 --embedding-dim 4 --threads 2 --quiet --output " + output;
  }
  /// Every task's predictions for the rows of the second day.
  std::map<std::string, std::vector<double>> predictions(const std::string& run_folder) const {
    const Ended end = run("predict --run " + run_folder + " --data day2 --threads 2 --output " + run_folder + ".csv");
    EXPECT_EQ(end.status, 0) << end.text;
    std::ifstream file(folder.path(run_folder + ".csv"));
    std::vector<std::string> names;
    std::map<std::string, std::vector<double>> columns;
    for (std::string line, cell; std::getline(file, line);) {
      std::istringstream cells(line);
      const bool is_header = names.empty();
      for (size_t c = 0; std::getline(cells, cell, ','); ++c) is_header ? names.push_back(cell) : columns[names.at(c)].push_back(std::stod(cell));
    }
    return columns;
  }
  htl::FeatureMap features(const std::string& run_folder) const {
    return htl::feature_map_from_json(htl::read_json(folder.path(run_folder) / "features.json"));
  }
  htl::Named<at::Tensor> optimizers(const std::string& run_folder) const {
    return htl::load_safetensors(folder.path(run_folder) / "optimizer.safetensors").tensors;
  }
};

/// The table row of a text, as brute force finds it; −1 = it is not in the map.
int64_t row_of(const htl::FeatureMap& features, const std::string& field, const std::string& text) {
  int64_t first = 0;
  for (const htl::FeatureMap::Field& known : features.fields()) {
    if (known.name == field) {
      const auto found = std::find(known.vocabulary.begin(), known.vocabulary.end(), text);
      return found == known.vocabulary.end() ? -1 : first + 1 + (found - known.vocabulary.begin());
    }
    first += static_cast<int64_t>(std::max(known.vocabulary.size(), known.edges.size() + 1)) + 1;
  }
  return -1;
}

TEST_F(WarmStartProgram, PredictsAsYesterdayBeforeTheFirstStepAndGoesOnWithItsOptimizers) {
  Ended end = run(train("day2", "today") + still + " --warm-start yesterday");
  ASSERT_EQ(end.status, 0) << end.text;
  auto was = predictions("yesterday"), is = predictions("today");
  for (const std::string task : {"click", "like", "share", "save", "time"}) {
    ASSERT_EQ(was[task].size(), 400U);
    ASSERT_EQ(is[task].size(), 400U);
    for (size_t row = 0; row < 400; ++row) ASSERT_NEAR(is[task][row], was[task][row], 1e-4 * (1 + std::abs(was[task][row]))) << task << " of row " << row;
  }

  // what was carried is listed
  const nlohmann::json report = htl::read_json(folder.path("today") / "warm_start.json");
  const auto entry = [&](const std::string& list, const std::string& name) {
    for (const nlohmann::json& element : report[list])
      if (element["name"] == name) return element;
    return nlohmann::json();
  };
  EXPECT_EQ(entry("in_part", "embedding.weight, field \"user\"")["new"], 4);
  EXPECT_EQ(entry("in_part", "graph.towers.time.layers.0.weight")["new"], 4) << "the columns of the new field";
  EXPECT_FALSE(entry("new_here", "embedding.weight, field \"city\"").is_null());
  EXPECT_FALSE(entry("new_here", "graph.towers.follow.output.weight").is_null());
  EXPECT_FALSE(entry("whole", "embedding.weight, field \"age\"").is_null()) << "its edges are yesterday's";
  EXPECT_FALSE(entry("whole", "graph.towers.save.output.weight.exp_avg").is_null());
  EXPECT_TRUE(report["not_carried"].empty()) << report["not_carried"];
  EXPECT_TRUE(report["notes"].empty()) << report["notes"];

  // the optimizers go on: an accumulator is yesterday's plus what the same steps give from nothing
  fs::copy(folder.path("yesterday"), folder.path("stateless"), fs::copy_options::recursive);
  fs::remove(folder.path("stateless") / "optimizer.safetensors");
  end = run(train("day2", "anew") + still + " --warm-start stateless");
  ASSERT_EQ(end.status, 0) << end.text;
  EXPECT_TRUE(contains(end.text, "has no optimizer.safetensors: the optimizers begin anew"));
  const htl::Named<at::Tensor> old = optimizers("yesterday"), now_here = optimizers("today"), anew = optimizers("anew");
  const std::string accumulator = "embedding.weight.accumulator";
  int64_t carried = 0;
  for (const auto& [field, letter, count] : {std::tuple("user", "u", 14), std::tuple("item", "i", 6), std::tuple("city", "c", 3)})
    for (int i = 0; i < count; ++i) {
      const std::string text = letter + std::to_string(i);
      const int64_t before = row_of(features("yesterday"), field, text), now = row_of(features("today"), field, text);
      ASSERT_GE(now, 0) << text;
      const float own = anew[accumulator][now].item<float>(), given = before < 0 ? 0.0F : old[accumulator][before].item<float>();
      EXPECT_NEAR(now_here[accumulator][now].item<float>(), own + given, 1e-4F * (own + given)) << text;
      carried += given > 0.0F;
    }
  EXPECT_EQ(carried, 16);
  const std::string step = "graph.towers.click.output.weight.step";
  EXPECT_EQ(now_here[step].item<float>(), old[step].item<float>() + anew[step].item<float>());
  EXPECT_EQ(now_here["graph.towers.follow.output.weight.step"].item<float>(), anew[step].item<float>());
}

TEST_F(WarmStartProgram, SaysWhatOtherStatisticsChange) {
  const Ended end = run(train("day2", "today") + " --warm-start yesterday --statistics refitted");
  ASSERT_EQ(end.status, 0) << end.text;
  EXPECT_TRUE(contains(end.text, "task \"time\" has the label transform z_score (mean ", "and learned in that of z_score (mean ",
                       "numeric column \"price\": a missing value stands for "));
  EXPECT_TRUE(contains(htl::read_file(folder.path("today") / "warm_start.json"), "its bucket edges are others"));
  EXPECT_TRUE(contains(htl::read_file(folder.path("today") / "config.toml"), "warm-start = \"yesterday\"\nstatistics = \"refitted\"\n"));
}

TEST_F(WarmStartProgram, OfARunWithoutAnEpochTakesItsCheckpoint) {
  fs::copy(folder.path("yesterday"), folder.path("begun"), fs::copy_options::recursive);
  for (const char* name : {"model.safetensors", "optimizer.safetensors", "summary.json"}) fs::remove(folder.path("begun") / name);
  const Ended end = run(train("day2", "today") + still + " --warm-start begun");
  ASSERT_EQ(end.status, 0) << end.text;
  EXPECT_TRUE(contains(end.text, "no epoch of \"begun\" has ended: this is its checkpoint of step 5, not averaged"));
  const htl::Named<at::Tensor> saved = htl::Checkpoints(folder.path("begun") / "checkpoints").newest()->tensors,
                               weights = htl::load_safetensors(folder.path("today") / "model.safetensors").tensors;
  EXPECT_TRUE(htl::test::same_bits(weights["graph.towers.time.output.weight"], saved["model.graph.towers.time.output.weight"]));
  EXPECT_EQ(optimizers("today")["graph.towers.time.output.weight.step"].item<float>(), 10);
  const nlohmann::json report = htl::read_json(folder.path("today") / "warm_start.json");
  EXPECT_TRUE(report["not_carried"].empty()) << report["not_carried"];
}

TEST_F(WarmStartProgram, RefusesWhatCantBeStartedFrom) {
  const auto refused = [&](const std::string& more, int status) {
    const Ended end = run(train("day2", "today") + more);
    EXPECT_EQ(end.status, status) << end.text;
    EXPECT_FALSE(fs::exists(folder.path("today"))) << more;
    return end.text;
  };
  EXPECT_TRUE(contains(refused(" --warm-start day1", 1), "htlnet: --warm-start expects the folder of a run, and \"day1\" has no config.toml"));
  EXPECT_TRUE(contains(refused(" --statistics refitted", 2), "--statistics is for --warm-start, which is not given; give it, or leave out --statistics"));
  EXPECT_TRUE(contains(refused(" --warm-start yesterday --output ./yesterday/ --overwrite", 2), "--output"));
  Ended end = run(train("day2", "./yesterday") + " --overwrite --warm-start yesterday");
  EXPECT_EQ(end.status, 1);
  EXPECT_TRUE(contains(end.text, "a run can't start from what it replaces; give another --output"));
  EXPECT_TRUE(fs::exists(folder.path("yesterday") / "model.safetensors"));
  fs::remove_all(folder.path("yesterday") / "checkpoints");
  fs::remove(folder.path("yesterday") / "model.safetensors");
  EXPECT_TRUE(contains(refused(" --warm-start yesterday", 1), "\"yesterday\" has neither model.safetensors nor a checkpoint; let it finish an epoch"));
}

}  // namespace
