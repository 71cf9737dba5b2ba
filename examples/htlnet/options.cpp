// SPDX-License-Identifier: Apache-2.0
#include "adjuster.hpp"
#include "parts_by_name.hpp"

#include "data/files.hpp"
#include "data/kuairand_statistics.hpp"
#include "data/number_columns.hpp"
#include "toml_file.hpp"

#include <htl/transfer/temperature.hpp>

#include <toml++/toml.h>
#include <CLI/CLI.hpp>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <filesystem>
#include <iostream>
#include <map>
#include <sstream>
#include <stdexcept>

namespace htlnet {
namespace {

CLI::Validator one_of(std::vector<std::string> values) {
  std::string list;
  for (const std::string& value : values) list += (list.empty() ? "" : "|") + value;
  return {[values, list](const std::string& given) {
            if (std::find(values.begin(), values.end(), given) != values.end()) return std::string();
            return "expected " + list + ", got \"" + given + "\"; did you mean \"" + htl::nearest(given, values) + "\"?";
          },
          list};
}

/// A number in decimal notation, as every conversion after it reads it.
CLI::Validator number(const std::string& what, bool (*fits)(double)) {
  return {[what, fits](const std::string& given) {
            double value = 0.0;
            if (htl::trimmed(given) == given && htl::parse_number(given, value) && fits(value)) return std::string();
            return "expected " + what + ", got \"" + given + "\"";
          },
          what};
}

/// A whole number in plain digits. What else a conversion would take is refused: 010 (eight), 0x10, 1e6 (a number, but not to all).
CLI::Validator whole_number(int64_t least) {
  const std::string what = "a whole number ≥ " + std::to_string(least);
  return {[least, what](const std::string& given) {
            const bool plain = !given.empty() && given.find_first_not_of("0123456789") == std::string::npos && (given[0] != '0' || given.size() == 1);
            int64_t value = 0;
            if (plain && htl::parse_integer(given, value) && value >= least) return std::string();
            double meant = 0.0;
            const bool near = htl::parse_number(given, meant) && meant >= static_cast<double>(least) && meant < 1e15;
            return "expected " + what + " in plain digits, up to 2^63 - 1, got \"" + given + "\"" +
                   (near ? "; did you mean \"" + std::to_string(std::llround(meant)) + "\"?" : "");
          },
          what};
}

/// Whatever a parser takes; what it throws is the complaint.
template <class Parse>
CLI::Validator read_by(const Parse& parse, const std::string& what) {
  return {[parse](const std::string& given) {
            try {
              parse(given);
              return std::string();
            } catch (const c10::Error& error) {
              const std::string sentence = error.what_without_backtrace();
              return sentence.starts_with("htlnet: ") ? sentence.substr(8) : sentence;
            }
          },
          what};
}

CLI::Validator date_range() {
  return read_by([](const std::string& text) { DateRange::parse(text); }, "DATE[:DATE]");
}

const auto yes_or_no = [] { return one_of({"true", "false"}).description(""); };  // of flags
const auto positive = [] { return whole_number(1); };
const auto count = [] { return whole_number(0); };
const auto not_negative = [] { return number("a number ≥ 0", [](double x) { return x >= 0.0; }); };

/// Options that do something only beside some values of another one; of an empty list, beside any.
struct Use {
  std::vector<std::string> options;
  std::string beside;
  std::vector<std::string> values;
};
const std::vector<std::string> of_one_call = {"help", "config", "output", "overwrite", "resume"};  // not recorded
const std::vector<Use> uses = {
    {{"data"}, "dataset", {"kuairand", "csv", "online_retail"}},
    {{"schema"}, "dataset", {"csv"}},
    {{"train-dates", "valid-dates", "test-dates", "numbers-as"}, "dataset", {"kuairand", "online_retail"}},
    {{"horizon"}, "dataset", {"online_retail"}},
    {{"history", "target-statistics", "target-strength"}, "dataset", {"kuairand"}},
    {{"target-strength"}, "target-statistics", {"earlier_rows", "earlier_days"}},
    {{"scenario", "rows"}, "dataset", {"synthetic"}},
    {{"transfer", "fusion", "stop-gradient", "representation", "label-dim", "label-noise", "label-hardness", "label-evaluation", "temperature"},
     "model",
     {"htlnet"}},
    {{"representation"}, "transfer", {"both", "representation"}},
    {{"label-dim", "label-noise", "label-hardness", "label-evaluation", "temperature"}, "transfer", {"both", "label"}},
    {{"alpha", "gamma", "clip-ratio", "norm", "several-cores"}, "adjuster", {"core_task"}},
    {{"matrix-backend"}, "device", {"cpu"}},
    {{"statistics"}, "warm-start", {}},
};

void add_data_options(CLI::App& app, Options& options) {
  DataOptions& data = options.data;
  app.add_option("--data", data.directory, "Folder with the data files")->group("Data");
  app.add_option("--test-dates", data.test_dates, "Days to test on (kuairand), or cut-offs (online_retail)")->check(date_range())->group("Data");
}

/// Where rows come from and how they are split.
void add_row_options(CLI::App& app, Options& options) {
  DataOptions& data = options.data;
  app.add_option("--dataset", data.dataset, "What the rows are")
      ->check(one_of({"kuairand", "online_retail", "csv", "synthetic"}))
      ->capture_default_str()
      ->group("Data");
  add_data_options(app, options);
  app.add_option("--schema", data.schema, "Schema of the CSV files (csv): columns, tasks, split; explained in docs/csv_schema.md")->group("Data");
  app.add_option("--scenario", data.scenario, "What is simulated (synthetic)")->check(one_of({"video", "commerce"}))->capture_default_str()->group("Data");
  app.add_option("--rows", data.rows, "How many rows are simulated (synthetic)")->check(positive())->capture_default_str()->group("Data");
  app.add_option("--train-dates", data.train_dates, "Days to train on (kuairand), or cut-offs, one a month from the first day to the last (online_retail)")
      ->check(date_range())
      ->group("Data");
  app.add_option("--valid-dates", data.valid_dates, "Days that choose the best epoch (kuairand), or cut-offs (online_retail)")
      ->check(date_range())
      ->group("Data");
  app.add_option("--horizon", data.horizon, "Days after a cut-off within which a customer may buy (online_retail); none may reach a later part's cut-off")
      ->check(positive())
      ->capture_default_str()
      ->group("Data");
  app.add_flag("--history", data.history,
               "Fields with the videos that the user watched, liked and watched long before the logs, from user_history*.csv (kuairand)")
      ->check(yes_or_no())
      ->group("Data");
  app.add_option("--target-statistics", data.target_statistics,
                 "Features of what user, video, author, tag, music and their combinations did before the row, and of which rows (kuairand)")
      ->check(one_of(target_rows_names))
      ->capture_default_str()
      ->group("Data");
  app.add_option("--target-strength", data.target_strength, "How many rows of the global mean each of these means begins with")
      ->check(not_negative())
      ->capture_default_str()
      ->group("Data");
  app.add_option("--numbers-as", data.numbers_as,
                 "How target statistics (kuairand) and a customer's numbers (online_retail) enter: as fields of quantile buckets, as numeric features, or as "
                 "both; default: buckets for kuairand, both for online_retail")
      ->check(one_of(numbers_as_names))
      ->group("Data");
  app.add_option("--min-count", data.min_count,
                 "Ids that are rarer in the training rows share the field's unknown row; default: the csv schema's min_count where it has one, else 2")
      ->check(positive())
      ->group("Data");
}

void add_train_options(CLI::App& app, Options& options) {
  add_row_options(app, options);

  ModelOptions& model = options.model;
  app.add_option("--model", model.model, "htlnet, or its control: a tower per task on the shared embedding, no transfer")
      ->check(one_of({"htlnet", "shared_embedding"}))
      ->capture_default_str()
      ->group("Model");
  app.add_option("--embedding-dim", model.embedding_dim, "Width of one field's embedding")->check(positive())->capture_default_str()->group("Model");
  app.add_option("--embedding-sd", model.embedding_sd, "Standard deviation of the initial embeddings")
      ->check(not_negative())
      ->capture_default_str()
      ->group("Model");
  app.add_option("--tower", model.tower, "Widths of a tower's hidden layers, as in 128,64,32")
      ->delimiter(',')
      ->check(positive())
      ->capture_default_str()
      ->group("Model");
  app.add_option("--dropout", model.dropout, "Part of a tower's hidden units dropped in training, in [0, 1)")
      ->check(number("a number in [0, 1)", [](double x) { return x >= 0.0 && x < 1.0; }))
      ->capture_default_str()
      ->group("Model");
  app.add_option(
         "--core-label", model.core_label,
         "Transform of a core regression's label; default: the csv schema's transform where the task has one, ZILN's likelihood of the label as it is for "
         "online_retail, else z_score")
      ->check(one_of({"z_score", "log1p", "none"}))
      ->group("Model");
  app.add_option(
         "--loss", model.loss,
         "TASK=LOSS[:option=value,…][@TRANSFORM][&WEIGHT*LOSS…] of docs/losses.md, several tasks with | between them, as in watch_time=huber@log1p or "
         "amount=ziln; losses behind & are added, and the first one predicts; a regression without a transform keeps its own (--core-label; z_score where its "
         "own loss needs none), or has none where the loss works in the label's "
         "unit. Default: as the data set has it")
      ->check(read_by(check_losses_text, "TASK=LOSS[@TRANSFORM][&WEIGHT*LOSS…]"))
      ->group("Model");
  app.add_option(
         "--calibrate", model.calibrate,
         "TASK=CALIBRATOR[:option=value,…], several with | between them, as in click=platt|watch_time=scale: fitted to the validation rows when training "
         "is over, saved with the tasks, and applied wherever the run predicts")
      ->check(read_by(check_calibrators_text, "TASK=CALIBRATOR"))
      ->group("Model");
  app.add_option("--transfer", model.transfer, "What flows from a task to those after it")
      ->check(one_of({"both", "representation", "label"}))
      ->capture_default_str()
      ->group("Transfer");
  app.add_option("--fusion", model.fusion, "How several preceding tasks are fused")
      ->check(one_of({"attention", "concat", "mean", "gate"}))
      ->capture_default_str()
      ->group("Transfer");
  app.add_option("--stop-gradient", model.stop_gradient, "Where the gradient of what flows stops")
      ->check(one_of({"inputs", "label_output", "fusion_output", "none"}))
      ->capture_default_str()
      ->group("Transfer");
  app.add_option("--representation", model.representation, "The hidden layer that flows")
      ->check(one_of({"first", "last"}))
      ->capture_default_str()
      ->group("Transfer");
  app.add_option("--label-dim", model.label_dim, "Width of a label embedding")->check(positive())->capture_default_str()->group("Transfer");
  app.add_option("--label-noise", model.label_noise, "Noise on the predicted label in training")
      ->check(one_of({"gumbel", "none"}))
      ->capture_default_str()
      ->group("Transfer");
  app.add_option("--label-hardness", model.label_hardness, "Mixture of label rows, or a drawn one")
      ->check(one_of({"soft", "straight_through"}))
      ->capture_default_str()
      ->group("Transfer");
  app.add_option("--label-evaluation", model.label_evaluation, "The label outside training")
      ->check(one_of({"auto", "expected_soft", "plain", "tempered", "argmax"}))
      ->capture_default_str()
      ->group("Transfer");
  app.add_option("--temperature", model.temperature, "VALUE, exponential:START,FACTOR,EVERY,FLOOR or linear:START,END,STEPS")
      ->check(read_by([](const std::string& text) { htl::Temperature::parse(text); }, ""))
      ->capture_default_str()
      ->group("Transfer");
  app.add_option(
         "--adjuster", model.adjuster,
         "How the tasks' gradients on the embeddings are combined: NAME[:option=value,…] of docs/methods.md, as in cagrad:c=0.4; core_task alone takes the "
         "options below")
      ->check(read_by(check_adjuster_text, "NAME[:option=value,…]"))
      ->capture_default_str()
      ->group("Gradient");
  app.add_option("--balancer", model.balancer, "Weights of the losses before their gradients: none, or NAME[:option=value,…] of docs/balancers.md")
      ->check(read_by(check_balancer_text, "none or NAME[:option=value,…]"))
      ->capture_default_str()
      ->group("Gradient");
  app.add_option("--alpha", model.alpha, "Part of what conflicts with the core task that is projected away")
      ->check(not_negative())
      ->capture_default_str()
      ->group("Gradient");
  app.add_option("--gamma", model.gamma, "How far gradient sizes follow the core task's, in [0, 1]")
      ->check(number("a number in [0, 1]", [](double x) { return x >= 0.0 && x <= 1.0; }))
      ->capture_default_str()
      ->group("Gradient");
  app.add_option("--clip-ratio", model.clip_ratio, "Bound C of the ratio of sizes, ≥ 1")
      ->check(number("a number ≥ 1", [](double x) { return x >= 1.0; }))
      ->capture_default_str()
      ->group("Gradient");
  app.add_option("--norm", model.norm, "The norm in that ratio: before or after the projection, or a moving average")
      ->check(one_of({"before", "after", "average"}))
      ->capture_default_str()
      ->group("Gradient");
  app.add_option("--several-cores", model.several_cores, "What several core tasks mean")
      ->check(one_of({"combined", "own"}))
      ->capture_default_str()
      ->group("Gradient");

  TrainOptions& train = options.train;
  app.add_option("--row-optimizer", train.row_optimizer, "Optimizer of the embedding rows")
      ->check(one_of({"row_adagrad", "adagrad", "lazy_adam"}))
      ->capture_default_str()
      ->group("Training");
  app.add_option("--dense-optimizer", train.dense_optimizer, "Optimizer of everything else")
      ->check(one_of({"adam", "adamw"}))
      ->capture_default_str()
      ->group("Training");
  app.add_option("--row-lr", train.row_lr, "Learning rate of the embedding rows")->check(not_negative())->capture_default_str()->group("Training");
  app.add_option("--dense-lr", train.dense_lr, "Learning rate of everything else")->check(not_negative())->capture_default_str()->group("Training");
  app.add_option("--warmup", train.warmup, "Steps over which both rates rise")->check(count())->capture_default_str()->group("Training");
  app.add_option("--decay", train.decay, "What the rates do after that, until the last step")
      ->check(one_of({"constant", "linear", "cosine"}))
      ->capture_default_str()
      ->group("Training");
  app.add_option("--row-weight-decay", train.row_weight_decay, "Weight decay of touched rows")->check(not_negative())->capture_default_str()->group("Training");
  app.add_option("--id-dropout", train.id_dropout,
                 "Part of the ids that are replaced by the unknown one in training, in fields of more than 1000 ids, where a row has one; in [0, 1)")
      ->check(number("a number in [0, 1)", [](double x) { return x >= 0.0 && x < 1.0; }))
      ->capture_default_str()
      ->group("Training");
  app.add_option("--weight-decay", train.weight_decay, "Weight decay of everything else")->check(not_negative())->capture_default_str()->group("Training");
  app.add_option("--clip-norm", train.clip_norm, "Bound of the norm of all gradients together; 0 = none")
      ->check(not_negative())
      ->capture_default_str()
      ->group("Training");
  app.add_option("--average", train.average, "Weights that are evaluated and saved: none, ema:DECAY, or mean")
      ->check(read_by(average_decay, ""))
      ->capture_default_str()
      ->group("Training");
  app.add_option("--epochs", train.epochs, "Most passes over the training rows")->check(positive())->capture_default_str()->group("Training");
  app.add_option("--batch-size", train.batch_size, "Rows of a step")->check(positive())->capture_default_str()->group("Training");
  app.add_option("--patience", train.patience, "Epochs without a better one before training stops; 0 = never")
      ->check(count())
      ->capture_default_str()
      ->group("Training");
  app.add_option("--select-by", train.select_by,
                 "TASK.METRIC on the validation rows that chooses the best epoch (calibration_ratio: the nearest to 1); default: the first core task's")
      ->group("Training");
  app.add_option("--seed", train.seed, "Seed of everything that is drawn")->check(count())->capture_default_str()->group("Training");
  app.add_option("--threads", train.threads, "Threads; 0 = one a core")->check(count())->capture_default_str()->group("Machine");
  app.add_option("--device", train.device,
                 "Where it runs. On cuda the rows live on the device (those with multi-valued fields are copied batch by batch, between the steps), and an "
                 "incomplete batch is filled up with rows of weight 0, which changes no loss and no gradient")
      ->check(one_of({"cpu", "cuda"}))
      ->capture_default_str()
      ->group("Machine");
  app.add_option("--precision", train.precision, "Arithmetic of the towers: tf32 is for cuda, bf16 is autocast")
      ->check(one_of({"fp32", "tf32", "bf16"}))
      ->capture_default_str()
      ->group("Machine");
  app.add_option("--matrix-backend", train.matrix_backend, "Matrix products on the CPU: the exact ones that suit the processor, or some by name")
      ->check(one_of({"auto", "mkl", "onednn"}))
      ->capture_default_str()
      ->group("Machine");
  app.add_option(
         "--log-every", train.log_every,
         "Steps between the lines of metrics.jsonl; the first step and the last one of each epoch have theirs too. With --adjuster sum a logged step adds the "
         "tasks' gradients row by row to report them, and rounds differently from the others")
      ->check(positive())
      ->capture_default_str()
      ->group("Machine");
  app.add_option("--checkpoint-every", train.checkpoint_every, "Steps between the checkpoints that --resume goes on from; each epoch ends with one anyway")
      ->check(count())
      ->capture_default_str()
      ->group("Machine");
  app.add_option("--keep-checkpoints", train.keep_checkpoints, "How many checkpoints stay, the newest ones")
      ->check(positive())
      ->capture_default_str()
      ->group("Machine");
  app.add_flag("--quiet", train.quiet, "Print only the final table, and warnings")->check(yes_or_no())->group("Machine");
}

bool has_option(const CLI::App& app, const std::string& name) { return name.starts_with("--") && app.get_option_no_throw(name) != nullptr; }

std::vector<std::string> option_names(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::Option* option : app.get_options())
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
  return names;
}

struct Parser {
  Options options;
  CLI::App app{"htlnet — the HTLNet reference model (Tang et al., RecSys 2024): discrete tasks and a continuous core task in one model"};
  CLI::App* train = nullptr;
  CLI::App* evaluate = nullptr;
  CLI::App* predict = nullptr;
  CLI::App* synthesize = nullptr;
  CLI::App* inspect = nullptr;
  std::string config, statistics = "carried";

