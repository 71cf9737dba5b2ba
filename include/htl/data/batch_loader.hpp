// SPDX-License-Identifier: Apache-2.0
/// @file batch_loader.hpp
/// @brief BatchLoader: a data set as batches, shuffled anew each epoch, resumable at every batch.
#pragma once

#include <htl/data/shuffle.hpp>
#include <htl/data/table_data.hpp>
#include <htl/task/state_owner.hpp>

#include <ATen/Context.h>

#include <condition_variable>
#include <cstddef>
#include <exception>
#include <iterator>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief How batches are made.
struct BatchLoaderOptions {
  int64_t batch_size = 1024;  ///< rows of a batch; the last of an epoch may have fewer
  bool shuffle = true;        ///< a new order each epoch; otherwise the order of the data
  uint64_t seed = 1;          ///< of the order
  bool drop_last = false;     ///< leave out an incomplete last batch
  bool pad_last = false;      ///< fill an incomplete last batch with rows of weight 0; all batches then have one shape, and weights in every task
  bool prefetch = false;      ///< make the next batch on a thread of its own while the current one is used
  bool pin_memory = false;    ///< batches in page-locked memory, for asynchronous copies; needs an accelerator
};

/// @brief Where a loader stands; with the same data and options, all that its next batches depend on.
struct BatchLoaderState {
  uint64_t seed = 1;     ///< of the order
  int64_t epoch = 0;     ///< which pass, from 0
  int64_t position = 0;  ///< rows of this pass that were handed out
  /// @brief Member by member.
  bool operator==(const BatchLoaderState&) const = default;
};

/// @brief A BatchSource over rows in memory: `for (const htl::Batch& batch : loader)`. One pass is one epoch, and ends with the next epoch's beginning.
///
/// The order is a pure function of (seed, epoch). A loop that is left early is continued by the next; `resume({seed, epoch, 0})` starts over.
/// `state()` inside the loop's body names the batches after the current one, so a checkpoint taken after the step goes on with the next step, bit by bit.
/// Every batch owns its memory. Data on an accelerator are picked there (one upload of the order an epoch, no synchronisation in a step); prefetch,
/// pin_memory and pad_last are for data on the CPU. Not thread-safe.
class BatchLoader {
 public:
  /// @brief The loader of a data set.
  /// @throws c10::ValueError: batch_size < 1, drop_last together with pad_last, pin_memory without an accelerator, CPU options for data elsewhere
  explicit BatchLoader(TableData data, BatchLoaderOptions options = {});
  BatchLoader(const BatchLoader&) = delete;
  BatchLoader& operator=(const BatchLoader&) = delete;
  /// @brief Waits for the prefetching thread.
  ~BatchLoader() { stop(); }

  /// @brief A single-pass iterator.
  class Iterator {
   public:
    using value_type = Batch;                ///< what it yields
    using difference_type = std::ptrdiff_t;  ///< as the standard asks
    /// @brief The current batch.
    const Batch& operator*() const { return *loader_->current_; }
    /// @brief The current batch.
    const Batch* operator->() const { return &*loader_->current_; }
    /// @brief To the next batch.
    Iterator& operator++() {
      loader_->advance();
      return *this;
    }
    /// @brief To the next batch.
    void operator++(int) { loader_->advance(); }
    /// @brief Whether the pass is over.
    bool operator==(std::default_sentinel_t) const { return !loader_->current_.has_value(); }

   private:
    friend class BatchLoader;
    explicit Iterator(BatchLoader* loader) : loader_(loader) {}
    BatchLoader* loader_;
  };

  /// @brief Makes the next batch of the current pass.
  Iterator begin() {
    advance();
    return Iterator(this);
  }
  /// @brief The end of a pass.
  std::default_sentinel_t end() const { return {}; }

  /// @brief The batches of a whole pass.
  int64_t batches() const { return (usable_rows() + options_.batch_size - 1) / options_.batch_size; }
  /// @brief The rows of a whole pass, without padding.
  int64_t usable_rows() const { return options_.drop_last ? data_.rows() / options_.batch_size * options_.batch_size : data_.rows(); }
  /// @brief Where it stands.
  const BatchLoaderState& state() const { return state_; }
  /// @brief Goes to a state of a loader over the same data with the same options.
  /// @throws c10::ValueError for an epoch below 0, or a position that is no boundary between batches
  void resume(const BatchLoaderState& state);
  /// @brief Calls `visit("seed", tensor)`, "epoch" and "position": state() and resume() for whoever saves everything alike.
  template <class Visit>
  void fields(Visit&& visit) {
    auto seed = static_cast<int64_t>(state_.seed);
    BatchLoaderState state = state_;
    detail::visit_number(visit, "seed", seed);
    detail::visit_number(visit, "epoch", state.epoch);
    detail::visit_number(visit, "position", state.position);
    state.seed = static_cast<uint64_t>(seed);
    if (!(state == state_)) resume(state);
  }
  /// @brief The data.
  const TableData& data() const { return data_; }
  /// @brief The options; the seed in use is that of the state.
  const BatchLoaderOptions& options() const { return options_; }

 private:
  // One batch ahead, made by one thread that lives as long as the loader.
  struct Worker {
    std::mutex mutex;
    std::condition_variable changed;
    bool wanted = false, stopping = false;
    BatchLoaderState at;  // which batch is being made, or lies ready
    std::optional<Batch> ready;
    std::exception_ptr error;
    std::thread thread;
  };

  void advance();
  Batch make(const BatchLoaderState& at);
  const std::vector<int64_t>& order_of(const BatchLoaderState& at);
  Batch from_worker(const BatchLoaderState& at);
  void ask_worker(const BatchLoaderState& at);
  void run_worker();
  void stop();

