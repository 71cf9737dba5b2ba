// SPDX-License-Identifier: Apache-2.0
/// @file kuairand.hpp
/// @brief Reads KuaiRand-Pure (Gao et al., CIKM 2022) from its official files.
#pragma once

#include "dataset.hpp"

#include <cstdint>
#include <string>

namespace htl::example {

/// @brief Choices of load_kuairand().
struct KuaiRandOptions {
  int64_t min_count = 1;                   ///< a value in fewer training rows shares the field's id 0
  int64_t buckets = 32;                    ///< quantile buckets of each of the five bucketised columns
  std::string core_transform = "z_score";  ///< of watch time: none, z_score, log1p
  bool tag_bags = false;                   ///< each of a video's tags an id of its own (long form); otherwise the whole combination is one value
  const FeatureMap* features = nullptr;    ///< a fitted map to use instead of fitting one; training and validation days may then be empty
};

/// @brief The tasks: click → long_view → watch_time (core, seconds), as a full chain; watch_time names the context column "duration" (seconds).
TaskSet kuairand_tasks(const std::string& core_transform = "z_score");

/// @brief Reads the days of three splits.
///
/// The directory holds log_standard_*.csv, user_features_pure.csv and video_features_basic_pure.csv, plain or gzip; all logs are read, in order of name.
/// Of rows that are equal in every byte, the first one counts. 43 fields: user 31 (user_id and the 30 columns of the user file in its order), item 8
/// (video_id, author_id, video_type, upload_type, video_duration, music_id, music_type, tag), context 4 (weekday, hour, tab, is_rand).
/// follow_user_num, fans_user_num, friend_user_num, register_days and video_duration are bucketised, all others are categorical. What is known only
/// after the exposure (play time, stay times, the user's other reactions) is no feature. Vocabularies and edges come from training rows only.
/// Context columns: duration (seconds), user and tab (groups). Files, columns and labels are checked; a split without rows is an error.
/// @param directory where the files are
/// @param train_dates "YYYY-MM-DD" or "YYYY-MM-DD:YYYY-MM-DD", both days included
/// @param valid_dates the same; empty = no validation rows
/// @param test_dates the same; empty = no test rows
/// @param options see there
Dataset load_kuairand(const std::string& directory, const std::string& train_dates, const std::string& valid_dates, const std::string& test_dates,
                      const KuaiRandOptions& options = {});

}  // namespace htl::example