  Parser() {
    app.require_subcommand(1);
    app.footer("Each command has its own help: htlnet train --help");
    train = app.add_subcommand("train", "Train on rows of some days, choose the best epoch on others, test on the last");
    train->add_option("--config", config, "Options from a TOML file, key = value; the command line comes over it")->group("Data");
    add_train_options(*train, options);
    train->add_option("--output", options.output, "Folder of the run: configuration, feature map, weights, metrics.jsonl, summary.json")->group("Data");
    train
        ->add_option("--warm-start", options.warm_start,
                     "Folder of an earlier run: its weights and its optimizers' state are carried over by name, into vocabularies, fields and tasks that may "
                     "have grown; what is not is printed, and listed in warm_start.json")
        ->group("Training");
    train
        ->add_option("--statistics", statistics,
                     "Bucket edges, stand-ins for missing numbers and label transforms beside --warm-start: that run's, or new ones")
        ->check(one_of({"carried", "refitted"}))
        ->capture_default_str()
        ->group("Training");
    train->add_flag("--overwrite", options.overwrite, "Replace the run that the folder of --output holds; without it such a folder is refused")
        ->check(yes_or_no())
        ->group("Data");
    train
        ->add_flag("--resume", options.resume,
                   "Go on with the run that the folder of --output holds, from its last checkpoint and with its options; begin it where there is none yet")
        ->check(yes_or_no())
        ->group("Data");
    evaluate = app.add_subcommand("evaluate", "Test a finished run on rows of other days");
    evaluate->add_option("--run", options.run, "Folder of a finished run");
    add_data_options(*evaluate, options);
    evaluate->add_flag("--all-rows", options.all_rows, "Test every row of --data, whatever [split] of the schema says (csv)")
        ->check(yes_or_no())
        ->group("Data");
    evaluate->add_option("--device", options.device, "Where it runs; default: where the run was trained")->check(one_of({"cpu", "cuda"}));
    evaluate->add_option("--threads", options.train.threads, "Threads; 0 = one a core")->check(count())->capture_default_str();
    predict = app.add_subcommand("predict", "Write a finished run's predictions: a line a row, a column a task, in the label's unit");
    predict->add_option("--run", options.run, "Folder of a finished run");
    add_data_options(*predict, options);
    predict->add_option("--output", options.output, "The CSV file to write. Of a csv data set it has every row of --data, in the order of the files by name");
    predict->add_option("--device", options.device, "Where it runs; default: where the run was trained")->check(one_of({"cpu", "cuda"}));
    predict->add_option("--threads", options.train.threads, "Threads; 0 = one a core")->check(count())->capture_default_str();
    inspect = app.add_subcommand(
        "inspect",
        "Look at rows before training on them: labels, conversions without their precondition, unknown ids, features that give a label away, conflict");
    add_row_options(*inspect, options);
    inspect->add_option("--batch-size", options.train.batch_size, "Rows of the batch on which the tasks' gradients are compared")
        ->check(positive())
        ->capture_default_str();
    inspect->add_option("--seed", options.train.seed, "Seed of simulated rows, of the fresh model and of the batch")->check(count())->capture_default_str();
    inspect->add_option("--threads", options.train.threads, "Threads; 0 = one a core")->check(count())->capture_default_str();
    synthesize = app.add_subcommand("synthesize", "Write simulated rows as CSV with a schema");
    synthesize->add_option("--scenario", options.data.scenario, "What is simulated")->check(one_of({"video", "commerce"}))->capture_default_str();
    synthesize->add_option("--rows", options.data.rows, "How many rows")->check(positive())->capture_default_str();
    synthesize->add_option("--seed", options.train.seed, "Seed")->check(count())->capture_default_str();
    synthesize->add_option("--output", options.output, "Folder to write to");
  }

