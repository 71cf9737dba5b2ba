// SPDX-License-Identifier: Apache-2.0
/// @file version.hpp
/// @brief The library's version; the build reads it from here.
///
/// Everything is in the inline namespace of the version: programs write htl::Tower, the linker reads htl::v0_1_0::Tower. So two versions may be in one program,
/// as when two libraries that it links were built with different ones: each calls its own functions, and what would hand an object of one to the other does not
/// link. In one translation unit they are refused.
#pragma once

#if defined(HTL_VERSION_MAJOR) && (HTL_VERSION_MAJOR != 0 || HTL_VERSION_MINOR != 1 || HTL_VERSION_PATCH != 0)
#error "htl: two versions of the library are included in one translation unit; leave one of their include directories out"
#endif

/// Major version; 0 while the interface may still change between minor versions.
#define HTL_VERSION_MAJOR 0
/// Minor version.
#define HTL_VERSION_MINOR 1
/// Patch version.
#define HTL_VERSION_PATCH 0
