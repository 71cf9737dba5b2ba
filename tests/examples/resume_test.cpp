// SPDX-License-Identifier: Apache-2.0
/// @file resume_test.cpp
/// @brief The program htlnet, killed and resumed: what it ends with is, bit by bit, what a run ends with that was never stopped.
///
/// HTL_KILLS says how often it is killed in one test (default 4); scripts/kill_and_resume.sh sets it.

#include <htl/io/checkpoint.hpp>
#include <htl/io/event_file.hpp>
#include <htl/io/json.hpp>

#include <support/program.hpp>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <random>

namespace {

namespace fs = std::filesystem;
using htl::test::contains;
using htl::test::same_bits;

using htl::test::Ended;
using htl::test::words;

class Resume : public htl::test::ProgramTest {
 protected:
  static std::vector<std::string> small(const std::string& more = "") {
    return words(
        "train --dataset synthetic --rows 12000 --epochs 4 --batch-size 256 --tower 16,8 --dropout 0.1 --threads 2 --patience 0 --log-every 7 "
        "--norm average --temperature exponential:2,0.9,10,0.5 --decay cosine --warmup 5 --row-optimizer lazy_adam --clip-norm 1 "
        "--checkpoint-every 6 --quiet " +
        more);
  }
  Ended into(const std::string& output, std::vector<std::string> arguments, int signal = 0, std::chrono::microseconds after = {}) const {
    arguments.push_back("--output");
    arguments.push_back(folder.path(output).string());
    return run(std::move(arguments), {}, signal, after);
  }
  /// Runs it anew until its first checkpoint stands, and sends the signal there.
  Ended into_until_saved(const std::string& output, std::vector<std::string> arguments, int signal) const {
    fs::remove_all(folder.path(output));
    arguments.push_back("--output");
    arguments.push_back(folder.path(output).string());
    const htl::Checkpoints checkpoints(folder.path(output) / "checkpoints");
    return run_until([&] { return !checkpoints.list().empty(); }, signal, std::move(arguments));
  }
  std::vector<nlohmann::json> metrics(const std::string& output) const {
    std::ifstream file(folder.path(output) / "metrics.jsonl");
    std::vector<nlohmann::json> lines;
    for (std::string line; std::getline(file, line);) {
      nlohmann::json json = nlohmann::json::parse(line);
      for (const char* time : {"seconds", "samples_per_second"}) json.erase(time);
      lines.push_back(std::move(json));
    }
    return lines;
  }
  /// The records of the event file, without what the clock says.
  std::vector<std::string> events(const std::string& output) const {
    const std::string bytes = htl::read_file(folder.path(output) / "events" / "events.out.tfevents.htl"), speed = "samples_per_second";
    std::vector<std::string> records;
    for (size_t at = 0, size = 0; at + 16 <= bytes.size(); at += 16 + size) {
      std::memcpy(&size, bytes.data() + at, sizeof(size));
      std::string event = bytes.substr(at + 12, size);
      EXPECT_EQ(htl::detail::as_record(event), bytes.substr(at, 16 + size)) << "a damaged record at byte " << at;
      event.replace(1, 8, 8, '\0');  // the wall time
      const size_t tag = event.find(speed);
      if (tag != std::string::npos) event.replace(tag + speed.size() + 1, 4, 4, '\0');
      records.push_back(std::move(event));
    }
    return records;
  }
  void expect_same_state(const std::string& a, const std::string& b) const {
    EXPECT_EQ(htl::read_file(folder.path(a) / "model.safetensors"), htl::read_file(folder.path(b) / "model.safetensors"));
    const auto of_a = htl::Checkpoints(folder.path(a) / "checkpoints").newest(), of_b = htl::Checkpoints(folder.path(b) / "checkpoints").newest();
    ASSERT_TRUE(of_a && of_b);
    ASSERT_EQ(of_a->tensors.names(), of_b->tensors.names());
    for (const auto& [name, tensor] : of_a->tensors) {
      if (name.starts_with("time.") || name == "metrics_size") continue;
      EXPECT_TRUE(same_bits(tensor, of_b->tensors[name])) << name;
    }
    EXPECT_EQ(metrics(a), metrics(b));
  }
  /// A small run with a checkpoint every four steps.
  static std::vector<std::string> step_by_step(std::vector<std::string> more) {
    std::vector<std::string> arguments = words(
        "train --dataset synthetic --rows 2000 --epochs 2 --batch-size 128 --tower 8 --threads 1 --patience 0 --log-every 3 --checkpoint-every 4 "
        "--keep-checkpoints 3 --quiet --resume");
    arguments.insert(arguments.end(), more.begin(), more.end());
    return arguments;
  }
  /// Trains into "straight", and into "resumed" from two checkpoints before the end.
  void expect_the_same_from_an_earlier_checkpoint(const std::vector<std::string>& more) const {
    const std::vector<std::string> arguments = step_by_step(more);
    fs::remove_all(folder.path("straight"));
    fs::remove_all(folder.path("resumed"));
    const Ended end = into("straight", arguments);
    ASSERT_EQ(end.status, 0) << end.text;
    fs::copy(folder.path("straight"), folder.path("resumed"), fs::copy_options::recursive);
    fs::remove(folder.path("resumed") / "summary.json");
    const auto list = htl::Checkpoints(folder.path("resumed") / "checkpoints").list();
    ASSERT_EQ(list.size(), 3U);
    for (size_t newest = 0; newest < 2; ++newest) fs::remove(list[newest].second);
    const Ended again = into("resumed", arguments);
    ASSERT_EQ(again.status, 0) << again.text;
    expect_same_state("straight", "resumed");
  }
  void expect_same_run(const std::string& a, const std::string& b) const {
    expect_same_state(a, b);
    EXPECT_EQ(events(a), events(b));
    EXPECT_GT(events(a).size(), 10U);
    for (const std::string& of : {a, b})
      ASSERT_EQ(run({"predict", "--run", folder.path(of).string(), "--output", folder.path(of + ".csv").string(), "--threads", "2"}).status, 0);
    EXPECT_EQ(htl::read_file(folder.path(a + ".csv")), htl::read_file(folder.path(b + ".csv")));
    const auto summary = [&](const std::string& of) {
      nlohmann::json json = htl::read_json(folder.path(of) / "summary.json");
      for (const char* machine : {"samples_per_second", "train_seconds", "load_seconds", "peak_memory_mb", "matrix_backend"}) json.erase(machine);
      return json;
    };
    EXPECT_EQ(summary(a), summary(b));
  }
};

int kills() {
  const char* text = std::getenv("HTL_KILLS");
  return text ? std::atoi(text) : 4;
}

TEST_F(Resume, AfterKillsAtAnyMomentEndsBitByBitAsIfNothingHadHappened) {
  const auto start = std::chrono::steady_clock::now();
  ASSERT_EQ(into("straight", small()).status, 0);
  const auto whole = std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now() - start);
  std::mt19937_64 random(std::random_device{}());
  const uint64_t seed = random();
  random.seed(seed);
  int left = kills(), runs = 0;
  for (; left > 0; ++runs) {
    const std::string output = "killed." + std::to_string(runs);
    Ended end{};
    int64_t last = 0;
    do {
      // most of the time is spent before the first step: aim between the first step and the end
      const auto after =
          std::chrono::microseconds(static_cast<int64_t>(static_cast<double>(whole.count()) * (0.2 + 0.9 * static_cast<double>(random() >> 11) * 0x1p-53)));
      end = into(output, small("--resume"), left > 0 ? SIGKILL : 0, after);
      ASSERT_TRUE(end.status == 0 || end.status == 128 + SIGKILL) << end.text << "\nseed " << seed;
      const auto list = htl::Checkpoints(folder.path(output) / "checkpoints").list();
      const int64_t step = list.empty() ? 0 : list.front().first;
      ASSERT_GE(step, last) << "a checkpoint was lost; seed " << seed;
      last = step;
      left -= end.status == 0 ? 0 : 1;
    } while (end.status != 0);
    expect_same_run("straight", output);
    if (HasFailure()) FAIL() << "seed " << seed;
  }
  RecordProperty("runs", runs);
}

