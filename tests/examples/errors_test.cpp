// SPDX-License-Identifier: Apache-2.0
/// @file errors_test.cpp
/// @brief The program htlnet on bad input: a sentence, an exit code that is not 0, and nothing half-written. docs/errors.md lists these.

#include <htl/io/checkpoint.hpp>
#include <htl/io/json.hpp>

#include <support/program.hpp>

#include <ATen/ops/zeros.h>
#include <sys/resource.h>
#include <zlib.h>

namespace {

namespace fs = std::filesystem;
using htl::test::contains;
using htl::test::Ended;

std::string replaced(std::string text, const std::string& piece, const std::string& instead) {
  const size_t at = text.find(piece);
  EXPECT_NE(at, std::string::npos) << piece;
  return at == std::string::npos ? text : text.replace(at, piece.size(), instead);
}

class ProgramErrors : public htl::test::ProgramTest {
 protected:
  void SetUp() override {
    ProgramTest::SetUp();
    if (IsSkipped()) return;
    write("data/rows.csv", good_rows());
    write("schema.toml", good_schema);
  }
  static std::string good_rows() {
    std::string rows = "user,age,part,click,kind,time\n";
    for (int row = 0; row < 60; ++row)
      rows += "u" + std::to_string(row % 7) + "," + std::to_string(20 + row % 9) +
              (row < 40   ? ",train,"
               : row < 50 ? ",valid,"
                          : ",test,") +
              std::to_string(row % 2) + "," + std::to_string(row % 3) + "," + std::to_string(row % 5) + "\n";
    return rows;
  }
  /// Every file and folder, to see that none was added.
  std::vector<std::string> files() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::recursive_directory_iterator(folder.path()))
      if (entry.path().filename() != ".printed") names.push_back(entry.path().string());
    std::sort(names.begin(), names.end());
    return names;
  }
  /// What the program says to it; it must refuse, and leave no file.
  std::string refused(const std::string& command, int status = 1, const std::function<void()>& in_child = {}) const {
    const std::vector<std::string> before = files();
    const Ended end = run(command, in_child);
    EXPECT_EQ(end.status, status) << command << "\n" << end.text;
    EXPECT_EQ(files(), before) << command;
    EXPECT_EQ(end.text.find("htlnet: htlnet:"), std::string::npos) << end.text;
    return end.text;
  }
  std::string with_rows(const std::string& rows) const {
    write("data/rows.csv", rows);
    const std::string text = refused(train);
    write("data/rows.csv", good_rows());
    return text;
  }
  std::string with_schema(const std::string& piece, const std::string& instead) const {
    write("schema.toml", replaced(good_schema, piece, instead));
    const std::string text = refused(train);
    write("schema.toml", good_schema);
    return text;
  }
  void train_a_run(const std::string& more = "") const {
    const Ended end = run(train + more);
    ASSERT_EQ(end.status, 0) << end.text;
  }

  static constexpr const char* good_schema =
      "features = { categorical = [\"user\"], numeric = [\"age\"] }\n"
      "split = { column = \"part\", train = \"train\", valid = \"valid\", test = \"test\" }\n"
      "[[task]]\nname = \"click\"\nkind = \"binary\"\n"
      "[[task]]\nname = \"kind\"\nkind = \"multiclass\"\nclasses = 3\nafter = [\"click\"]\n"
      "[[task]]\nname = \"time\"\nkind = \"regression\"\nafter = [\"click\"]\ncore = true\ntransform = \"log1p\"\n";
  const std::string train =
      "train --dataset csv --data data --schema schema.toml --output out --epochs 1 --batch-size 8 --tower 4 --embedding-dim 2 --threads 1 --quiet ";
};