  TableData data_;
  BatchLoaderOptions options_;
  BatchLoaderState state_;
  std::optional<Batch> current_;
  std::vector<int64_t> order_;  // of (order_seed_, order_epoch_); read by whoever makes batches
  at::Tensor device_order_;
  uint64_t order_seed_ = 0;
  int64_t order_epoch_ = -1;
  std::unique_ptr<Worker> worker_;
};

inline BatchLoader::BatchLoader(TableData data, BatchLoaderOptions options) : data_(std::move(data)), options_(options) {
  HTL_CHECK(options_.batch_size >= 1, "htl::BatchLoader: expected batch_size ≥ 1, got ", options_.batch_size);
  HTL_CHECK(!(options_.drop_last && options_.pad_last), "htl::BatchLoader: expected drop_last or pad_last, got both");
  HTL_CHECK(!options_.pin_memory || at::globalContext().hasCUDA(), "htl::BatchLoader: pin_memory needs an accelerator, and none was found; set it to false");
  HTL_CHECK(data_.all().fields.ids.is_cpu() || !(options_.prefetch || options_.pin_memory || options_.pad_last), "htl::BatchLoader: the data are on ",
            data_.all().fields.ids.device().str(), "; prefetch, pin_memory and pad_last are for data on the CPU");
  state_.seed = options_.seed;
  if (options_.prefetch) {
    worker_ = std::make_unique<Worker>();
    worker_->thread = std::thread([this] { run_worker(); });
  }
}

inline void BatchLoader::resume(const BatchLoaderState& state) {
  HTL_CHECK(state.epoch >= 0, "htl::BatchLoader: expected an epoch ≥ 0, got ", state.epoch);
  HTL_CHECK(state.position >= 0 && state.position <= usable_rows() && (state.position % options_.batch_size == 0 || state.position == usable_rows()),
            "htl::BatchLoader: expected a position between batches of ", options_.batch_size, " of ", usable_rows(), " rows, got ", state.position,
            "; resume with the data and the batch_size of the state");
  state_ = state;
  current_.reset();
}

inline void BatchLoader::advance() {
  if (state_.position >= usable_rows()) {
    current_.reset();
    state_.epoch += 1;
    state_.position = 0;
    return;
  }
  current_ = worker_ ? from_worker(state_) : make(state_);
  state_.position = std::min(state_.position + options_.batch_size, usable_rows());
  if (worker_ && state_.position < usable_rows()) ask_worker(state_);
}

inline const std::vector<int64_t>& BatchLoader::order_of(const BatchLoaderState& at) {
  if (order_epoch_ < 0 || (options_.shuffle && (order_seed_ != at.seed || order_epoch_ != at.epoch))) {
    if (options_.shuffle) {
      order_ = shuffled_rows(data_.rows(), at.seed, at.epoch);
    } else {
      order_.resize(static_cast<size_t>(data_.rows()));
      std::iota(order_.begin(), order_.end(), int64_t{0});
    }
    order_seed_ = at.seed;
    order_epoch_ = at.epoch;
    device_order_ = at::Tensor();
  }
  return order_;
}

inline Batch BatchLoader::make(const BatchLoaderState& at) {
  const std::vector<int64_t>& order = order_of(at);
  const int64_t count = std::min(options_.batch_size, usable_rows() - at.position);
  if (!data_.all().fields.ids.is_cpu()) {
    if (!device_order_.defined())
      device_order_ = at::from_blob(order_.data(), {static_cast<int64_t>(order_.size())}, at::kLong).to(data_.all().fields.ids.device());
    return data_.gather(device_order_.slice(0, at.position, at.position + count));
  }
  return data_.gather(std::span(order).subspan(static_cast<size_t>(at.position), static_cast<size_t>(count)),
                      {.pad_to = options_.pad_last ? options_.batch_size : 0, .pin_memory = options_.pin_memory});
}

inline void BatchLoader::ask_worker(const BatchLoaderState& at) {
  {
    const std::lock_guard lock(worker_->mutex);
    worker_->at = at;
    worker_->ready.reset();
    worker_->error = nullptr;
    worker_->wanted = true;
  }
  worker_->changed.notify_all();
}

inline Batch BatchLoader::from_worker(const BatchLoaderState& at) {
  std::unique_lock lock(worker_->mutex);
  const auto idle = [&] { return !worker_->wanted; };
  worker_->changed.wait(lock, idle);
  if (!(worker_->at == at) || !(worker_->ready || worker_->error)) {  // the first batch of a pass, or after resume()
    lock.unlock();
    ask_worker(at);
    lock.lock();
    worker_->changed.wait(lock, idle);
  }
  if (worker_->error) std::rethrow_exception(std::exchange(worker_->error, nullptr));
  Batch batch = std::move(*worker_->ready);
  worker_->ready.reset();
  return batch;
}

inline void BatchLoader::run_worker() {
  std::unique_lock lock(worker_->mutex);
  for (;;) {
    worker_->changed.wait(lock, [&] { return worker_->wanted || worker_->stopping; });
    if (worker_->stopping) return;
    const BatchLoaderState at = worker_->at;
    lock.unlock();
    std::optional<Batch> made;
    std::exception_ptr error;
    try {
      made = make(at);
    } catch (...) {
      error = std::current_exception();
    }
    lock.lock();
    worker_->ready = std::move(made);
    worker_->error = error;
    worker_->wanted = false;
    worker_->changed.notify_all();
  }
}

inline void BatchLoader::stop() {
  if (!worker_) return;
  {
    const std::lock_guard lock(worker_->mutex);
    worker_->stopping = true;
  }
  worker_->changed.notify_all();
  worker_->thread.join();
  worker_.reset();
}

}  // namespace htl
