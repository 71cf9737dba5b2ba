"""A file that another program wrote, as a C++ header; for the scripts beside this one."""
import textwrap


def print_header(name, array, what, script, data):
    print(f"""// SPDX-License-Identifier: Apache-2.0
/// @file {name}.hpp
/// @brief {what}; made by {script}, not by hand.
#pragma once

#include <array>

namespace htl::golden {{

/// @brief The file's bytes.
// clang-format off
inline constexpr std::array<unsigned char, {len(data)}> {array} = {{
{textwrap.fill(", ".join(map(str, data)), 150, initial_indent="    ", subsequent_indent="    ")}}};

}}  // namespace htl::golden""")
