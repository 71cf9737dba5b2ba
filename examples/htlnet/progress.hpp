// SPDX-License-Identifier: Apache-2.0
/// @file progress.hpp
/// @brief Progress of a run: a bar on a terminal, plain lines elsewhere, nothing when quiet.
#pragma once

#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <string>

namespace htlnet {

class Progress {
 public:
  explicit Progress(bool quiet) : quiet_(quiet), terminal_(!quiet && isatty(STDERR_FILENO) == 1) {}
  /// Redraws the bar; on other outputs nothing.
  void bar(int64_t epoch, int64_t epochs, int64_t step, int64_t steps, double rows_per_second) {
    if (!terminal_) return;
    const auto filled = static_cast<int>(steps > 0 ? 30 * step / steps : 0);
    std::fprintf(stderr, "\repoch %lld/%lld [%s%s] %lld/%lld  %.0f rows/s \033[K", static_cast<long long>(epoch), static_cast<long long>(epochs),
                 std::string(static_cast<size_t>(filled), '#').c_str(), std::string(static_cast<size_t>(30 - filled), '.').c_str(),
                 static_cast<long long>(step), static_cast<long long>(steps), rows_per_second);
  }
  /// A line that stays.
  void line(const std::string& text) {
    if (quiet_) return;
    std::fprintf(stderr, "%s%s\n", terminal_ ? "\r\033[K" : "", text.c_str());
  }

 private:
  bool quiet_, terminal_;
};

}  // namespace htlnet
