// SPDX-License-Identifier: Apache-2.0
/// @file stop_request.hpp
/// @brief StopRequest: Ctrl-C and SIGTERM as a question that a loop answers between two steps.
#pragma once

#include <csignal>

namespace htlnet {

/// @brief While it lives, the first SIGINT or SIGTERM is noted; a second one ends the process as usual. One at a time.
class StopRequest {
 public:
  StopRequest() {
    noted_ = 0;
    struct sigaction action {};
    action.sa_handler = [](int signal) { noted_ = signal; };
    action.sa_flags = static_cast<int>(SA_RESETHAND);  // the second one finds the default
    for (const int signal : {SIGINT, SIGTERM}) {
      struct sigaction& before = signal == SIGINT ? interrupt_ : terminate_;
      ::sigaction(signal, &action, &before);
      if (before.sa_handler == SIG_IGN) ::sigaction(signal, &before, nullptr);  // as under nohup
    }
  }
  ~StopRequest() {
    ::sigaction(SIGINT, &interrupt_, nullptr);
    ::sigaction(SIGTERM, &terminate_, nullptr);
  }
  StopRequest(const StopRequest&) = delete;
  StopRequest& operator=(const StopRequest&) = delete;
  /// @brief The signal that came; 0 = none.
  int signal() const { return noted_; }

 private:
  inline static volatile std::sig_atomic_t noted_ = 0;
  struct sigaction interrupt_ {
  }, terminate_{};
};

}  // namespace htlnet