TEST_F(Resume, AfterCtrlCGoesOnFromTheStepThatItSaved) {
  ASSERT_EQ(into("straight", small()).status, 0);
  Ended end{};
  for (int attempt = 0; attempt < 40 && end.text.find("--resume goes on from there") == std::string::npos; ++attempt)  // it may end before the signal comes
    end = into_until_saved("stopped", small(), attempt % 2 == 0 ? SIGINT : SIGTERM);
  ASSERT_TRUE(contains(end.text, "htlnet: stopped after step ")) << end.status;
  EXPECT_TRUE(end.status == 130 || end.status == 143) << end.status;
  const auto found = htl::Checkpoints(folder.path("stopped") / "checkpoints").newest();
  ASSERT_TRUE(found);
  EXPECT_TRUE(contains(end.text, "stopped after step " + std::to_string(found->step) + ";"));

  // a run that is not finished is neither trained into again by mistake nor goes on with other options
  end = into("stopped", small());
  EXPECT_EQ(end.status, 1);
  EXPECT_TRUE(contains(end.text, "--resume to go on with that run"));
  end = into("stopped", small("--resume --dense-lr 0.01"));
  EXPECT_EQ(end.status, 1);
  EXPECT_TRUE(contains(end.text, "htlnet: --dense-lr 0.01 contradicts the run in", "which has 0.001"));
  end = into("stopped", small("--resume --overwrite"));
  EXPECT_EQ(end.status, 2);
  EXPECT_TRUE(contains(end.text, "expected --resume or --overwrite, got both"));

  // without an option the run's own are taken
  end = into("stopped", {"train", "--resume"});
  EXPECT_EQ(end.status, 0) << end.text;
  expect_same_run("straight", "stopped");
  end = into("stopped", {"train", "--resume"});
  EXPECT_EQ(end.status, 0);
  EXPECT_TRUE(contains(end.text, "is finished"));
}

