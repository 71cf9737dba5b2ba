// SPDX-License-Identifier: Apache-2.0
#include "options.hpp"

#include <examples/htlnet/adjuster.hpp>
#include <examples/htlnet/parts_by_name.hpp>

#include <htl/balance/built_in_balancers.hpp>
#include <htl/loss/built_in_losses.hpp>
#include <htl/task/built_in_transforms.hpp>
#include <htl/weighting/built_in_methods.hpp>

#include <CLI/CLI.hpp>

#include <algorithm>
#include <array>
#include <iostream>
#include <set>

namespace compare {
namespace {

/// Options of htlnet train that hold for every cell.
const std::set<std::string> of_htlnet = {"dataset",
                                         "data",
                                         "schema",
                                         "scenario",
                                         "rows",
                                         "train-dates",
                                         "valid-dates",
                                         "test-dates",
                                         "horizon",
                                         "history",
                                         "target-statistics",
                                         "target-strength",
                                         "numbers-as",
                                         "min-count",
                                         "tower",
                                         "dropout",
                                         "embedding-sd",
                                         "embedding-dim",
                                         "row-optimizer",
                                         "dense-optimizer",
                                         "row-lr",
                                         "dense-lr",
                                         "warmup",
                                         "decay",
                                         "weight-decay",
                                         "clip-norm",
                                         "row-weight-decay",
                                         "id-dropout",
                                         "average",
                                         "epochs",
                                         "batch-size",
                                         "patience",
                                         "select-by",
                                         "seed",
                                         "threads",
                                         "matrix-backend",
                                         "quiet"};
/// Of these, what changes no cell's result or is recorded elsewhere.
const std::set<std::string> not_recorded = {"data", "schema", "threads", "quiet", "row-lr", "dense-lr", "weight-decay", "dropout"};

/// The names of a list, each checked by what makes it.
template <class Check>
std::vector<std::string> checked(const std::vector<std::string>& texts, const Check& check) {
  std::vector<std::string> result;
  for (const std::string& text : texts)
    for (const std::string& spec : split_specs(text))
      if (const std::string name = check(spec); std::find(result.begin(), result.end(), name) == result.end()) result.push_back(name);
  return result;
}

std::string checked_model(const std::string& name) {
  const std::vector<std::string> known = known_models();
  HTL_CHECK(std::find(known.begin(), known.end(), name) != known.end(), "compare: unknown model \"", name, "\"; did you mean \"", htl::nearest(name, known),
            "\"? Known: ", htl::quoted(known));
  return name;
}
std::string checked_adjuster(const std::string& text) {
  htl::built_in_methods().make(htl::parse_spec(text));
  return text;
}
std::string checked_balancer(const std::string& text) {
  if (text != "none") htl::built_in_balancers().make(htl::parse_spec(text));
  return text;
}

/// NAME=FILE of --predictions, by name.
htl::Named<std::string> named_files(const std::vector<std::string>& texts) {
  htl::Named<std::string> files;
  const std::vector<std::string> known = known_models();
  for (const std::string& text : texts) {
    const size_t at = text.find('=');
    const std::string name = text.substr(0, at);
    HTL_CHECK(at != std::string::npos && at > 0 && at + 1 < text.size(), "compare: --predictions expected NAME=FILE.safetensors, got \"", text, "\"");
    HTL_CHECK(file_name_of(name) == name && !name.starts_with('.') && name.find('+') == std::string::npos,
              "compare: --predictions expected a name of letters, ", "digits and _.@,-, got \"", name, "\"");
    HTL_CHECK(std::find(known.begin(), known.end(), name) == known.end() && std::find(bounds.begin(), bounds.end(), name) == bounds.end() &&
                  name != "single_task" && !files.contains(name),
              "compare: --predictions \"", name, "\" is the name of another row of the tables; give it one of its own");
    files.set(name, text.substr(at + 1));
  }
  return files;
}

/// HISTORY=TARGET of --attend, by history.
htl::Named<std::string> attended(const std::vector<std::string>& texts) {
  htl::Named<std::string> targets;
  for (const std::string& text : texts)
    for (const auto& [history, target] : htlnet::pairs_of(text, "compare: --attend", "HISTORY=TARGET")) {
      HTL_CHECK(!targets.contains(history), "compare: --attend names the history \"", history, "\" twice");
      targets.set(history, target);
    }
  return targets;
}

/// What the command line says in lists and pairs, before it is read.
struct Texts {
  std::vector<std::string> predictions, attend;
};

void add_grid_options(CLI::App& app, CompareOptions& options, Texts& texts) {
  const auto list = [&](const std::string& name, std::vector<std::string>& values, const std::string& text) {
    return app.add_option(name, values, text)->group("Grid");
  };
  list("--models", options.models, "Models of examples/models: " + htl::quoted(known_models()))->required();
  list("--adjusters", options.adjusters, "Gradient methods, NAME[:option=value,…] of docs/methods.md; default: sum|core_task");
  list(
      "--losses", options.losses,
      "Losses of the core regressions, LOSS[@TRANSFORM][&WEIGHT*LOSS…], as in squared@z_score|huber:delta=0.5@chained:first=log1p,second=z_score|ziln, or "
      "squared&0.1*pairwise_ranking:group=user where two are added; without a transform z_score, or none for a loss in the label's unit; as_is: as the data set "
      "has it; default: squared@z_score where that is the data set's own, else as_is");
  list("--balancers", options.balancers, "Weights of the losses, NAME[:option=value,…], or none, the default");
  list(
      "--predictions", texts.predictions,
      "NAME=FILE.safetensors: predictions of the test rows that were made outside, compared as NAME. A tensor for each task, named as it is: probabilities [N] "
      "([N, K] of classes) or values in the label's unit, in the order of the rows");
  app.add_option("--seeds", options.seeds, "Each cell is trained with the seeds 1 … N")->check(CLI::Range(1, 1000))->capture_default_str()->group("Grid");
  app.add_option("--tune", options.tune, "Trainings of each kind that choose its rates on the validation rows (the given rates are the first); 0 = none")
      ->check(CLI::Range(0, 1000))
      ->capture_default_str()
      ->group("Grid");
  app.add_flag("--without-single-tasks{false}", options.single_tasks, "No single-task models, and so no gain over them")->group("Grid");
  app.add_option("--output", options.output, "Folder of the cells, the tables and the report; the same command goes on with an interrupted grid")
      ->required()
      ->group("Grid");
  app.add_option("--jobs", options.jobs,
                 "Cells at a time, each a process that shares the rows; they share the threads too, and fewer threads round differently")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str()
      ->group("Grid");
  app.add_option("--trunk", options.trunk, "Widths of a trunk's layers, or of an expert's")->delimiter(',')->capture_default_str()->group("Sizes");
  app.add_option("--tower-above-trunk", options.tower_above_trunk, "Widths of a tower on a trunk")->delimiter(',')->capture_default_str()->group("Sizes");
  app.add_option("--experts", options.experts, "Experts of a mixture")->check(CLI::Range(1, 1024))->capture_default_str()->group("Sizes");
  app.add_option("--gate-dropout", options.gate_dropout, "Part of the gates dropped in training")
      ->check(CLI::Range(0.0, 0.99))
      ->capture_default_str()
      ->group("Sizes");
  app.add_option(
         "--attend", texts.attend,
         "HISTORY=TARGET, as in watch_seq=video_id, several with | between them: multi-valued fields whose values are weighed by attention for the row's "
         "target (DIN) instead of pooled")
      ->group("Input");
  app.add_option("--numbers-by", options.numbers_by, "How numeric features enter: as_is, or embedded by periodic or piecewise linear functions")
      ->check(CLI::IsMember({"as_is", "periodic", "piecewise"}))
      ->capture_default_str()
      ->group("Input");
  app.add_option("--score", options.score, "Formula over the tasks' predictions by which rows are ordered within a group, as in 'click^.6 * watch_time'")
      ->group("Report");
  app.add_option("--group", options.group, "Context column whose values are the groups; default: user or user_id where the data have it")->group("Report");
  app.add_option("--reference", options.reference, "Kind that the others are compared with, the beginning of MODEL+ADJUSTER+LOSS+BALANCER")->group("Report");
  app.add_option("--bootstrap", options.bootstrap, "Resamplings of the test rows, by group where there are groups; 0 = none")
      ->check(CLI::Range(0, 1000000))
      ->capture_default_str()
      ->group("Report");
}

/// Fills in what was not given, and refuses what does not exist.
void check_names(CompareOptions& options) {
  if (options.adjusters.empty()) options.adjusters = {"sum|core_task"};
  if (options.balancers.empty()) options.balancers = {"none"};
  const std::vector<std::string> models = checked(options.models, checked_model);
  options.adjusters = checked(options.adjusters, checked_adjuster);
  options.losses = checked(options.losses, complete_loss);
  options.balancers = checked(options.balancers, checked_balancer);
  for (const std::string& adjuster : options.adjusters)
    for (const std::string& balancer : options.balancers)
      HTL_CHECK(balancer == "none" || !htl::built_in_methods().make(htl::parse_spec(adjuster)).observes(), "compare: the adjuster \"", adjuster,
                "\" compares the losses before and after a step, which the balancer \"", balancer, "\" changes; give --balancers none, or leave it out");
  for (const std::vector<int64_t>* const widths : {&options.trunk, &options.tower_above_trunk})
    HTL_CHECK(std::all_of(widths->begin(), widths->end(), [](int64_t width) { return width > 0; }), "compare: expected widths ≥ 1, as in 128,64");
  options.models = models;
}

}  // namespace

nlohmann::ordered_json CompareOptions::of_every_cell() const {
  nlohmann::ordered_json result;
  for (const auto& [name, value] : base.values.items())
    if (of_htlnet.contains(name) && !not_recorded.contains(name)) result[name] = value;
  result["trunk"] = trunk;
  result["tower-above-trunk"] = tower_above_trunk;
  result["experts"] = experts;
  result["gate-dropout"] = gate_dropout;
  for (const auto& [history, target] : attend) result["attend"][history] = target;
  if (numbers_by != "as_is") result["numbers-by"] = numbers_by;
  return result;
}

std::string complete_loss(const std::string& text) {
  if (text == as_the_data_say) return text;
  const htlnet::LossText parts = htlnet::loss_text(text, "compare: --losses");
  const auto loss_of = [&](const std::string& part) {
    htl::AnyLoss loss = htl::built_in_losses().make(htl::parse_spec(part));
    HTL_CHECK(loss.fits(htl::TaskKind::regression), "compare: the loss \"", part, "\" of --losses is not for a regression, as the core task is");
    return loss;
  };
  const htl::AnyLoss loss = loss_of(parts.loss);
  const std::string transform = parts.transform.value_or(loss.in_label_unit() ? "none" : "z_score");
  const htl::AnyLabelTransform made = htl::built_in_transforms().make(htl::parse_spec(transform));
  HTL_CHECK(!loss.in_label_unit() || made.name() == "none", "compare: the loss \"", parts.loss, "\" works in the label's unit; write it as \"", parts.loss,
            "\", without the transform \"", transform, "\"");
  for (const auto& [weight, beside] : parts.beside) loss_of(beside);
  const size_t rest = text.find('&');
  return parts.loss + "@" + transform + (rest == std::string::npos ? "" : text.substr(rest));
}

CompareOptions parse_compare_options(int argc, const char* const* argv, int& exit_code) {
  CompareOptions options;
  exit_code = 0;
  CLI::App app{"compare — models × adjusters × losses × balancers on one data set, with seeds, controls, statistics and a report"};
  app.footer(
      "Lists: an option may be repeated, and \"|\" or \",\" separate entries; a comma before option=value goes on with the entry before it.\n"
      "Always compared too: shared_embedding with the plain sum and with core_task, htlnet with the plain sum, single-task models, the best expectations\n"
      "(synthetic rows) or averages (other data); with --predictions also what was predicted outside.\n"
      "Rows, sizes and training: --dataset, --rows, --epochs, --row-lr, … as htlnet train --help explains them. --seed is that of simulated rows.\n"
      "It runs on the CPU.");
  Texts texts;
  add_grid_options(app, options, texts);
  std::vector<std::string> own, forwarded = {"htlnet", "train"};
  std::vector<std::string>* to = &own;
  std::vector<std::string> known;
  for (const CLI::Option* option : app.get_options())
    for (const std::string& name : option->get_lnames()) known.push_back("--" + name);
  for (const std::string& name : of_htlnet) known.push_back("--" + name);
  const auto refuse = [&](std::string sentence) {
    if (!sentence.starts_with("compare: ")) sentence = "compare: " + sentence;
    std::cerr << sentence << (sentence.back() == '?' ? " " : ". ") << "See compare --help\n";
    exit_code = 2;
    return CompareOptions();
  };
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i], name = word.substr(0, word.find('='));
    if (word.starts_with("--")) {
      if (std::find(known.begin(), known.end(), name) == known.end())
        return refuse("there is no option \"" + name + "\"; did you mean \"" + htl::nearest(name, known) + "\"?");
      to = of_htlnet.contains(name.substr(2)) ? &forwarded : &own;
    }
    to->push_back(word);
  }
  try {
    app.parse(std::vector<std::string>(own.rbegin(), own.rend()));
    check_names(options);
    options.predictions = named_files(texts.predictions);
    options.attend = attended(texts.attend);
  } catch (const CLI::Success& help) {
    app.exit(help);
    return {};
  } catch (const CLI::Error& error) {
    return refuse(error.what());
  } catch (const c10::Error& error) {
    return refuse(error.what_without_backtrace());
  }
  forwarded.insert(forwarded.end(), {"--output", options.output});
  std::vector<const char*> words;
  for (const std::string& word : forwarded) words.push_back(word.c_str());
  options.base = htlnet::parse_options(static_cast<int>(words.size()), words.data(), exit_code);
  if (options.base.command.empty()) return {};
  const auto given = [](const std::vector<std::string>& among, const std::string& option) {
    return std::any_of(among.begin(), among.end(), [&](const std::string& word) { return word == option || word.starts_with(option + "="); });
  };
  const auto reads = [&](const char* part) {
    return std::any_of(options.models.begin(), options.models.end(), [&](const std::string& model) { return model.find(part) != std::string::npos; });
  };
  if (given(own, "--experts") && !reads("mmoe")) return refuse("--experts is for mmoe and htlnet_mmoe, and none of them is among --models; leave it out");
  if (given(own, "--gate-dropout") && !reads("mmoe") && !reads("ple") && !reads("adatt"))
    return refuse("--gate-dropout is for mixtures of experts (mmoe, ple, adatt), and none of them is among --models; leave it out");
  if (given(forwarded, "--seed") && options.base.data.dataset != "synthetic")
    return refuse("--seed is that of simulated rows, which these are not; --seeds N trains with the seeds 1 … N");
  return options;
}

}  // namespace compare