  std::array<const CLI::App*, 5> commands() const { return {train, evaluate, predict, synthesize, inspect}; }
  const CLI::App* chosen() const {
    for (const CLI::App* command : commands())
      if (command->parsed()) return command;
    return nullptr;
  }

  std::string explain(const CLI::Error& error) const {
    const CLI::App* command = chosen();
    const std::vector<std::string> before = app.remaining(), behind = command ? command->remaining() : std::vector<std::string>();
    const auto name_of = [](const std::string& word) { return word.substr(0, word.find('=')); };
    if (!command && dynamic_cast<const CLI::RequiredError*>(&error) != nullptr)
      return before.empty() ? "expected a command: train, evaluate, predict, synthesize or inspect" : before_command(name_of(before.front()));
    if (command && dynamic_cast<const CLI::ExtrasError*>(&error) != nullptr)
      return behind.empty() ? before_command(name_of(before.front())) : no_such_option(name_of(behind.front()), *command);
    const std::string sentence = error.what();  // "--name: …"
    const auto file = sentence.starts_with("--") ? from_file_.find(sentence.substr(2, sentence.find_first_of(": =") - 2)) : from_file_.end();
    return file == from_file_.end() ? sentence : "in \"" + file->second + "\" " + sentence;
  }

  static std::string no_such_option(const std::string& word, const CLI::App& command) {
    return "there is no option \"" + word + "\" of " + command.get_name() + "; did you mean \"" + htl::nearest(word, option_names(command)) + "\"?";
  }
  std::string before_command(const std::string& word) const {
    for (const CLI::App* command : commands())
      if (has_option(*command, word)) return "the option \"" + word + "\" comes behind its command, as in htlnet " + command->get_name() + " " + word;
    return "there is no option \"" + word + "\" before a command; did you mean \"" + htl::nearest(word, option_names(app)) + "\"?";
  }

