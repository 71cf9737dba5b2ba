// SPDX-License-Identifier: Apache-2.0
/// @file options.hpp
/// @brief What the program htlnet can be asked for, as plain values; read from the command line and from a TOML file.
#pragma once

#include <htl/data/number.hpp>
#include <htl/task/check.hpp>

#include <nlohmann/json.hpp>

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace htlnet {

/// Where the rows come from, and how they are split.
struct DataOptions {
  std::string dataset = "synthetic";  // kuairand | online_retail | csv | synthetic
  std::string directory;
  std::string schema;
  std::string scenario = "video";  // video | commerce
  int64_t rows = 1'000'000;
  std::string train_dates, valid_dates, test_dates;  // YYYY-MM-DD or YYYY-MM-DD:YYYY-MM-DD; of online_retail cut-offs, empty = default_cut_offs
  int64_t horizon = 90;                              // days (online_retail)
  bool history = false;                              // kuairand
  std::string target_statistics = "none";            // none | earlier_rows | earlier_days (kuairand)
  double target_strength = 20.0;
  std::optional<std::string> numbers_as;  // buckets | numbers | both; nothing = default_numbers_as()
  std::optional<int64_t> min_count;       // nothing = what the csv schema says, else default_min_count
};
inline constexpr int64_t default_min_count = 2;
inline constexpr std::array<const char*, 3> default_cut_offs = {"2011-01-01:2011-03-01", "2011-06-01", "2011-09-01"};  // training, validation, test
inline const char* default_numbers_as(const std::string& dataset) { return dataset == "online_retail" ? "both" : "buckets"; }

struct ModelOptions {
  std::string model = "htlnet";        // htlnet | shared_embedding
  std::string adjuster = "core_task";  // NAME[:option=value,…] of htl::built_in_methods()
  double alpha = 1.0, gamma = 0.5, clip_ratio = 100.0;
  std::string norm = "before";  // before | after | average
  std::string several_cores = "combined";
  std::optional<std::string> core_label;  // z_score | log1p | none; nothing = what the schema or the data set says, else default_core_label
  std::string loss, calibrate;            // TASK=NAME…|… : of the losses' registry, of the calibrators'; empty = as the data set has it
  std::string balancer = "none";          // NAME[:option=value,…] of htl::built_in_balancers()
  std::string stop_gradient = "inputs";
  std::string label_noise = "gumbel";  // gumbel | none
  std::string label_hardness = "soft";
  std::string label_evaluation = "auto";
  std::string temperature = "1";  // VALUE | exponential:START,FACTOR,EVERY,FLOOR | linear:START,END,STEPS
  std::string fusion = "attention";
  std::string transfer = "both";
  std::string representation = "first";
  int64_t embedding_dim = 10;
  double embedding_sd = 0.1;
  int64_t label_dim = 10;
  std::vector<int64_t> tower = {128, 64, 32};
  double dropout = 0.0;
};
inline constexpr const char* default_core_label = "z_score";

struct TrainOptions {
  std::string row_optimizer = "row_adagrad";  // row_adagrad | adagrad | lazy_adam
  std::string dense_optimizer = "adamw";      // adam | adamw
  double row_lr = 0.1, dense_lr = 1e-3;
  double row_weight_decay = 0.0, weight_decay = 0.0, id_dropout = 0.0;
  int64_t warmup = 0;
  std::string decay = "constant";    // constant | linear | cosine
  double clip_norm = 0.0;            // 0 = none
  std::string average = "ema:0.99";  // none | ema:DECAY | mean
  int64_t epochs = 8, batch_size = 1024, patience = 2, log_every = 50;
  int64_t checkpoint_every = 0, keep_checkpoints = 2;  // steps; 0 = at the end of each epoch only
  std::string select_by;                               // TASK.METRIC
  uint64_t seed = 1;
  int64_t threads = 0;  // 0 = one a core
  std::string device = "cpu", precision = "fp32", matrix_backend = "auto";
  bool quiet = false;
};

struct Options {
  std::string command;  // train | evaluate | predict | synthesize | inspect
  DataOptions data;
  ModelOptions model;
  TrainOptions train;
  std::string output;             // train: the run's folder; predict: the file; synthesize: the data's folder
  bool overwrite = false;         // train: replace the run in that folder
  bool resume = false;            // train: go on with the run in that folder
  std::string warm_start;         // train: the folder of the run whose weights it starts from
  bool keeps_statistics = true;   // train: measures buckets and labels as that run did
  std::string run;                // evaluate, predict
  std::string device;             // evaluate, predict; empty = the run's
  bool all_rows = false;          // evaluate: test every row of a csv data set
  nlohmann::ordered_json values;  // train: all options but those that belong to one run, by name
};

/// The decay of `--average ema:DECAY`; 0 for none and mean.
/// @throws c10::ValueError for other text
inline double average_decay(const std::string& average) {
  if (average == "none" || average == "mean") return 0.0;
  double decay = 0.0;
  HTL_CHECK(average.starts_with("ema:") && htl::parse_number(average.substr(4), decay) && decay > 0.0 && decay < 1.0,
            "htlnet: expected none, mean or ema:DECAY with a decay in (0, 1), got \"", average, "\"");
  return decay;
}

/// Options as config.toml has them: what JSON writes for a text, a number, a flag or a list of numbers is TOML too.
std::string to_toml(const nlohmann::ordered_json& values);

/// Reads the command line. Prints help, or a sentence that names the nearest right option or value, and then sets `exit_code` and leaves `command` empty.
Options parse_options(int argc, const char* const* argv, int& exit_code);

/// The options that a run was made with, from its config.toml.
/// @throws std::runtime_error with a sentence
Options read_run_options(const std::string& path);

}  // namespace htlnet
