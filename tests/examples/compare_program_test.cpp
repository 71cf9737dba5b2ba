// SPDX-License-Identifier: Apache-2.0
/// @file compare_program_test.cpp
/// @brief The program compare from the command line: grids on small synthetic rows, what goes on, what is tuned and what is refused.

#include <htl/io/safetensors.hpp>

#include <support/compare_program.hpp>

#include <ATen/ops/full.h>
#include <gtest/gtest.h>

#include <limits>
#include <map>

namespace {

namespace fs = std::filesystem;
using htl::test::CompareProgram;
using htl::test::contains;

constexpr double undefined = std::numeric_limits<double>::quiet_NaN();

TEST_F(CompareProgram, compares_a_grid_and_its_controls_and_goes_on_where_it_was_killed) {
  const std::string grid = std::string(small) + "--models htlnet,mmoe --experts 2 --adjusters sum,cagrad:c=0.4 --seeds 2 --score click^.6*long_view ";
  const pid_t child = start(htl::test::words(grid + "--output killed"));
  for (int i = 0; i < 2000 && finished("killed").size() < 3; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(20));
  ::kill(child, SIGKILL);
  end(child);
  wait_for("killed");  // the cell that was being trained may be kept before it notices that it is alone
  const std::set<std::string> before = finished("killed");
  ASSERT_GE(before.size(), 3U);
  std::map<std::string, fs::file_time_type> times;
  for (const std::string& cell : before) times[cell] = fs::last_write_time(folder.path("killed") / "cells" / cell / "cell.json");
  const htl::test::Ended went_on = run(grid + "--output killed");
  ASSERT_EQ(went_on.status, 0) << went_on.text;
  EXPECT_TRUE(contains(went_on.text, std::to_string(before.size()) + " cells were finished before"));
  for (const auto& [cell, time] : times) EXPECT_EQ(fs::last_write_time(folder.path("killed") / "cells" / cell / "cell.json"), time) << cell;

  const auto whole = run(grid + "--output whole --jobs 3");  // 6 kinds with their controls, 3 single tasks, 2 seeds, 2 bounds
  ASSERT_EQ(whole.status, 0) << whole.text;
  const std::set<std::string> cells = finished("whole");
  EXPECT_EQ(cells, finished("killed"));
  EXPECT_EQ(cells.size(), 2U * (4 + 2 + 3) + 2);
  for (const std::string& cell : cells) EXPECT_EQ(predictions("whole", cell), predictions("killed", cell)) << cell;
  EXPECT_NE(predictions("whole", "mmoe+sum+squared@z_score+none+seed1"), predictions("whole", "mmoe+sum+squared@z_score+none+seed2"));
  EXPECT_NE(predictions("whole", "htlnet+sum+squared@z_score+none+seed1"), predictions("whole", "mmoe+sum+squared@z_score+none+seed1"));

  const std::string markdown = htl::read_file(folder.path("whole") / "results.md"), html = htl::read_file(folder.path("whole") / "report.html");
  EXPECT_TRUE(contains(markdown, "## Test metrics", "## Differences to the reference", "## Fused score", "## Gain and cost", "single_task", "oracle",
                       "additive", "±", "cagrad:c=0.4"));
  EXPECT_TRUE(contains(html, "<svg", "Learning curves", "</html>"));
  for (const char* elsewhere : {"http:", "https:", "src=", "href=", "@import", "url("}) EXPECT_EQ(html.find(elsewhere), std::string::npos) << elsewhere;
  const std::string csv = htl::read_file(folder.path("whole") / "results.csv");
  EXPECT_TRUE(contains(csv, "htlnet,sum,squared@z_score,none,click,auc,true,0.", "htlnet,cagrad:c=0.4,squared@z_score,none,score,gauc(click),true,"));
  const nlohmann::json pictures = htl::read_json(folder.path("whole") / "report.json")["pictures"];
  EXPECT_EQ(pictures.size(), 3U);
  for (const auto& picture : pictures)
    for (const auto& series : picture["series"]) EXPECT_EQ(series["label"].get<std::string>().find("squared"), std::string::npos) << "all have that loss";
  EXPECT_EQ(pictures[0]["series"][0]["label"], "htlnet+sum");
  for (const char* of_kind : {"gain,true,", "ms_per_step,false,", "memory_mb,false,", "parameters,false,", "best_epoch,,"})
    EXPECT_TRUE(contains(csv, std::string("mmoe,sum,squared@z_score,none,,") + of_kind)) << of_kind;
  EXPECT_TRUE(contains(csv, "oracle,,,,,gain,true,"));
  EXPECT_TRUE(contains(htl::read_file(folder.path("whole") / "cells.csv"), "mmoe,sum,squared@z_score,none,2,,parameters,", "oracle,,,,1,,gain,",
                       "oracle,,,,,click,auc,"));

  const std::string of_oracle = csv.substr(csv.find("oracle,,,,click,auc,true,")),
                    of_model = csv.substr(csv.find("htlnet,sum,squared@z_score,none,click,auc,true,"));
  const auto mean = [](const std::string& line) { return std::stod(line.substr(line.find("true,") + 5)); };
  EXPECT_GT(mean(of_oracle), mean(of_model));
  const auto value = [&](const std::string& line) {
    EXPECT_NE(csv.find(line), std::string::npos) << line;
    return mean(csv.substr(csv.find(line)));
  };
  const double additive = value("additive,,,,click,auc,true,");
  EXPECT_NEAR(value("htlnet,sum,squared@z_score,none,click,auc share_of_gap,true,"), (mean(of_model) - additive) / (mean(of_oracle) - additive), 1e-6);
  EXPECT_EQ(value("oracle,,,,click,auc share_of_gap,true,"), 1.0);
  EXPECT_EQ(value("additive,,,,watch_time,nrmse share_of_gap,true,"), 0.0);
  EXPECT_TRUE(contains(markdown, "## Share of the gap, %"));

  std::string longer = grid;
  longer.replace(longer.find("--epochs 2"), 10, "--epochs 3");
  const auto other = run(longer + "--output whole");
  EXPECT_EQ(other.status, 1);
  EXPECT_TRUE(contains(other.text, "was made with epochs 2, not 3; give another --output"));
  const auto world = run(grid + "--output whole --seed 2");
  EXPECT_TRUE(contains(world.text, "was made with seed 1, not 2"));
}

TEST_F(CompareProgram, gives_a_method_that_wants_several_batches_a_batch_in_parts) {
  const auto ended = run(std::string(small) +
                         "--models htlnet,mmoe --experts 2 --adjusters modo --balancers none,uncertainty --seeds 1 --without-single-tasks --output several");
  ASSERT_EQ(ended.status, 0) << ended.text;
  for (const char* model : {"htlnet", "mmoe"}) {
    const std::string cell = std::string(model) + "+modo+squared@z_score+";
    EXPECT_NE(predictions("several", cell + "none+seed1"), predictions("several", cell + "uncertainty+seed1"));
  }
  EXPECT_NE(predictions("several", "htlnet+modo+squared@z_score+none+seed1"), predictions("several", "htlnet+sum+squared@z_score+none+seed1"));
}

TEST_F(CompareProgram, adds_losses_of_the_core) {
  const auto ended = run(std::string(small) + "--models htlnet --adjusters sum --losses squared,squared&0.5*pairwise_ranking:group=user,margin=1 --seeds 1 " +
                         "--without-single-tasks --output added");
  ASSERT_EQ(ended.status, 0) << ended.text;
  EXPECT_TRUE(contains(ended.text, "| squared@z_score&0.5\\*pairwise_ranking:group=user,margin=1 |"));
  std::vector<std::string> of_htlnet;
  for (const std::string& cell : finished("added"))
    if (cell.starts_with("htlnet+sum+squared@z_score")) of_htlnet.push_back(predictions("added", cell));
  ASSERT_EQ(of_htlnet.size(), 2u);
  EXPECT_NE(of_htlnet[0], of_htlnet[1]);
}

TEST_F(CompareProgram, tunes_every_kind_alike_and_keeps_a_cell_that_fails) {
  const std::string grid = std::string(small) +
                           "--models htlnet --adjusters sum --balancers none,uncertainty --losses squared@z_score|ziln --seeds 1 --tune 2 "
                           "--without-single-tasks --output tuned";
  const auto ended = run(grid);
  ASSERT_EQ(ended.status, 0) << ended.text;
  int draws = 0;
  for (const auto& entry : fs::directory_iterator(folder.path("tuned") / "tuning")) draws += fs::exists(entry.path() / "cell.json") ? 1 : 0;
  EXPECT_EQ(draws, 2 * (4 + 2));
  for (const auto& entry : fs::directory_iterator(folder.path("tuned") / "tuning")) EXPECT_FALSE(fs::exists(entry.path() / "predictions.safetensors"));
  EXPECT_TRUE(contains(ended.text, "6 of 8 cells are finished", "0 cells were finished before, 8 are new")) << "the draw that was chosen is the cell";
  for (const std::string& cell : finished("tuned")) {
    if (cell == "oracle" || cell == "additive") continue;
    const nlohmann::json rates = htl::read_json(folder.path("tuned") / "cells" / cell / "cell.json")["spec"]["rates"];
    const std::string kind = cell.substr(0, cell.size() - 6);
    std::vector<std::pair<double, nlohmann::json>> tried;
    for (const char* draw : {"0", "1"}) {
      const nlohmann::json of = htl::read_json(folder.path("tuned") / "tuning" / (kind + "+seed1+draw" + draw) / "cell.json");
      tried.emplace_back(of["figures"]["selected_value"].get<double>(), of["spec"]["rates"]);
    }
    EXPECT_EQ(rates, std::min(tried[0], tried[1]).second) << cell;  // of nrmse the least
  }
  const std::string adopted = "htlnet+sum+squared@z_score+none+seed1", first = predictions("tuned", adopted);
  const nlohmann::json figures = htl::read_json(folder.path("tuned") / "cells" / adopted / "cell.json")["figures"];
  fs::remove_all(folder.path("tuned") / "cells" / adopted);
  EXPECT_TRUE(contains(run(grid).text, "7 cells were finished before, 1 are new"));
  EXPECT_EQ(predictions("tuned", adopted), first) << "trained again it is the same";
  EXPECT_EQ(htl::read_json(folder.path("tuned") / "cells" / adopted / "cell.json")["figures"]["test"], figures["test"]);
  EXPECT_TRUE(contains(ended.text, "ziln@none", "Without single-task models there is no gain"));

  const auto failed = run(std::string(small) + "--models htlnet --adjusters sum --losses squared@none --dense-lr 1e30 --seeds 1 --output failed");
  EXPECT_EQ(failed.status, 0) << failed.text;
  EXPECT_TRUE(contains(failed.text, "was not finite in step"));
  EXPECT_TRUE(contains(htl::read_file(folder.path("failed") / "results.md"), "Failed: htlnet+sum+squared@none+none, seed 1: "));
}

TEST_F(CompareProgram, refuses_with_a_sentence_before_anything_is_trained) {
  const auto refused = [&](const std::string& options, int status, const std::string& sentence) {
    const auto ended = run(std::string(small) + options + " --output refused");
    EXPECT_EQ(ended.status, status) << ended.text;
    EXPECT_TRUE(contains(ended.text, sentence));
    EXPECT_FALSE(fs::exists(folder.path("refused"))) << options;
  };
  refused("--models htlnt", 2, "unknown model \"htlnt\"; did you mean \"htlnet\"?");
  refused("--models htlnet --adjusters mgdaa", 2, "did you mean \"mgda\"?");
  refused("--models htlnet --losses zilm", 2, "did you mean \"ziln\"?");
  refused("--models htlnet --losses squared@zscore", 2, "did you mean \"z_score\"?");
  refused("--models htlnet --losses ziln@z_score", 2, "works in the label's unit");
  refused("--models htlnet --losses softmax_cross_entropy:classes=3", 2, "is not for a regression");
  refused("--models htlnet --losses focal", 1, "[0, 1]");
  refused("--models htlnet --losses squared&two*huber", 2, "compare: --losses expected WEIGHT*LOSS, or LOSS alone, after \"&\", got \"two*huber\"");
  refused("--models htlnet --losses squared&2*coral:classes=3", 2, "\"coral:classes=3\" of --losses is not for a regression");
  refused("--models htlnet --experts 3", 2, "--experts is for mmoe and htlnet_mmoe, and none of them is among --models");
  refused("--models shared_bottom --gate-dropout=0.1", 2, "--gate-dropout is for mixtures of experts");
  refused("--models htlnet --balancers dwaa", 2, "did you mean \"dwa\"?");
  refused("--models htlnet --adjusters famo --balancers dwa", 2, "compares the losses before and after a step");
  refused("--models htlnet --modle x", 2, "there is no option \"--modle\"; did you mean \"--model");
  refused("--models htlnet --patience x", 2, "--patience");
  refused("--models htlnet --jobs 0", 2, "--jobs");
  refused("--models htlnet --score clik", 1, "did you mean \"click\"?");
  refused("--models htlnet --group tab", 1, "--group \"tab\" is no column of groups; the data have \"user\"");
  refused("--models htlnet --attend user", 2, "--attend expected HISTORY=TARGET, several with | between them, got \"user\"");
  refused("--models htlnet --attend usr=item", 1, "htl::FeatureMap: there is no field \"usr\"; did you mean \"user\"?");
  refused("--models htlnet --attend user=item", 1, "--attend expected a multi-valued field and a categorical one");
  refused("--models htlnet --numbers-by periodic", 1, "--numbers-by periodic embeds numeric features, and the data have none");
  refused("--models htlnet --numbers-by sines", 2, "--numbers-by");
  refused("--models htlnet --predictions trees", 2, "--predictions expected NAME=FILE.safetensors, got \"trees\"");
  refused("--models htlnet --predictions mmoe=x.safetensors", 2, "\"mmoe\" is the name of another row of the tables");
  refused("--models htlnet --predictions ../x=x.safetensors", 2, "expected a name of letters, digits");
  refused("--models htlnet --predictions trees=x.safetensors", 1, "--predictions trees: htl::load_safetensors: expected a file \"x.safetensors\"");
  htl::Named<at::Tensor> some;
  const auto save = [&](const std::string& name, int64_t rows, double value) {
    htl::save_safetensors(folder.path("some.safetensors"), {.tensors = some.set(name, at::full({rows}, value, at::kFloat))});
  };
  save("click", 150, 0.5);
  refused("--models htlnet --predictions trees=some.safetensors", 1, "has no tensor \"long_view\"; it has \"click\"");
  save("long_view", 149, 0.5);
  refused("--models htlnet --predictions trees=some.safetensors", 1, "expected floating-point \"long_view\" [150], one for each test row");
  save("long_view", 150, 0.5);
  save("watch_time", 150, undefined);
  refused("--models htlnet --predictions trees=some.safetensors", 1, "compare: --predictions trees: ");
  refused("--models htlnet --reference mmoe", 1, "--reference \"mmoe\" is not in the grid");
}

}  // namespace