  /// Refuses options that were given and do nothing. What a file says and the command line has put out of use is no mistake.
  void refuse_unused(const CLI::App& command) const {
    for (const CLI::Option* option : command.get_options()) {
      const std::string name = option->get_single_name();
      const Use* const use = option->count() > 0 ? out_of_use(name, command) : nullptr;
      if (use == nullptr) continue;
      const CLI::Option& other = *command.get_option("--" + use->beside);
      const auto file = from_file_.find(name);
      if (file != from_file_.end() && other.count() > 0 && !from_file_.contains(use->beside)) continue;
      std::string wanted = use->values.empty() ? "--" + use->beside + ", which is not given" : "";
      for (const std::string& value : use->values) wanted += (wanted.empty() ? "--" : " or --") + use->beside + " " + value;
      const std::string got = use->values.empty() ? "; give it"
                                                  : ", got --" + use->beside + " " + value_of(other).get<std::string>() +
                                                        (other.count() > 0 ? "" : " (the default)") + "; give " + wanted;
      throw CLI::ValidationError((file != from_file_.end() ? "in \"" + file->second + "\" --" : "--") + name + " is for " + wanted + got + ", or leave out --" +
                                 name);
    }
  }

  /// All options of train by name, without what belongs to one run, what does nothing in it, and what was not given and has no default.
  nlohmann::ordered_json values() const {
    nlohmann::ordered_json result = nlohmann::ordered_json::object();
    for (const CLI::Option* option : train->get_options()) {
      const std::string name = option->get_single_name();
      if (std::find(of_one_call.begin(), of_one_call.end(), name) != of_one_call.end() || out_of_use(name, *train)) continue;
      nlohmann::ordered_json value = value_of(*option);
      if (value.is_null() && options.data.dataset != "csv") {  // a schema may say other ones
        if (name == "min-count") value = default_min_count;
        if (name == "core-label" && options.data.dataset != "online_retail") value = default_core_label;
        if (name == "numbers-as") value = default_numbers_as(options.data.dataset);
        for (size_t s = 0; options.data.dataset == "online_retail" && s < 3; ++s)
          if (name == std::array{"train-dates", "valid-dates", "test-dates"}[s]) value = default_cut_offs[s];
      }
      if (!value.is_null()) result[name] = value;
    }
    try {
      (void)result.dump();
    } catch (const nlohmann::json::exception&) {
      throw CLI::ValidationError("expected options in UTF-8, got other bytes, which config.toml can't hold");
    }
    return result;
  }

