// SPDX-License-Identifier: Apache-2.0
// A user of the components: what they need is there by linking htl::data and htl::io alone.
#include <zlib.h>
#include <htl/data/batch.hpp>
#include <nlohmann/json.hpp>

#include <cstdio>

int main() {
  const nlohmann::json summary = {{"zlib", zlibVersion()}, {"rows", htl::Batch{}.labels.rows()}};
  std::puts(summary.dump().c_str());
  return summary["rows"] == 0 ? 0 : 1;
}