TEST_F(ProgramErrors, MissingFilesAndColumns) {
  EXPECT_TRUE(
      contains(refused(replaced(train, "--data data", "--data nowhere")), "htlnet: htl::ByteSource: can't open \"nowhere\": No such file or directory"));
  EXPECT_TRUE(contains(refused(replaced(train, "schema.toml", "none.toml")), "htlnet: can't read the schema \"none.toml\""));
  EXPECT_TRUE(
      contains(with_schema("\"age\"", "\"aeg\""), "htl::CsvReader: \"data/rows.csv\" has no column \"aeg\"; did you mean \"age\"? Columns: \"user\", \"age\""));
  EXPECT_TRUE(contains(refused("evaluate --run nowhere"), "htlnet: expected a finished run with \"nowhere/config.toml\", which is not there"));
}

TEST_F(ProgramErrors, CsvThatIsNone) {
  const std::string good = good_rows();
  EXPECT_TRUE(contains(with_rows(replaced(good, "u1,21,train", "u1,train")), "\"data/rows.csv\", line 3: expected 6 fields as in the header, got 5"));
  EXPECT_TRUE(contains(with_rows(good.substr(0, 70)), "expected 6 fields as in the header, got "));
  EXPECT_TRUE(contains(with_rows(replaced(good, "u1,", "\"u1,")), "line 3: a quoted field of the row that begins here is never closed"));
  EXPECT_TRUE(contains(with_rows(""), "\"data/rows.csv\" is empty; expected a header row"));
  EXPECT_TRUE(contains(with_rows(replaced(good, "u1", std::string("u\0", 2))), "line 3: a zero byte, so this is no text in UTF-8 or another 8-bit code"));
  EXPECT_TRUE(contains(with_rows("PAR1" + good), "is a Parquet file; expected text, plain or compressed by gzip"));
}

TEST_F(ProgramErrors, BrokenGzip) {
  fs::remove(folder.path("data/rows.csv"));
  const fs::path path = folder.path("data/rows.csv.gz");
  gzFile file = ::gzopen(path.c_str(), "wb");
  const std::string text = good_rows();
  ASSERT_EQ(::gzwrite(file, text.data(), static_cast<unsigned>(text.size())), static_cast<int>(text.size()));
  ASSERT_EQ(::gzclose(file), Z_OK);
  const std::string whole = htl::read_file(path);
  write("data/rows.csv.gz", whole.substr(0, whole.size() / 2));
  EXPECT_TRUE(contains(refused(train), "\"data/rows.csv.gz\" ends in the middle of its gzip stream; was it copied or downloaded completely?"));
  std::string flipped = whole;
  flipped[whole.size() - 6] = static_cast<char>(flipped[whole.size() - 6] ^ 1);
  write("data/rows.csv.gz", flipped);
  EXPECT_TRUE(contains(refused(train), "the gzip stream of \"data/rows.csv.gz\" is broken after ", "incorrect data check"));
  write("data/rows.csv.gz", whole);
  EXPECT_EQ(run(train).status, 0);
}

TEST_F(ProgramErrors, ValuesThatAreNoneOfTheirColumn) {
  const std::string good = good_rows(), row = "u1,21,train,1,1,1\n";
  const auto with = [&](const std::string& instead) { return with_rows(replaced(good, row, instead)); };
  EXPECT_TRUE(contains(with("u1,old,train,1,1,1\n"), "\"data/rows.csv\", line 3, column \"age\": expected a number or nothing, got \"old\""));
  EXPECT_TRUE(contains(with("u1,1e300,train,1,1,1\n"), "column \"age\": expected a number within single precision (up to 3.4e38), got \"1e300\""));
  EXPECT_TRUE(contains(with("u1,21,train,2,1,1\n"), "column \"click\": expected 0 or 1, or nothing where it was not observed, got \"2\""));
  EXPECT_TRUE(contains(with("u1,21,train,1,3,1\n"), "column \"kind\": expected a class in [0, 3), got \"3\""));
  EXPECT_TRUE(contains(with("u1,21,train,1,1,inf\n"), "column \"time\": expected a number", "got \"inf\""));
  EXPECT_TRUE(contains(with("u1,21,train,1,1,much\n"), "column \"time\": expected a number, got \"much\""));
  EXPECT_TRUE(contains(with("u1,21,train,1,1,-1\n"), "\"time\"", "htl::log1p: expected labels ≥ 0, got -1; use z_score()"));
}