  /// Parses; a configuration file's values come in front of the command line's.
  void parse(const std::vector<std::string>& arguments) {
    std::vector<std::string> all = arguments;
    for (size_t i = 1; i < arguments.size(); ++i) {
      const std::string& word = arguments[i];
      const bool joined = word.rfind("--config=", 0) == 0;
      if (arguments[0] != "train" || (!joined && (word != "--config" || i + 1 == arguments.size()))) continue;
      const std::vector<std::string> from_file = read_config(joined ? word.substr(9) : arguments[i + 1], arguments);
      all.insert(all.begin() + 1, from_file.begin(), from_file.end());
    }
    const std::filesystem::path run = run_to_resume(all);
    if (!run.empty()) {
      const std::vector<std::string> from_run = read_config((run / "config.toml").string(), all);
      all.insert(all.begin() + 1, from_run.begin(), from_run.end());
    }
    const bool has_schema = !run.empty() && std::filesystem::exists(run / "schema.toml") && !word_after(arguments, "--schema");
    std::reverse(all.begin(), all.end());
    app.parse(all);
    if (has_schema) options.data.schema = (run / "schema.toml").string();
    options.keeps_statistics = statistics == "carried";
    const CLI::App* command = chosen();
    if (command == train) options.values = values();
    if (options.resume && options.overwrite) throw CLI::ValidationError("expected --resume or --overwrite, got both");
    const bool opens_run = command == evaluate || command == predict;
    if (opens_run && options.run.empty()) throw CLI::RequiredError("--run FOLDER");
    if (command != evaluate && command != inspect && options.output.empty()) throw CLI::RequiredError(command == predict ? "--output FILE" : "--output FOLDER");
  }