TEST_F(Resume, OfAWarmStartEndsAsOneThatWasNeverStoppedAndTakesTheEarlierRunOverOnce) {
  ASSERT_EQ(into("earlier", small("--seed 3")).status, 0);
  const std::vector<std::string> words = small("--resume --warm-start " + folder.path("earlier").string());
  ASSERT_EQ(into("straight", words).status, 0);
  ASSERT_TRUE(fs::exists(folder.path("straight") / "warm_start.json"));
  Ended end{};
  for (int attempt = 0; attempt < 40 && end.status != 128 + SIGKILL; ++attempt) end = into_until_saved("stopped", words, SIGKILL);
  ASSERT_EQ(end.status, 128 + SIGKILL) << end.text;
  fs::rename(folder.path("earlier"), folder.path("gone"));
  end = into("stopped", small("--resume --warm-start gone"));
  EXPECT_EQ(end.status, 1);
  EXPECT_TRUE(contains(end.text, "htlnet: --warm-start \"gone\" contradicts the run in"));
  end = into("stopped", {"train", "--resume"});
  EXPECT_EQ(end.status, 0) << end.text;
  expect_same_run("straight", "stopped");
}

TEST_F(Resume, FromADamagedCheckpointTakesTheOneBeforeAndFromOtherDataNone) {
  ASSERT_EQ(into("straight", small()).status, 0);
  fs::copy(folder.path("straight"), folder.path("damaged"), fs::copy_options::recursive);
  fs::remove(folder.path("damaged") / "summary.json");
  const auto list = htl::Checkpoints(folder.path("damaged") / "checkpoints").list();
  ASSERT_EQ(list.size(), 2U);
  fs::resize_file(list[0].second, fs::file_size(list[0].second) - 1);
  Ended end = into("damaged", small("--resume"));
  EXPECT_EQ(end.status, 0) << end.text;
  EXPECT_TRUE(contains(end.text, "htlnet: warning:", list[0].second.string(), "going on from the checkpoint before it"));
  expect_same_run("straight", "damaged");

  fs::remove(folder.path("damaged") / "summary.json");
  for (const auto& [step, path] : list) fs::resize_file(path, 100);
  end = into("damaged", small("--resume"));
  EXPECT_EQ(end.status, 1);
  EXPECT_TRUE(contains(end.text, "none of the 2 checkpoints in", "can be read"));

  fs::copy(folder.path("straight"), folder.path("other"), fs::copy_options::recursive);
  fs::remove(folder.path("other") / "summary.json");
  nlohmann::json features = htl::read_json(folder.path("other") / "features.json");
  features["fields"][0]["vocabulary"].erase(0);
  htl::write_json(folder.path("other") / "features.json", features);
  end = into("other", small("--resume"));
  EXPECT_EQ(end.status, 1);
  EXPECT_TRUE(contains(end.text, "the features of the training rows are not those that the run in"));
}