TEST_F(ProgramErrors, PartsAndTasksWithoutRows) {
  EXPECT_TRUE(contains(with_schema("valid = \"valid\"", "valid = \"none\""),
                       "htlnet: expected validation rows by [split] of \"schema.toml\", found none among 60 rows"));
  std::string rows = "user,age,part,click,kind,time\n";
  for (int row = 0; row < 60; ++row) rows += "u1,20," + std::string(row < 40 ? "train" : row < 50 ? "valid" : "test") + (row < 40 ? ",,1,1\n" : ",1,1,1\n");
  EXPECT_TRUE(contains(with_rows(rows), "htlnet: task \"click\" has no label in any of the 40 training rows; name its column and mask in the schema"));
}

TEST_F(ProgramErrors, SchemasAndTaskGraphs) {
  EXPECT_TRUE(contains(with_schema("numeric", "numerc"), "htlnet: \"schema.toml\", line 1: unknown key \"numerc\" in [features]; did you mean \"numeric\"?"));
  EXPECT_TRUE(contains(with_schema("classes = 3\n", ""), "task \"kind\" is multiclass; expected classes, their number"));
  EXPECT_TRUE(
      contains(with_schema("after = [\"click\"]", "after = [\"clik\"]"), "task \"kind\" follows \"clik\", which is not there; did you mean \"click\"?"));
  EXPECT_TRUE(contains(with_schema("kind = \"binary\"", "kind = \"binary\"\nafter = [\"time\"]"),
                       "the tasks follow each other in a cycle: \"click\" after \"time\" after \"click\"; remove one of these edges"));
  EXPECT_TRUE(contains(with_schema("[[task]]", "[[task]"), "htlnet: can't read the schema \"schema.toml\", line 3: "));
}

TEST_F(ProgramErrors, OptionsThatAreNoneOrContradict) {
  EXPECT_TRUE(contains(refused("train --outptu out", 2), "htlnet: there is no option \"--outptu\" of train; did you mean \"--output\"?"));
  EXPECT_TRUE(contains(refused("trian --output out", 2), "htlnet: there is no command \"trian\"; did you mean \"train\"?"));
  EXPECT_TRUE(contains(refused("train --model htlnt --output out", 2), "did you mean \"htlnet\"?"));
  EXPECT_TRUE(contains(refused("train --epochs 1.5 --output out", 2), "expected a whole number ≥ 1 in plain digits, up to 2^63 - 1, got \"1.5\""));
  EXPECT_TRUE(contains(refused(train + "--rows 5", 2), "--rows is for --dataset synthetic, got --dataset csv; give --dataset synthetic, or leave out --rows"));
  EXPECT_TRUE(contains(refused(train + "--resume --overwrite", 2), "expected --resume or --overwrite, got both"));
  EXPECT_TRUE(contains(refused(train + "--select-by clik.auc", 1), "did you mean \"click\"?"));
  EXPECT_TRUE(contains(refused(train + "--precision tf32", 1), "htlnet: --precision tf32 is for --device cuda; use fp32 or bf16 on the CPU"));
  write("wrong.toml", "alpah = 0.5\n");
  EXPECT_TRUE(contains(refused("train --config wrong.toml --output out", 2), "in \"wrong.toml\"", "did you mean \"--alpha\"?"));
}

TEST_F(ProgramErrors, AdjustersThatAreNoneOrDoNotFitTheTasks) {
  EXPECT_TRUE(contains(refused(train + "--adjuster pcgrd", 2), "unknown weighting \"pcgrd\"; did you mean \"pcgrad\"?"));
  EXPECT_TRUE(contains(refused(train + "--adjuster cagrad:d=1", 2), "weighting \"cagrad\" has no option \"d\"; did you mean \"c\"?"));
  EXPECT_TRUE(contains(refused(train + "--adjuster cagrad:c=-1", 2), "weighting \"cagrad\", option \"c\": expected a number ≥ 0, got -1"));
  EXPECT_TRUE(contains(refused(train + "--adjuster pcgrad:order=up", 2), "expected one of \"ascending\", \"descending\""));
  EXPECT_TRUE(contains(refused(train + "--adjuster cagrad:c", 2), "\"c\""));
  EXPECT_TRUE(contains(refused(train + "--adjuster krum:byzantine=2"), "htl::Krum: expected at least byzantine + 3 = 5 tasks, got 3"));
  EXPECT_TRUE(contains(refused(train + "--adjuster constant:weights=1;2"), "htl::Constant: expected"));
  EXPECT_TRUE(contains(refused(train + "--adjuster sum --alpha 0.5", 2), "--alpha is for --adjuster core_task, got --adjuster sum"));
}