 private:
  std::map<std::string, std::string> from_file_;  // option → the file that gave it

  /// What stands behind an option, if it is there.
  static std::optional<std::string> word_after(const std::vector<std::string>& words, const std::string& name) {
    for (size_t i = 0; i < words.size(); ++i) {
      if (words[i] == name && i + 1 < words.size()) return words[i + 1];
      if (words[i].starts_with(name + "=")) return words[i].substr(name.size() + 1);
    }
    return std::nullopt;
  }
  /// The folder of a run that --resume goes on with; empty if there is none.
  static std::filesystem::path run_to_resume(const std::vector<std::string>& words) {
    const bool resumes = std::find(words.begin(), words.end(), "--resume") != words.end() || word_after(words, "--resume") == "true";
    const std::filesystem::path run = resumes && words[0] == "train" ? word_after(words, "--output").value_or("") : "";
    const bool is_begun =
        std::filesystem::exists(run / "config.toml") && (std::filesystem::exists(run / "checkpoints") || std::filesystem::exists(run / "summary.json"));
    return is_begun ? run : std::filesystem::path();
  }
  /// Why an option does nothing; null if it has its use.
  static const Use* out_of_use(const std::string& name, const CLI::App& command) {
    for (const Use& use : uses) {
      if (std::find(use.options.begin(), use.options.end(), name) == use.options.end()) continue;
      const nlohmann::ordered_json value = value_of(*command.get_option("--" + use.beside));
      if (value.is_null() || (!use.values.empty() && std::find(use.values.begin(), use.values.end(), value.get<std::string>()) == use.values.end()))
        return &use;
    }
    return nullptr;
  }

