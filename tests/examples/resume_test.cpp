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
  const auto whole = std::chrono::milliseconds(100);
  Ended end{};
  for (int attempt = 1; attempt < 40; ++attempt) {  // it must come while the program trains
    fs::remove_all(folder.path("stopped"));
    end = into("stopped", small(), attempt % 2 == 0 ? SIGINT : SIGTERM, whole * attempt);
    if (end.text.find("--resume goes on from there") != std::string::npos) break;
    if (end.status == 0) attempt = 0;
  }
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
  const auto start = std::chrono::steady_clock::now();
  ASSERT_EQ(into("straight", words).status, 0);
  const auto whole = std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now() - start);
  ASSERT_TRUE(fs::exists(folder.path("straight") / "warm_start.json"));
  for (int attempt = 0; htl::Checkpoints(folder.path("stopped") / "checkpoints").list().empty() || fs::exists(folder.path("stopped") / "summary.json");
       ++attempt) {  // it must be killed between its first checkpoint and its end
    ASSERT_LT(attempt, 40);
    fs::remove_all(folder.path("stopped"));
    into("stopped", words, SIGKILL, whole * (50 + attempt % 10 * 5) / 100);
  }
  fs::rename(folder.path("earlier"), folder.path("gone"));
  Ended end = into("stopped", small("--resume --warm-start gone"));
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
    const auto arguments = words("train --dataset synthetic --rows 2000 --epochs 2 --batch-size 128 --tower 8 --threads 1 --patience 0 --log-every 3 " +
                                 std::string("--checkpoint-every 4 --keep-checkpoints 3 --quiet --resume --adjuster ") + name);
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
}

}  // namespace
