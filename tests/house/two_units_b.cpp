// SPDX-License-Identifier: Apache-2.0
#include <all_headers.hpp>

int version_seen_by_b() { return HTL_VERSION_MAJOR * 10000 + HTL_VERSION_MINOR * 100 + HTL_VERSION_PATCH; }
const void* nearest_seen_by_b() { return reinterpret_cast<const void*>(&htl::nearest); }
