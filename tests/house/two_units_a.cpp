// SPDX-License-Identifier: Apache-2.0
// With two_units_b.cpp one program: a function or variable that a header defines without `inline` would be defined twice.
#include <all_headers.hpp>

#include <cstdio>

int version_seen_by_b();
const void* nearest_seen_by_b();

int main() {
  const int version = HTL_VERSION_MAJOR * 10000 + HTL_VERSION_MINOR * 100 + HTL_VERSION_PATCH;
  const bool same = version == version_seen_by_b() && reinterpret_cast<const void*>(&htl::nearest) == nearest_seen_by_b();
  if (!same) std::puts("the two translation units see different libraries");
  return same ? 0 : 1;
}
