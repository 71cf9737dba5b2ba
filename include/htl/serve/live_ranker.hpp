// SPDX-License-Identifier: Apache-2.0
/// @file live_ranker.hpp
/// @brief LiveRanker: a Ranker whose weights are replaced while it is asked.
#pragma once

#include <htl/serve/golden_requests.hpp>

#include <memory>
#include <mutex>
#include <utility>

namespace htl::inline v0_1_0 {

/// @brief The ranker that serves now. A request is answered by one ranker from its beginning to its end, the old or the new.
///
/// Asking takes a lock for the copy of one pointer. A replaced ranker, its table and its mapping go with the last request that still uses it.
/// **Threads.** All members, any number at once; buffers are the thread's own, and go from ranker to ranker.
class LiveRanker {
 public:
  /// @brief Starts with a ranker that passes the golden requests.
  /// @throws c10::ValueError without a ranker, or as GoldenRequests::check()
  explicit LiveRanker(std::shared_ptr<const Ranker> ranker, const GoldenRequests& golden = {}) { swap(std::move(ranker), golden); }

  /// @brief Replaces the ranker for all requests that begin from now on, if the next one passes the golden requests; else the present one stays.
  /// @throws c10::ValueError without a ranker, or as GoldenRequests::check()
  void swap(std::shared_ptr<const Ranker> next, const GoldenRequests& golden = {}) {
    HTL_CHECK(next, "htl::LiveRanker: expected a ranker, got none");
    golden.check(*next);
    const std::lock_guard<std::mutex> lock(mutex_);
    current_.swap(next);  // the old one goes after the lock
  }
  /// @brief The ranker that serves now.
  std::shared_ptr<const Ranker> current() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return current_;
  }
  /// @brief Ranker::rank() of the ranker that serves now. The predictions are valid until the buffers are used again, whatever is swapped meanwhile.
  const Predictions& rank(const RankRequest& request, RankerBuffers& buffers) const { return current()->rank(request, buffers); }

 private:
  mutable std::mutex mutex_;
  std::shared_ptr<const Ranker> current_;
};

}  // namespace htl
