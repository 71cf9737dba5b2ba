// SPDX-License-Identifier: Apache-2.0
/// @file options.hpp
/// @brief What the program htlnet can be asked for, as plain values; read from the command line and from a TOML file.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace htlnet {

/// Where the rows come from, and how they are split.
struct DataOptions {
  std::string dataset = "synthetic";  // kuairand | csv | synthetic
  std::string directory;
  std::string schema;
  std::string scenario = "video";  // video | commerce
  int64_t rows = 150'000;
  std::string train_dates, valid_dates, test_dates;  // YYYY-MM-DD or YYYY-MM-DD:YYYY-MM-DD
  int64_t min_count = 5;
};

struct ModelOptions {
  std::string model = "htlnet";        // htlnet | shared_embedding
  std::string adjuster = "core_task";  // core_task | sum
  double alpha = 1.0, gamma = 0.5, clip_ratio = 100.0;
  std::string norm = "before";  // before | after | average
  std::string several_cores = "combined";
  std::string core_label = "z_score";  // z_score | log1p | none
  std::string stop_gradient = "inputs";
  std::string label_noise = "gumbel";  // gumbel | none
  std::string label_hardness = "soft";
  std::string label_evaluation = "auto";
  std::string temperature = "1";  // VALUE | exponential:START,FACTOR,EVERY,FLOOR | linear:START,END,STEPS
  std::string fusion = "attention";
  std::string transfer = "both";
  std::string representation = "first";
  int64_t embedding_dim = 10;
  double embedding_sd = 0.01;
  int64_t label_dim = 10;
  std::vector<int64_t> tower = {128, 64, 32};
  double dropout = 0.0;
};

struct TrainOptions {
  std::string row_optimizer = "row_adagrad";  // row_adagrad | adagrad | lazy_adam
  std::string dense_optimizer = "adamw";      // adam | adamw
  double row_lr = 0.05, dense_lr = 1e-3;
  double row_weight_decay = 0.0, weight_decay = 0.0;
  int64_t warmup = 0;
  std::string decay = "constant";  // constant | linear | cosine
  double clip_norm = 0.0;          // 0 = none
  std::string average = "none";    // none | ema:DECAY | mean
  int64_t epochs = 5, batch_size = 1024, patience = 2, log_every = 50;
  std::string select_by;  // TASK.METRIC
  uint64_t seed = 1;
  int64_t threads = 0;  // 0 = one a core
  std::string device = "cpu", precision = "fp32", matrix_backend = "auto";
  bool quiet = false;
};

struct Options {
  std::string command;  // train | evaluate | synthesize
  DataOptions data;
  ModelOptions model;
  TrainOptions train;
  std::string output;       // train: the run's folder; synthesize: the data's folder
  std::string run;          // evaluate
  std::string config_text;  // all options as TOML, for the run's folder
};

/// Reads the command line. Prints help, or a sentence that names the nearest right option or value, and then sets `exit_code` and leaves `command` empty.
Options parse_options(int argc, const char* const* argv, int& exit_code);

/// The options that a run was made with, from its config.toml.
/// @throws std::runtime_error with a sentence
Options read_run_options(const std::string& path);

}  // namespace htlnet
