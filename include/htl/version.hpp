// SPDX-License-Identifier: Apache-2.0
/// @file version.hpp
/// @brief The library's version; the build reads it from here.
#pragma once

/// Major version; 0 while the interface may still change between minor versions.
#define HTL_VERSION_MAJOR 0
/// Minor version.
#define HTL_VERSION_MINOR 1
/// Patch version.
#define HTL_VERSION_PATCH 0