TEST_F(ProgramErrors, LossesBalancersAndCalibratorsThatAreNoneOrDoNotFitTheTasks) {
  EXPECT_TRUE(contains(refused(train + "--loss time", 2),
                       "--loss: expected TASK=LOSS[:option=value,…][@TRANSFORM][&WEIGHT*LOSS…], several with | between them, got \"time\""));
  EXPECT_TRUE(contains(refused(train + "--loss time=hubber", 2), "did you mean \"huber\"?"));
  EXPECT_TRUE(contains(refused(train + "--loss time=huber@log2p", 2), "did you mean \"log1p\"?"));
  EXPECT_TRUE(contains(refused(train + "--loss tim=huber"), "--loss names the task \"tim\", which the data don't have; did you mean \"time\"?"));
  EXPECT_TRUE(contains(refused(train + "--loss click=huber"), "the loss \"huber\" is not for a binary task as \"click\" is"));
  EXPECT_TRUE(contains(refused(train + "--loss click=focal@log1p"), "only a regression's label can be transformed by \"log1p\""));
  EXPECT_TRUE(contains(refused(train + "--loss time=ziln@log1p"), "log1p"));
  EXPECT_TRUE(contains(refused(train + "--loss time=huber|time=log_cosh"),
                       "--loss names the task \"time\" twice; write several losses of a task as TASK=LOSS&WEIGHT*LOSS"));
  EXPECT_TRUE(contains(refused(train + "--loss time=huber&much*log_cosh", 2), "expected WEIGHT*LOSS, or LOSS alone, after \"&\", got \"much*log_cosh\""));
  EXPECT_TRUE(contains(refused(train + "--loss time=huber&log_cosh@log1p", 2), "the label's transform stands behind the first loss"));
  EXPECT_TRUE(contains(refused(train + "--loss time=huber&log_cosch", 2), "did you mean \"log_cosh\"?"));
  EXPECT_TRUE(contains(refused(train + "--loss time=huber&-1*log_cosh"), "-1"));
  EXPECT_TRUE(contains(refused(train + "--balancer uncertanty", 2), "did you mean \"uncertainty\"?"));
  EXPECT_TRUE(
      contains(refused(train + "--adjuster famo --balancer dwa"), "--adjuster famo compares the losses before and after a step, which --balancer dwa changes"));
  EXPECT_TRUE(contains(refused(train + "--calibrate click=plat", 2), "did you mean \"platt\"?"));
  EXPECT_TRUE(contains(refused(train + "--calibrate time=platt"), "the calibrator \"platt\" is not for a regression task as \"time\" is"));
  write("schema.toml", replaced(good_schema, ", valid = \"valid\"", ""));
  EXPECT_TRUE(contains(refused(train + "--calibrate click=platt"), "--calibrate is fitted to validation rows, and there are none"));
}

