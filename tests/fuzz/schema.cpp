// SPDX-License-Identifier: Apache-2.0
// The schema of CSV data, from TOML.
#include "fuzz.hpp"

#include <htlnet/data/csv_schema.hpp>

#include <string>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const htl::fuzz::MemoryFile file;
  const std::string& path = file.write(htl::fuzz::text_of(data, size));
  htl::fuzz::reads([&] {
    const htlnet::CsvSchema schema = htlnet::CsvSchema::read(path);
    htl::fuzz::require(schema.asks_for(0), "there are training rows");
    htl::fuzz::require(!schema.tasks.empty() && schema.tasks.size() == schema.label_columns.size() && schema.tasks.size() == schema.names_transform.size(),
                       "a label for each task");
    htl::fuzz::require(!schema.fields.empty(), "there are fields");
    for (const htlnet::SplitRule& rule : schema.split) {
      for (const std::string& value : rule.values) htl::fuzz::require(rule.contains(value), "a part holds its values");
      if (rule.range) htl::fuzz::require(rule.contains(rule.range->first) && rule.contains(rule.range->second), "a part holds its ends");
    }
  });
  return 0;
}
