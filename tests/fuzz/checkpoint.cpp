// SPDX-License-Identifier: Apache-2.0
// A folder of checkpoints whose newest file is the input, as it is and with a checksum that holds: the state takes all of it or nothing.
#include "fuzz.hpp"
#include "tensors.hpp"

#include <htl/io/checkpoint.hpp>

#include <ATen/ops/arange.h>

#include <fstream>
#include <optional>
#include <string>

namespace {

struct Parts {
  at::Tensor rows = at::arange(6, at::kFloat).view({2, 3}), memory;  // memory: not there before the first step
  int64_t step = 7;
  double rate = 0.25;
  bool flag = true;
  htl::TrainingState state;
  Parts() { state.add("rows", rows).add("memory", memory).add("step", step).add("rate", rate).add("flag", flag); }
  htl::TensorFile content() const {
    htl::TensorFile copy;
    for (const auto& [name, tensor] : state.tensors()) copy.tensors.set(name, tensor.clone());
    return copy;
  }
};

constexpr const char* older = "step-000000000001.safetensors";
constexpr const char* newer = "step-000000000002.safetensors";

void read_newest(const std::filesystem::path& folder) {
  const htl::Checkpoints checkpoints(folder);
  htl::fuzz::reads([&] {
    const std::optional<htl::Checkpoint> found = checkpoints.newest();
    htl::fuzz::require(found && found->step == (found->damaged.empty() ? 2 : 1), "the newest whole one");
    Parts parts;
    const htl::TensorFile before = parts.content();
    const bool is_loaded = htl::fuzz::reads([&] { parts.state.load(found->tensors); });
    htl::fuzz::require(htl::fuzz::same_content(parts.content(), is_loaded ? htl::TensorFile{found->tensors} : before), "the whole state or nothing");
    htl::fuzz::require(is_loaded || found->step == 2, "the older one fits");
  });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const htl::test::TemporaryFolder folder = htl::fuzz::scratch_folder();
  static const bool has_older = [] {
    htl::Checkpoints(folder.path()).save(1, Parts().state, htl::Named<std::string>());
    return std::filesystem::exists(folder.path() / older);
  }();
  htl::fuzz::require(has_older, "a checkpoint is saved");
  const std::string_view bytes = htl::fuzz::text_of(data, size);
  std::ofstream(folder.path() / newer, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  read_newest(folder.path());
  htl::TensorFile content;
  if (!htl::fuzz::reads([&] { content = htl::parse_safetensors(bytes); }) || content.is_checked) return 0;
  htl::save_safetensors(folder.path() / newer, content);
  read_newest(folder.path());
  return 0;
}
