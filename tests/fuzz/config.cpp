// SPDX-License-Identifier: Apache-2.0
// A run's config.toml: what is written of the options that were read gives the same options. Making the parser of the command line takes most of the time: of
// the inputs that are no TOML, and go no further, one in eight goes through it.
#include "fuzz.hpp"

#include <htlnet/options.hpp>
#include <htlnet/toml_file.hpp>

#include <stdexcept>
#include <string>
#include <typeinfo>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const htl::fuzz::MemoryFile file;
  const std::string& path = file.write(htl::fuzz::text_of(data, size));
  htlnet::Options options;
  try {
    if (size % 8 != 0) (void)htlnet::read_toml(path);
  } catch (const toml::parse_error&) {
    return 0;
  }
  try {
    options = htlnet::read_run_options(path);
  } catch (const std::runtime_error& error) {
    if (typeid(error) != typeid(std::runtime_error)) throw;  // not a sentence of read_run_options()
    htl::fuzz::require(error.what()[0] != '\0', "a sentence is not empty");
    return 0;
  }
  const std::string text = htlnet::to_toml(options.values);
  try {
    htl::fuzz::require(htlnet::read_run_options(file.write(text)).values == options.values, "the same options come back:", text);
  } catch (const std::exception& error) {
    htl::fuzz::require(false, "what was written is read:", text + error.what());
  }
  return 0;
}