  /// What was given, else the default, in the type that CLI11 names for the variable.
  static nlohmann::ordered_json value_of(const CLI::Option& option) {
    const std::string type = option.get_type_name();
    const auto typed = [&](const std::string& text) -> nlohmann::ordered_json {
      double number = 0.0;
      int64_t whole = 0;
      if (type.starts_with("FLOAT") && CLI::detail::lexical_cast(text, number)) return number;
      if (!type.starts_with("TEXT") && CLI::detail::lexical_cast(text, whole)) return whole;
      return text;
    };
    std::vector<std::string> texts = option.reduced_results();
    if (option.get_expected_min() == 0) return !texts.empty() && texts.front() == "true";
    std::string otherwise = option.get_default_str();
    if (option.get_items_expected_max() > 1) {
      if (texts.empty()) {  // CLI11 writes a list as "1 2" or "[1,2]", by version
        std::replace_if(
            otherwise.begin(), otherwise.end(), [](char c) { return c < '0' || c > '9'; }, ' ');
        std::istringstream words(otherwise);
        for (std::string word; words >> word;) texts.push_back(word);
      }
      nlohmann::ordered_json list = nlohmann::ordered_json::array();
      for (const std::string& text : texts) list.push_back(typed(text));
      return list;
    }
    if (texts.empty() && !otherwise.empty()) texts = {otherwise};
    return texts.empty() ? nlohmann::ordered_json() : typed(texts.front());
  }

