// SPDX-License-Identifier: Apache-2.0
/// @file progress.hpp
/// @brief Progress of a run: a bar on a terminal, a plain line every few seconds elsewhere, nothing when quiet.
#pragma once

#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <string>

namespace htlnet {

class Progress {
 public:
  explicit Progress(bool quiet) : quiet_(quiet), terminal_(!quiet && isatty(STDERR_FILENO) == 1) {}
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  /// Ends the bar's line, so that an error's sentence has its own.
  ~Progress() {
    if (open_) std::fputc('\n', stderr);
  }
  /// Redraws the bar; elsewhere a line, unless the last one is younger than five seconds.
  void bar(int64_t epoch, int64_t epochs, int64_t step, int64_t steps, double rows_per_second) {
    if (quiet_) return;
    std::string filled;
    if (terminal_) {
      const auto marks = static_cast<size_t>(steps > 0 ? 30 * step / steps : 0);
      filled = " [" + std::string(marks, '#') + std::string(30 - marks, '.') + "]";
    } else {
      const auto now = std::chrono::steady_clock::now();
      if (printed_ && now - last_ < std::chrono::seconds(5)) return;
      printed_ = true;
      last_ = now;
    }
    std::fprintf(stderr, "%sepoch %lld/%lld%s  step %lld/%lld  %.0f rows/s%s", terminal_ ? "\r" : "", static_cast<long long>(epoch),
                 static_cast<long long>(epochs), filled.c_str(), static_cast<long long>(step), static_cast<long long>(steps), rows_per_second,
                 terminal_ ? " \033[K" : "\n");
    open_ = terminal_;
  }
  /// A line that stays.
  void line(const std::string& text) {
    if (quiet_) return;
    std::fprintf(stderr, "%s%s\n", terminal_ ? "\r\033[K" : "", text.c_str());
    open_ = false;
  }

 private:
  bool quiet_, terminal_;
  bool open_ = false;  // the bar stands on the current line
  bool printed_ = false;
  std::chrono::steady_clock::time_point last_;
};

}  // namespace htlnet