TEST_F(ProgramErrors, WeightsThatAreDamagedOrOfAnotherModel) {
  train_a_run();
  const fs::path weights = folder.path("out/model.safetensors");
  const std::string whole = htl::read_file(weights), predict = "predict --run out --data data --output predicted.csv --threads 1";
  const auto with = [&](const std::string& bytes) {
    write("out/model.safetensors", bytes);
    return refused(predict);
  };
  EXPECT_TRUE(contains(with(whole.substr(0, whole.size() - 9)), "model.safetensors\"", "the file is truncated or damaged"));
  EXPECT_TRUE(contains(with(whole.substr(0, 5)), "has 5 bytes; expected at least the 8 of the header's length"));
  std::string flipped = whole;
  flipped[whole.size() - 3] = static_cast<char>(flipped[whole.size() - 3] ^ 4);
  EXPECT_TRUE(contains(with(flipped), "model.safetensors\"", "checksum"));
  std::string lying = whole;
  lying[4] = 1;  // 4 GB more of header than there is
  EXPECT_TRUE(contains(with(lying), "announces a header of ", "it is not a safetensors file"));
  const std::string header = R"({"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,16]}})";
  EXPECT_TRUE(contains(with(std::string(1, static_cast<char>(header.size())) + std::string(7, '\0') + header + std::string(16, 'x')),
                       "tensor \"a\" has an impossible shape"));
  const at::Tensor other = at::zeros({2, 2});
  htl::save_safetensors(weights, {htl::Named<at::Tensor>().set("embedding.weight", other), {}});
  EXPECT_TRUE(contains(refused(predict), "htl::load_module: \"out/model.safetensors\": htl::load_module_state: expected ",
                       "; missing: ", "; different: \"embedding.weight\" is [2, 2] Float",
                       "nothing was changed; build the module with the options that the weights were made with"));
  write("out/model.safetensors", whole);
  nlohmann::json tasks = htl::read_json(folder.path("out/tasks.json"));
  tasks["version"] = 2;
  htl::write_json(folder.path("out/tasks.json"), tasks);
  EXPECT_TRUE(contains(refused(predict), "htlnet: htl::task_set_from_json: expected a version from 1 to 1, got 2; it was written by a newer library"));
}

TEST_F(ProgramErrors, CheckpointsThatAreDamagedNewerOrOfOtherRows) {
  train_a_run("--keep-checkpoints 1 ");
  fs::remove(folder.path("out/summary.json"));
  const fs::path path = htl::Checkpoints(folder.path("out/checkpoints")).list().front().second;
  const std::string whole = htl::read_file(path), resume = train + "--resume";
  htl::write_atomically(path, whole.substr(0, whole.size() / 2));
  EXPECT_TRUE(contains(refused(resume), "htl::Checkpoints: none of the 1 checkpoints in \"out/checkpoints\" can be read; start anew in another folder:"));
  htl::TensorFile newer = htl::parse_safetensors(whole, "f");
  newer.metadata.set("version", "2");
  htl::save_safetensors(path, newer);
  EXPECT_TRUE(contains(refused(resume), "has version 2 of the format, expected 1; it was written by a newer library: use that one"));
  htl::write_atomically(path, whole);
  write("data/rows.csv", replaced(good_rows(), "u1,21,train,1,1,1", "u1,21,train,0,1,1"));
  EXPECT_TRUE(contains(refused(resume), "htlnet: the training or validation rows are not those that the run in \"out\" was begun with"));
  write("data/rows.csv", good_rows());
  EXPECT_TRUE(contains(refused(replaced(resume, "--tower 4", "--tower 5")), "htlnet: --tower [5] contradicts the run in \"out\", which has [4]"));
  EXPECT_EQ(run(resume).status, 0);
}

TEST_F(ProgramErrors, OutputsThatCantBeWritten) {
  train_a_run();
  EXPECT_TRUE(
      contains(refused(train), "htlnet: the folder \"out\" holds the summary.json of an earlier run; give another --output, or --overwrite to replace it"));
  EXPECT_TRUE(
      contains(refused(replaced(train, "--output out", "--output schema.toml/out")), "can't read the folder \"schema.toml/out/checkpoints\": Not a directory"));
  EXPECT_TRUE(contains(refused(replaced(train, "--output out", "--output /proc/out")), "htlnet: can't make the folder \"/proc/out\": "));
  EXPECT_TRUE(contains(refused("predict --run out --data data --output nowhere/file.csv"), "nowhere/file.csv"));
}