  std::vector<std::string> read_config(const std::string& path, const std::vector<std::string>& arguments) {
    toml::table table;
    try {
      table = read_toml(path);
    } catch (const toml::parse_error& error) {
      std::ostringstream text;
      text << "--config: can't read \"" << path << "\" as TOML: " << error.description() << " (line " << error.source().begin.line << ")";
      throw CLI::ValidationError(text.str());
    }
    std::vector<std::string> result;
    for (const auto& [key, value] : table) {
      const std::string name = "--" + std::string(key.str());
      if (name == "--config" || !has_option(*train, name)) throw CLI::ValidationError("in \"" + path + "\" " + no_such_option(name, *train));
      const bool given =
          std::any_of(arguments.begin(), arguments.end(), [&](const std::string& word) { return word == name || word.rfind(name + "=", 0) == 0; });
      const std::string text = as_text(value, path, name);
      if (given || text.empty()) continue;
      result.push_back(name + "=" + text);
      from_file_[name.substr(2)] = path;
    }
    return result;
  }

  static std::string as_text(const toml::node& node, const std::string& path, const std::string& name) {
    if (const auto* list = node.as_array()) {
      if (list->empty()) throw CLI::ValidationError("in \"" + path + "\" the list of \"" + name.substr(2) + "\" is empty; give values, or leave the line out");
      std::string text;
      for (const toml::node& item : *list) text += (text.empty() ? "" : ",") + as_text(item, path, name);
      return text;
    }
    if (const auto text = node.value_exact<std::string>()) return *text;
    if (const auto whole = node.value_exact<int64_t>()) return std::to_string(*whole);
    if (const auto number = node.value_exact<double>()) {
      char text[32];
      return {text, std::to_chars(text, text + sizeof(text), *number).ptr};
    }
    if (const auto flag = node.value_exact<bool>()) return *flag ? "true" : "false";
    throw CLI::ValidationError("in \"" + path + "\" the value of \"" + name.substr(2) + "\" is neither text, number, true or false nor a list of these");
  }
};

}  // namespace

std::string to_toml(const nlohmann::ordered_json& values) {
  std::string text;
  for (const auto& [name, value] : values.items()) {
    text += name + " = ";
    for (const char c : value.dump()) text += c == '\x7f' ? std::string("\\u007F") : std::string(1, c);  // TOML wants it escaped, JSON does not
    text += "\n";
  }
  return text;
}

Options parse_options(int argc, const char* const* argv, int& exit_code) {
  Parser parser;
  exit_code = 0;
  try {
    if (argc > 1 && argv[1][0] != '-') {
      const std::string first = argv[1];
      const std::vector<std::string> commands = {"train", "evaluate", "predict", "synthesize", "inspect"};
      if (std::find(commands.begin(), commands.end(), first) == commands.end()) {
        std::cerr << "htlnet: there is no command \"" << first << "\"; did you mean \"" << htl::nearest(first, commands) << "\"? See htlnet --help\n";
        exit_code = 2;
        return {};
      }
    }
    parser.parse({argv + 1, argv + argc});
    for (const CLI::App* command : {parser.train, parser.inspect})
      if (command->parsed()) parser.refuse_unused(*command);
  } catch (const CLI::Success& help) {
    parser.app.exit(help);
    return {};
  } catch (const CLI::Error& error) {
    const std::string sentence = parser.explain(error);
    std::cerr << "htlnet: " << sentence << (sentence.back() == '?' ? " " : ". ") << "See htlnet " << (parser.chosen() ? parser.chosen()->get_name() + " " : "")
              << "--help\n";
    exit_code = 2;
    return {};
  }
  parser.options.command = parser.chosen()->get_name();
  return parser.options;
}

Options read_run_options(const std::string& path) {
  if (!std::filesystem::exists(path))
    throw std::runtime_error("expected a finished run with \"" + path + "\", which is not there; train first, or give another --run");
  Parser parser;
  try {
    parser.parse({"train", "--config", path, "--output", "."});
  } catch (const CLI::Error& error) {
    throw std::runtime_error(parser.explain(error));
  }
  parser.options.command = "train";
  return parser.options;
}

}  // namespace htlnet
