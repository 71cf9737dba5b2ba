// SPDX-License-Identifier: Apache-2.0
/// @file inspect.hpp
/// @brief What can be known of rows before training on them: wrong labels, unknown ids, features that know too much, tasks that will conflict.
#pragma once

#include "data/dataset.hpp"
#include "options.hpp"

#include <iosfwd>

namespace htlnet {

/// @brief Prints tables: rows, labels, conversions without their precondition, unknown ids, features that give a label away, conflict on a first batch.
///
/// Each table is written as soon as it is made, so that those before a refusal are there. **Cost.** a pass over the rows for each feature and task, a sort of
/// the validation rows for each AUC, and one training step without update.
/// @param options for the batch: train.batch_size and train.seed; for the model whose gradients are compared: model
/// @throws c10::ValueError with a sentence, as training would: labels that no task can be fitted to
void inspect(const Dataset& data, const Options& options, std::ostream& out);

}  // namespace htlnet
