// SPDX-License-Identifier: Apache-2.0
/// @file load.hpp
/// @brief The rows that options ask for, from whichever data set.
#pragma once

#include <examples/htlnet/data/dataset.hpp>
#include <examples/htlnet/data/synthetic.hpp>
#include <examples/htlnet/options.hpp>
#include <examples/htlnet/progress.hpp>

#include <string>

namespace htlnet {

/// @brief What is simulated.
SyntheticOptions synthetic_of(const Options& options);

/// @brief Reads or simulates the rows. For the command predict those of a csv data set are all of `--data`, in the order of the files and without labels.
/// @param features a finished run's map; nothing = fit one to the training rows
/// @param statistics a map whose bucket edges and stand-ins for missing numbers that fit keeps
/// @throws c10::ValueError naming the option that is missing, or the file and its fault
Dataset load(const Options& options, const htl::FeatureMap* features = nullptr, const htl::FeatureMap* statistics = nullptr);

/// @brief What load() is about to do, for who waits.
std::string loading(const DataOptions& data);

/// @brief Says where days of an earlier part come after those of a later one.
void warn_of_days(const DataOptions& data, Progress& progress);

}  // namespace htlnet
