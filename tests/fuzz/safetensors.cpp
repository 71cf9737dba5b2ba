// SPDX-License-Identifier: Apache-2.0
// safetensors: bytes and a file of the same bytes are read alike; what is written of them is read back, and checked.
#include "fuzz.hpp"
#include "tensors.hpp"

#include <string>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const htl::fuzz::MemoryFile file;
  static const htl::test::TemporaryFolder folder = htl::fuzz::scratch_folder();
  const std::string_view bytes = htl::fuzz::text_of(data, size);
  htl::TensorFile parsed, loaded;
  const bool is_read = htl::fuzz::reads([&] { parsed = htl::parse_safetensors(bytes); });
  const bool is_loaded = htl::fuzz::reads([&] { loaded = htl::load_safetensors(file.write(bytes)); });
  htl::fuzz::require(is_read == is_loaded && htl::fuzz::same_content(parsed, loaded), "a file is as its bytes");
  if (!is_read) return 0;
  const std::filesystem::path path = folder.path() / "again.safetensors";
  htl::save_safetensors(path, parsed);
  const std::string written = htl::read_file(path);
  const htl::TensorFile again = htl::parse_safetensors(written);
  htl::fuzz::require(again.is_checked && htl::fuzz::same_content(parsed, again), "what was written comes back");
  return 0;
}
