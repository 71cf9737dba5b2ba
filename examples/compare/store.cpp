// SPDX-License-Identifier: Apache-2.0
#include "store.hpp"

#include <examples/htlnet/data/fingerprint.hpp>

#include <htl/io/feature_map_json.hpp>
#include <htl/io/json.hpp>
#include <htl/io/safetensors.hpp>
#include <htl/io/task_set_json.hpp>
#include <htl/version.hpp>

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>

namespace compare {
namespace {

void make_folder(const std::filesystem::path& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  HTL_CHECK(!error, "compare: can't make the folder \"", path.string(), "\": ", error.message());
}

std::string checksum_of(const std::string& text) { return htl::detail::as_digits(htl::detail::crc32_of(0, text.data(), text.size())); }

/// The tasks by name, each as tasks.json has it.
nlohmann::ordered_json spec_of_tasks(const htl::TaskSet& tasks) {
  nlohmann::ordered_json result;
  const nlohmann::ordered_json list = htl::to_json(tasks)["tasks"];  // in the order of the tasks
  for (size_t t = 0; t < list.size(); ++t) result[tasks[static_cast<int64_t>(t)].name()] = list[t];
  return result;
}

/// Refuses the first value in which two specs differ, in the order of the wanted one.
/// @param name of the value; what stands below "tasks" is named by its path
void refuse_difference(const nlohmann::ordered_json& found, const nlohmann::ordered_json& wanted, const std::string& name, const std::string& folder) {
  if (found.is_object() && wanted.is_object()) {
    const auto below = [&](const std::string& key) { return name.starts_with("tasks") ? name + "." + key : key; };
    for (const auto& [key, value] : wanted.items()) refuse_difference(found.value(key, nlohmann::ordered_json()), value, below(key), folder);
    for (const auto& [key, value] : found.items())
      if (!wanted.contains(key)) refuse_difference(value, nlohmann::ordered_json(), below(key), folder);
    return;
  }
  const bool is_same = nlohmann::json(found) == nlohmann::json(wanted);  // of which no object has an order
  HTL_CHECK(is_same, "compare: the cell in \"", folder, "\" was made with ", name == "data" ? "other rows" : name + " " + found.dump(), ", not ",
            name == "data" ? "these" : wanted.dump(), "; give another --output, the options of that grid, or remove that folder");
}

}  // namespace

Store::Store(const CompareOptions& options, const htlnet::Dataset& data)
    : options_(options),
      tasks_(data.tasks),
      path_(options.output),
      group_(group_column(options, data)),
      features_(checksum_of(htl::to_json(data.features).dump())) {
  for (const htl::TableData* const rows : {&data.train, &data.valid, &data.test})
    fingerprint_ += (fingerprint_.empty() ? "" : " ") + htlnet::fingerprint_of(*rows, /*with_layout=*/true);
  make_folder(path_);
  lock_ = ::open(path_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  HTL_CHECK(lock_ < 0 || ::flock(lock_, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK, "compare: another process is comparing into \"", path_.string(),
            "\"; wait for it, or give another --output");
}

Store::~Store() {
  if (lock_ >= 0) ::close(lock_);
}

nlohmann::ordered_json Store::spec_of(const Cell& cell) const {
  const Kind& kind = cell.kind;
  nlohmann::ordered_json spec = {{"version", c10::str(HTL_VERSION_MAJOR, ".", HTL_VERSION_MINOR, ".", HTL_VERSION_PATCH)}, {"model", kind.model}};
  if (!kind.is_bound()) {
    spec.update({{"adjuster", kind.adjuster}, {"loss", kind.loss}, {"balancer", kind.balancer}, {"task", kind.task}, {"seed", cell.seed}});
    spec["rates"] = {
        {"row-lr", cell.rates.row_lr}, {"dense-lr", cell.rates.dense_lr}, {"weight-decay", cell.rates.weight_decay}, {"dropout", cell.rates.dropout}};
    spec["options"] = options_.of_every_cell();
  }
  if (const std::string* const file = options_.predictions.find(kind.model)) spec["predictions"] = checksum_of(htl::read_file(*file));
  spec["tasks"] = spec_of_tasks(tasks_of(tasks_, kind));
  spec["features"] = features_;
  spec["group"] = group_;
  spec["data"] = fingerprint_;
  return spec;
}

bool Store::has(const Cell& cell) const {
  const std::filesystem::path folder = folder_of(cell);
  if (!std::filesystem::exists(folder / "cell.json")) return false;
  const nlohmann::json found = htl::read_json(folder / "cell.json");
  HTL_CHECK(found.is_object() && found.contains("spec") && found.value("format", "") == "compare.cell" && found.contains("figures"), "compare: \"",
            (folder / "cell.json").string(), "\" is no cell of this program; remove that folder, or give another --output");
  refuse_difference(found["spec"], spec_of(cell), "spec", folder.string());
  return cell.draw >= 0 || found["figures"].contains("failed") || std::filesystem::exists(folder / "predictions.safetensors");  // without, it is made again
}

void Store::keep(const Cell& cell, const CellResult& result) const {
  const std::filesystem::path folder = folder_of(cell);
  make_folder(folder);
  htl::remove_stale_temporaries(folder);
  if (!result.test.empty()) htl::save_safetensors(folder / "predictions.safetensors", {.tensors = result.test});
  htl::write_json(folder / "cell.json", {{"format", "compare.cell"}, {"version", 1}, {"spec", spec_of(cell)}, {"figures", result.figures}});
}

bool Store::adopt(const Cell& draw, const Cell& cell, const Setup& setup) const {
  if (has(cell) || !std::filesystem::exists(folder_of(draw) / "predictions.safetensors")) return false;
  CellResult result = read(draw, true);
  result.figures["test"] = measure_test(setup, draw.kind, result.test);
  keep(cell, result);
  return true;
}

void Store::forget_predictions(const Cell& cell) const {
  std::error_code error;
  std::filesystem::remove(folder_of(cell) / "predictions.safetensors", error);
}

CellResult Store::read(const Cell& cell, bool with_predictions) const {
  const std::filesystem::path folder = folder_of(cell);
  CellResult result;
  result.figures = htl::read_json(folder / "cell.json").at("figures");
  if (!with_predictions || result.figures.contains("failed")) return result;
  try {
    result.test = htl::load_safetensors(folder / "predictions.safetensors").tensors;
  } catch (const c10::Error& error) {
    HTL_CHECK(false, "compare: can't read a finished cell: ", error.what_without_backtrace(), "; remove \"", folder.string(),
              "\", and the same command makes it again");
  }
  return result;
}

}  // namespace compare