TEST_F(Resume, WithEveryAdjusterGoesOnFromWhatItRemembers) {
  const std::string known = into("none", words("train --adjuster ?")).text;
  std::vector<std::string> names;
  for (size_t at = known.find("Known: "); (at = known.find('"', at)) != std::string::npos;) {
    const size_t end = known.find('"', at + 1);
    names.push_back(known.substr(at + 1, end - at - 1));
    at = end + 1;
  }
  ASSERT_GE(names.size(), 29U) << known;
  for (std::string name : names) {
    if (name == "constant") name += ":weights=1;2;0.5";
    if (name == "cr_mogm") name += ":inner=gradvac";
    SCOPED_TRACE(name);
    expect_the_same_from_an_earlier_checkpoint({"--adjuster", name});
  }
}

TEST_F(Resume, WithBalancersAndLossesGoesOnFromWhatTheyRememberAndLearn) {
  for (const char* balancer : {"uncertainty", "dwa", "famo", "stch"}) {
    SCOPED_TRACE(balancer);
    expect_the_same_from_an_earlier_checkpoint({"--balancer", balancer, "--loss", "watch_time=bucket_softmax:buckets=6|long_view=focal"});
    const std::vector<nlohmann::json> lines = metrics("straight");
    std::vector<nlohmann::json> weights;
    for (const nlohmann::json& line : lines)
      if (line["kind"] == "step") weights.push_back(line.at("loss_weights"));
    ASSERT_GT(weights.size(), 4U);
    const bool waits = std::string(balancer) == "dwa";  // for two epochs that it can compare
    EXPECT_EQ(weights.back() == weights.front(), waits);
    const nlohmann::json tasks = htl::read_json(folder.path("straight") / "tasks.json").at("tasks");
    EXPECT_EQ(tasks.at(1).at("losses").at(0).at("name"), "focal");
    EXPECT_EQ(tasks.at(2).at("losses").at(0).at("name"), "bucket_softmax");
  }
}

TEST_F(Resume, OfACalibratedRunFitsItsCalibratorsOnceMoreAndPredictsByThem) {
  expect_the_same_from_an_earlier_checkpoint({"--calibrate", "click=platt|watch_time=scale"});
  const nlohmann::json calibrated = htl::read_json(folder.path("straight") / "tasks.json");
  EXPECT_EQ(calibrated, htl::read_json(folder.path("resumed") / "tasks.json"));
  const std::vector<std::string> small_run = step_by_step({"--adjuster", "core_task"});
  ASSERT_EQ(into("plain", small_run).status, 0);
  const auto test_of = [&](const std::string& run) { return htl::read_json(folder.path(run) / "summary.json").at("test"); };
  const nlohmann::json with = test_of("straight"), without = test_of("plain");
  for (const char* order : {"auc", "rows"}) EXPECT_EQ(with["click"][order], without["click"][order]);
  EXPECT_NE(with["click"]["log_loss"], without["click"]["log_loss"]);
  EXPECT_NE(with["watch_time"]["calibration_ratio"], without["watch_time"]["calibration_ratio"]);
  EXPECT_EQ(with["long_view"], without["long_view"]);
  const double scale = calibrated.at("tasks").at(2).at("calibration").at("statistics").at("factor").get<double>();
  const auto mean_of = [&](const std::string& run) {
    EXPECT_EQ(this->run({"predict", "--run", folder.path(run).string(), "--output", folder.path(run + ".csv").string(), "--threads", "1"}).status, 0);
    std::ifstream file(folder.path(run + ".csv"));
    std::string line;
    std::getline(file, line);
    double sum = 0.0;
    while (std::getline(file, line)) sum += std::stod(line.substr(line.rfind(',') + 1));
    return sum;
  };
  EXPECT_NEAR(mean_of("straight") / mean_of("plain"), scale, 1e-4 * scale);
}

}  // namespace