TEST_F(ProgramErrors, AFullDisk) {
  const auto little = [](rlim_t bytes) {
    return [bytes] {
      const rlimit limit{bytes, bytes};
      ::setrlimit(RLIMIT_FSIZE, &limit);
      std::signal(SIGXFSZ, SIG_IGN);
    };
  };
  const Ended end = run(train, little(2000));
  EXPECT_EQ(end.status, 1);
  EXPECT_TRUE(contains(end.text, "can't write \"out/", "File too large"));
  for (const auto& entry : fs::recursive_directory_iterator(folder.path("out")))  // each file that is there is whole
    if (entry.path().extension() == ".json") {
      EXPECT_NO_THROW(htl::read_json(entry.path())) << entry.path();
    }
  EXPECT_FALSE(fs::exists(folder.path("out/model.safetensors")));
  EXPECT_EQ(run(train + "--resume").status, 0);
  const std::vector<std::string> before = files();
  EXPECT_TRUE(contains(refused("predict --run out --data data --output p.csv --threads 1", 1, little(100)), "p.csv", "File too large"));
}

TEST_F(ProgramErrors, TooLittleMemory) {
  const std::string wide = replaced(train, "--embedding-dim 2", "--embedding-dim 1000000000000");
  EXPECT_TRUE(contains(refused(wide), "htlnet: this configuration needs about ", " GB of memory, and ",
                       " GB are free: ", " embedding rows of --embedding-dim 1000000000000 with their --row-optimizer row_adagrad and --average ema:0.99",
                       "lower --embedding-dim, --tower or --batch-size, raise --min-count, or give --average none"));
  EXPECT_TRUE(contains(refused("train --rows 1000000000000 --output out"), "htlnet: --rows 1000000000000 needs about 60000.0 GB, and ", "lower --rows"));
  const auto little = [] {
    const rlimit limit{rlim_t{6} << 30, rlim_t{6} << 30};
    ::setrlimit(RLIMIT_AS, &limit);
  };
  EXPECT_TRUE(contains(refused(replaced(train, "--tower 4", "--tower 30000,30000"), 1, little), "htlnet: this configuration needs about ", " for the towers"));
}

TEST_F(ProgramErrors, ALossThatIsNotFinite) {
  const std::string good = replaced(good_rows(), "u1,21,train,1,1,1", "u1,21,train,1,1,7");
  write("data/rows.csv", replaced(good, "u1,21,train,1,1,7", "u1,21,train,1,1,3e38"));
  const std::string command = train + "--core-label none --epochs 3 --checkpoint-every 1 --keep-checkpoints 9 ";
  const std::string plain = replaced(command, "--epochs 1 ", "");
  const Ended end = run(plain);
  EXPECT_EQ(end.status, 1);
  EXPECT_TRUE(contains(end.text, "htlnet: the loss of task \"time\" or its gradient was not finite in step ",
                       ", and no weight has changed since; try smaller --dense-lr", "A checkpoint before that step goes into another run by --warm-start"));
  EXPECT_FALSE(fs::exists(folder.path("out/summary.json")));
  // the last good checkpoint is that of the step before, and the run goes on from it: to the same end
  const std::string said = end.text.substr(end.text.find("in step ") + 8);
  const int64_t bad = std::stoll(said);
  ASSERT_GE(bad, 2) << "the seed must not draw that row first";
  const auto newest = htl::Checkpoints(folder.path("out/checkpoints")).newest();
  ASSERT_TRUE(newest);
  EXPECT_EQ(newest->step, bad - 1);
  for (const auto& [name, tensor] : newest->tensors)
    if (name.starts_with("model.")) {
      EXPECT_TRUE(tensor.isfinite().all().item<bool>()) << name;
    }
  const Ended again = run(plain + "--resume");
  EXPECT_EQ(again.status, 1);
  EXPECT_TRUE(contains(again.text, "was not finite in step " + std::to_string(bad) + ","));
  // and into a run on corrected rows
  write("data/rows.csv", good);
  const Ended corrected = run(replaced(plain, "--output out", "--output corrected --warm-start out"));
  EXPECT_EQ(corrected.status, 0) << corrected.text;
}

}  // namespace
