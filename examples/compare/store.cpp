// SPDX-License-Identifier: Apache-2.0
#include "store.hpp"

#include <htl/io/json.hpp>
#include <htl/io/safetensors.hpp>

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>

namespace compare {
namespace {

/// The CRC-32 of ids, numbers, labels and their context.
std::string fingerprint_of(const htl::TableData& rows) {
  uint32_t checksum = 0;
  const auto add = [&](const at::Tensor& tensor) {
    if (!tensor.defined() || tensor.numel() == 0) return;
    const at::Tensor held = tensor.contiguous();
    checksum = htl::detail::crc32_of(checksum, held.const_data_ptr(), held.nbytes());
  };
  const htl::Batch& all = rows.all();
  for (const at::Tensor& part : {all.fields.ids, all.fields.offsets, all.fields.weights, all.numeric}) add(part);
  for (const auto& [name, label] : all.labels.tasks)
    for (const at::Tensor& part : {label.value, label.mask, label.weight}) add(part);
  for (const auto& [name, column] : all.labels.context) add(column);
  return htl::detail::as_digits(checksum);
}

void make_folder(const std::filesystem::path& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  HTL_CHECK(!error, "compare: can't make the folder \"", path.string(), "\": ", error.message());
}

/// Refuses the first value in which two specs differ, in the order of the wanted one.
void refuse_difference(const nlohmann::ordered_json& found, const nlohmann::ordered_json& wanted, const std::string& name, const std::string& folder) {
  if (found.is_object() && wanted.is_object()) {
    for (const auto& [key, value] : wanted.items()) refuse_difference(found.value(key, nlohmann::ordered_json()), value, key, folder);
    for (const auto& [key, value] : found.items())
      if (!wanted.contains(key)) refuse_difference(value, nlohmann::ordered_json(), key, folder);
    return;
  }
  HTL_CHECK(found == wanted, "compare: the cell in \"", folder, "\" was made with ", name == "data" ? "other rows" : name + " " + found.dump(), ", not ",
            name == "data" ? "these" : wanted.dump(), "; give another --output, the options of that grid, or remove that folder");
}

}  // namespace

Store::Store(const CompareOptions& options, const htlnet::Dataset& data)
    : options_(options), path_(options.output), fingerprint_(fingerprint_of(data.train) + " " + fingerprint_of(data.valid) + " " + fingerprint_of(data.test)) {
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
  nlohmann::ordered_json spec = {{"model", kind.model}};
  if (!kind.is_bound()) {
    spec.update({{"adjuster", kind.adjuster}, {"loss", kind.loss}, {"balancer", kind.balancer}, {"task", kind.task}, {"seed", cell.seed}});
    spec["rates"] = {
        {"row-lr", cell.rates.row_lr}, {"dense-lr", cell.rates.dense_lr}, {"weight-decay", cell.rates.weight_decay}, {"dropout", cell.rates.dropout}};
    spec["options"] = options_.of_every_cell();
  }
  spec["group"] = options_.group;
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
  return true;
}

void Store::keep(const Cell& cell, const CellResult& result) const {
  const std::filesystem::path folder = folder_of(cell);
  make_folder(folder);
  htl::remove_stale_temporaries(folder);
  if (!result.test.empty()) htl::save_safetensors(folder / "predictions.safetensors", {.tensors = result.test});
  htl::write_json(folder / "cell.json", {{"format", "compare.cell"}, {"version", 1}, {"spec", spec_of(cell)}, {"figures", result.figures}});
}

CellResult Store::read(const Cell& cell, bool with_predictions) const {
  const std::filesystem::path folder = folder_of(cell);
  CellResult result;
  result.figures = htl::read_json(folder / "cell.json").at("figures");
  if (with_predictions && !result.figures.contains("failed")) result.test = htl::load_safetensors(folder / "predictions.safetensors").tensors;
  return result;
}

}  // namespace compare
