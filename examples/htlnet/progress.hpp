// SPDX-License-Identifier: Apache-2.0
/// @file progress.hpp
/// @brief Progress of a run: a bar on a terminal, a plain line every few seconds elsewhere, nothing but warnings when quiet.
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
  /// Redraws the bar, or prints a line where there is no terminal; nothing if the last one is too young. Cheap: to be called in every step.
  void bar(int64_t epoch, int64_t epochs, int64_t step, int64_t steps, double rows_per_second) {
    const auto now = std::chrono::steady_clock::now();
    if (quiet_ || (printed_ && now - last_ < (terminal_ ? std::chrono::milliseconds(200) : std::chrono::milliseconds(5000)))) return;
    printed_ = true;
    last_ = now;
    std::string filled;
    if (terminal_) {
      const auto marks = static_cast<size_t>(steps > 0 ? 30 * step / steps : 0);
      filled = " [" + std::string(marks, '#') + std::string(30 - marks, '.') + "]";
    }
    std::fprintf(stderr, "%sepoch %lld/%lld%s  step %lld/%lld  %.0f rows/s%s", terminal_ ? "\r" : "", static_cast<long long>(epoch),
                 static_cast<long long>(epochs), filled.c_str(), static_cast<long long>(step), static_cast<long long>(steps), rows_per_second,
                 terminal_ ? " \033[K" : "\n");
    open_ = terminal_;
  }
  /// A line that stays.
  void line(const std::string& text) {
    if (!quiet_) print(text);
  }
  /// A line that stays, and that is there even when quiet.
  void warning(const std::string& text) { print("htlnet: warning: " + text); }

 private:
  void print(const std::string& text) {
    std::fprintf(stderr, "%s%s\n", terminal_ ? "\r\033[K" : "", text.c_str());
    open_ = false;
  }

  bool quiet_, terminal_;
  bool open_ = false;  // the bar stands on the current line
  bool printed_ = false;
  std::chrono::steady_clock::time_point last_;
};

}  // namespace htlnet
