#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Plants faults in the library one by one and says whether a named test catches each.

usage: scripts/plant_faults.py [--list] [--only NAME ...] [--jobs N] [--table FILE] [--torch-root DIR] [--scratch DIR]

The tracked files are copied to a scratch directory; what stands in the checkout is never changed. There the test programs are built without a fault, and each
named test must pass. Then each fault is put in, its program is built again, and only the named test runs: it must fail, by an assertion or a crash. A fault
that does not compile is not caught. The exit status is 1 if a fault is not caught.

A program is built from the one test source that has the test. That halves the time; and with another source beside it that was not compiled again, the linker
could take that one's copy of an inline function, without the fault.

--list prints the faults and checks that the text of each is there exactly once; nothing is built.
"""
import argparse
import dataclasses
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent


@dataclasses.dataclass
class Fault:
    """`old`, which stands exactly once in `file`, becomes `new`; `test` in the source `tests/{source}_test.cpp` must then fail."""

    name: str
    says: str
    file: str
    old: str
    new: str
    source: str
    test: str

    def program(self):
        return "htl_test_" + self.source.split("/")[0]

    def path(self):
        return "include/htl/" + self.file


FAULTS = [
    # ---- weighting
    Fault("alpha_sign", "the sign of alpha is turned", "weighting/core_task.hpp",
          "const double a = core_square > 0.0 ? alpha * std::min(cross, 0.0) / core_square : 0.0;",
          "const double a = core_square > 0.0 ? -alpha * std::min(cross, 0.0) / core_square : 0.0;",
          "weighting/core_task", "CoreTaskTest.GivesTheGoldenNumbers"),
    Fault("norm_after", "the norm after the projection stands for the one before", "weighting/core_task.hpp",
          "r = ratio(core_square, own, 0.0);",
          "r = ratio(core_square, std::max(own - 2.0 * a * cross + a * a * core_square, 0.0), 0.0);",
          "weighting/core_task", "CoreTaskTest.FullAdaptionWithoutClipGivesEqualNorms"),
    Fault("ratio_inverted", "the magnitude ratio is upside down", "weighting/core_task.hpp",
          "std::sqrt(core_square / task), 1.0 / clip_ratio", "std::sqrt(task / core_square), 1.0 / clip_ratio",
          "weighting/core_task", "CoreTaskTest.AntiparallelAndZeroGradientsHaveTheirDefinedWeights"),
    Fault("clip_one_end", "the ratio is clipped at its upper end only", "weighting/core_task.hpp",
          "std::min(std::max(std::sqrt(core_square / task), 1.0 / clip_ratio), clip_ratio)", "std::min(std::sqrt(core_square / task), clip_ratio)",
          "weighting/core_task", "CoreTaskTest.AntiparallelAndZeroGradientsHaveTheirDefinedWeights"),
    Fault("inactive_averaged", "the averages of an inactive task move", "weighting/core_task.hpp",
          "if (core_square > 0.0 && (!active.defined() || active.const_data_ptr<bool>()[t])) {", "if (core_square > 0.0) {",
          "weighting/core_task", "CoreTaskTest.MovingAveragesFollowTheActiveStepsOnly"),
    Fault("own_core", "each task's own cores are taken for all cores", "weighting/core_task.hpp",
          "own ? gramian.cores_after[static_cast<size_t>(t)] : gramian.cores);", "gramian.cores);",
          "weighting/core_task", "CoreTaskTest.SeveralCoresAreCombinedOrEachTasksOwn"),
    Fault("pcgrad_sign", "gradients that agree are projected, those that conflict are not", "weighting/pcgrad.hpp",
          "!(product[j] < 0.0)", "!(product[j] > 0.0)", "weighting/methods", "MethodsTest.GiveTheGoldenNumbers"),
    Fault("gradvac_targets", "targets move only where a pair is turned", "weighting/gradvac.hpp",
          "      target += beta * (cosine - target);", "      if (cosine < target) target += beta * (cosine - target);",
          "weighting/methods", "MethodsTest.GradVacEqualsItsStepsOnVectors"),
    Fault("angles_cutoff", "no eigenvalue counts as 0", "weighting/solvers/equal_angles.hpp",
          "const double smallest = cutoff * eigen.values.back();", "const double smallest = 0.0 * cutoff;",
          "weighting/methods", "MethodsTest.CutoffsDecideWhatCountsAsDependent"),
    Fault("aligned_median", "the upper median stands for the lower one", "weighting/aligned_mtl.hpp",
          "ascending[(ascending.size() - 1) / 2]", "ascending[ascending.size() / 2]", "weighting/methods", "MethodsTest.GiveTheGoldenNumbers"),
    Fault("krum_near", "the score has one neighbour too many", "weighting/krum.hpp",
          "std::max<int64_t>(n - byzantine - 2, 1)", "std::max<int64_t>(n - byzantine - 1, 1)", "weighting/methods", "MethodsTest.KrumEqualsExplicitDistances"),
    Fault("eigen_order", "rows are not sorted before the reflections", "weighting/solvers/symmetric_eigen.hpp",
          "sort([&](int64_t i) { return std::abs(matrix(i, i)); });", "sort([](int64_t) { return 0; });",
          "weighting/symmetric_eigen", "SymmetricEigenTest.KeepsSmallEigenvaluesOfGradientsOfDifferentNorms"),
    Fault("gradnorm_exponent", "the sign of GradNorm's exponent is turned", "weighting/gradnorm.hpp",
          "relative[i] / mean : 1.0, alpha);", "relative[i] / mean : 1.0, -alpha);", "weighting/methods_with_memory", "MethodsWithMemoryTest.GradNormGivesTheGoldenNumbers"),
    Fault("famo_steps", "an inactive task's steps of Adam are counted", "weighting/famo.hpp",
          "state.steps.add_(counts);", "state.steps.add_(1.0);", "weighting/methods_with_memory", "MethodsWithMemoryTest.FAMOEqualsPlainLoops"),
    Fault("metabalance_core", "a core's norm moves though no core is active", "weighting/metabalance.hpp",
          "const double usual = acting ? ", "const double usual = true || acting ? ",
          "weighting/methods_with_memory", "MethodsWithMemoryTest.MetaBalanceEqualsPlainLoops"),
    Fault("drop_sign", "the sign that is kept is the one that was not drawn", "weighting/grad_drop.hpp",
          "at::where(keeps_positive, positive, negative)", "at::where(keeps_positive, negative, positive)",
          "weighting/aggregators", "Aggregators.GradDropEqualsLoopsOverDenseVectors"),
    Fault("trim_inactive", "inactive tasks are among those of which the ends are dropped", "weighting/trimmed_mean.hpp",
          "count = active.sum();", "count = at::ones_like(active).sum();",
          "weighting/aggregators", "Aggregators.TrimmedMeanEqualsLoopsOverDenseVectors"),
    Fault("excess_unused_slot", "an unused slot's zeros overwrite row 0", "weighting/excess_mtl.hpp",
          "sums.index_add_(0, part.rows, squares);", "sums.index_copy_(0, part.rows, sums.index_select(0, part.rows) * 0 + squares);",
          "weighting/aggregators", "Aggregators.ExcessMTLEqualsLoopsOverDenseVectors"),
    Fault("averages_of_batch", "averages fade on the batch's rows only", "weighting/task_buffers.hpp",
          "rows_[p] = touched.nonzero().squeeze(1);", "rows_[p] = std::get<0>(batch.sort());",
          "weighting/aggregators", "Aggregators.MoCoEqualsLoopsOverDenseVectors"),
    Fault("averages_after_loading", "the rows are not asked for anew after the fields were loaded", "weighting/task_buffers.hpp",
          "    rows_.clear();  // the visitor may have put other ones there\n", "",
          "weighting/aggregators", "Aggregators.LoadingInPlaceReplacesWhatWasThere"),
    Fault("mogm_inactive", "an inactive task's average moves", "weighting/cr_mogm.hpp",
          "state.weights.copy_(at::where(active, next, state.weights));", "state.weights.copy_(next);",
          "weighting/aggregators", "Aggregators.CRMOGMAveragesWhatTheInnerMethodGives"),
    Fault("bounds_share", "a lower bound's part of the gradient is not in units of what the bounds leave", "weighting/solvers/simplex_qp.hpp",
          "const double share = lower[static_cast<size_t>(i)] / free;", "const double share = lower[static_cast<size_t>(i)];",
          "weighting/solvers", "SolversTest.SimplexQpHasNoDualityGap"),
    Fault("stale_factor", "on the simplex a row of the factor outlives the coordinate that left", "weighting/solvers/face.hpp",
          "std::max<int64_t>(static_cast<int64_t>(kept) - first_, 0)", "static_cast<int64_t>(kept)",
          "weighting/solvers", "SolversTest.SimplexQpHasNoDualityGap"),
    Fault("no_level", "a gradient on the simplex is compared with 0 instead of the face's level", "weighting/solvers/active_set.hpp",
          "face_.has(j) ? x_[j] < 0.0 : y_[j] < level() - tolerance(j);", "face_.has(j) ? x_[j] < 0.0 : y_[j] < -tolerance(j);",
          "weighting/solvers", "SolversTest.FindTheBestOfAllActiveSets"),
    Fault("stale_linear", "the linear part of an earlier projection stays", "weighting/solvers/dual_cone.hpp",
          "    std::fill(linear_.begin(), linear_.end(), 0.0);\n", "",
          "weighting/solvers", "SolversTest.DualConeMeetsItsOptimalityConditions"),
    Fault("early_end", "the search for the ball ends at six digits", "weighting/solvers/conflict_averse.hpp",
          "std::abs(norm - rho * theta) <= blur * norm", "std::abs(norm - rho * theta) <= 1e-6 * norm",
          "weighting/solvers", "SolversTest.ConflictAverseIsCertifiedByItsDual"),
    Fault("beta_turned", "the sign of an exponent that is 0 at alpha = 1 is turned", "weighting/solvers/fairness.hpp",
          "(1.0 - alpha) / (1.0 + alpha))", "(alpha - 1.0) / (1.0 + alpha))",
          "weighting/solvers", "SolversTest.FairnessHasItsClosedForms"),
    Fault("upgrad_preference", "a task's turned gradient begins with those before it", "weighting/upgrad.hpp",
          "        one[t] = 0.0;\n", "", "weighting/solver_methods", "SolverMethodsTest.ProjectionsGiveTheGoldenNumbers"),
    Fault("nash_late_task", "a task that comes between two solutions waits without a weight", "weighting/nash_mtl.hpp",
          "if (n > 0 && (!all_known || gramian.step % update_every == 0)) {", "if (n > 0 && gramian.step % update_every == 0) {",
          "weighting/solver_methods", "SolverMethodsTest.NashMtlRemembersAndCountsFallbacks"),
    Fault("modo_share", "the active tasks take the whole of lambda instead of their share", "weighting/modo.hpp",
          "all[active.tasks[i]] = sum * after[i];", "all[active.tasks[i]] = after[i];",
          "weighting/solver_methods", "SolverMethodsTest.MoDoFollowsItsStepsAndKeepsWhatIsInactive"),
    Fault("sdmgrad_cross", "the pull to the mean reads the products of two batches transposed", "weighting/sdmgrad.hpp",
          "sum += mean * a(static_cast<int64_t>(i), static_cast<int64_t>(j));", "sum += mean * a(static_cast<int64_t>(j), static_cast<int64_t>(i));",
          "weighting/solver_methods", "SolverMethodsTest.SdmGradSolvesItsProblemOnCrossGramians"),
    Fault("shared_memory", "copies of a memory share its tensors", "task/state_owner.hpp",
          "if (field.defined()) field = field.clone();", "",
          "weighting/registry", "Registry.CopiesOfMethodsAndMemoriesAreIndependent"),
    Fault("unread_options", "options that nobody asked for are not refused", "task/registry.hpp",
          "    reader.finish();\n", "", "weighting/registry", "Registry.OptionsAreReadByTypeAndRange"),

    # ---- balancers
    Fault("uncertainty_offset", "the log variance is taken off the loss instead of added", "balance/uncertainty_balance.hpp",
          "return {precision * 0.5, s * 0.5};", "return {precision * 0.5, s * -0.5};",
          "balance/methods", "BalanceMethods.OfLearnedNumbersGiveTheGoldenNumbers"),
    Fault("uncertainty_kinds", "the factor ½ stands at the events instead of the numbers", "balance/uncertainty_balance.hpp",
          "kind == TaskKind::regression ? 0.5 : 1.0", "kind == TaskKind::regression ? 1.0 : 0.5",
          "balance/methods", "BalanceMethods.OfLearnedNumbersHaveTheGradientsOfTheirFormulas"),
    Fault("dwa_ratio", "a loss's rate is the earlier mean over the last one", "balance/dwa_balance.hpp",
          "(last / earlier).clamp(", "(earlier / last).clamp(", "balance/methods", "BalanceMethods.DWAEqualsPlainLoopsOverEpochs"),
    Fault("geometric_root", "the root is of all tasks instead of the active ones", "balance/geometric_mean_balance.hpp",
          "const at::Tensor count = input.mask().sum().clamp_min(1.0)", "const at::Tensor count = at::full_like(input.mask().sum(), input.tasks())",
          "balance/methods", "BalanceMethods.OfFormulasHaveTheirGradientForOneToEightTasks"),
    Fault("imtl_offset", "the log scale is added to the loss instead of taken off", "balance/imtl_l_balance.hpp",
          "return {s.exp(), s.neg()};", "return {s.exp(), s};", "balance/methods", "BalanceMethods.OfLearnedNumbersGiveTheGoldenNumbers"),
    Fault("famo_not_finite", "a loss that is not finite takes part in FAMO's weights", "balance/famo_balance.hpp",
          ".active = detail::taking_part(input), .losses", ".active = input.active, .losses", "balance/methods", "BalanceMethods.FAMOIsTheGradientMethodsRule"),
    Fault("stch_nadir", "the losses of earlier epochs stay in the sum that makes the nadir", "balance/stch_balance.hpp",
          "    state.sums.zero_();\n", "", "balance/methods", "BalanceMethods.STCHLearnsItsNadirInTheWarmUp"),
    Fault("cosmos_pull", "the losses are pulled away from the preference", "balance/cosmos_balance.hpp",
          "return {r - (lambda / norm)", "return {r + (lambda / norm)", "balance/methods", "BalanceMethods.OfFormulasHaveTheirGradientForOneToEightTasks"),
    Fault("schedule_start", "a schedule sets out at 0 instead of at its start", "balance/scheduled_balance.hpp",
          "std::clamp<int64_t>(time - start, 0, length)", "std::clamp<int64_t>(time, 0, length)",
          "balance/methods", "BalanceMethods.SchedulesGoFromOneWeightToAnother"),

    # ---- rows of tables
    Fault("bag_weight", "backward leaves the weight of an id in its bag out", "embedding/row_kernels.hpp",
          "block[k] += factor_of[entry] * source[k];", "block[k] += source[k];",
          "embedding/lookup", "LookupTest.EqualsADenseMatrixProductInValuesAndGradients"),
    Fault("duplicates", "of an id that occurs twice only the last gradient stays", "embedding/row_kernels.hpp",
          "block[k] += source[k];", "block[k] = source[k];",
          "embedding/lookup", "LookupTest.EqualsADenseMatrixProductInValuesAndGradients"),
    Fault("block_of_256", "of a row that occurs more than 256 times only the last block stays", "embedding/row_kernels.hpp",
          "sum[k] += block[k];", "sum[k] = block[k];",
          "embedding/lookup", "RowKernels.LargeGroupsKeepTheirPrecisionInFloat"),
    Fault("bag_mean", "a mean over a bag divides by the number of ids instead of the sum of weights", "embedding/resolve_rows.hpp",
          ".index_add_(0, bag, weights);", ".index_add_(0, bag, at::ones_like(weights));",
          "embedding/lookup", "LookupTest.EqualsADenseMatrixProductInValuesAndGradients"),
    Fault("stale_groups", "the row groups of an earlier batch are used again", "embedding/lookup.hpp",
          "  RowGroups groups_;", "  inline static RowGroups groups_;",
          "embedding/lookup", "LookupTest.AddsGradientsOfSeveralBackwardsAndLookups"),

    # ---- the fork
    Fault("padding_in_gramian", "the padding row is counted in K and trained", "embedding/resolve_rows.hpp",
          "id == range.frozen || row == padding_row ? -1 - row : row", "id == range.frozen ? -1 - row : row",
          "gradient/fork", "Fork.EqualsSeparateDenseBackwardsInTheGramianAndForGivenWeights"),
    Fault("gramian_in_float", "the products of K are formed in float32", "embedding/row_kernels.hpp",
          "product += static_cast<double>(row[t * d + k]) * static_cast<double>(row[u * d + k]);",
          "product += static_cast<double>(static_cast<float>(row[t * d + k]) * static_cast<float>(row[u * d + k]));",
          "gradient/fork", "Fork.ScalesDoNotMatter"),
    Fault("view_index", "task and lookup change places in the number of a view", "gradient/fork.hpp",
          "[view % static_cast<size_t>(inputs)]", "[view / static_cast<size_t>(call->tasks)]",
          "gradient/fork", "Fork.EqualsSeparateDenseBackwardsInTheGramianAndForGivenWeights"),
    Fault("way_around", "a lookup beside the fork is not seen", "gradient/walk.hpp",
          "result.lookups.push_back(node);", "continue;",
          "gradient/fork", "Fork.CountsWaysAroundExactlyInAsManyPassesAsOverlapNeeds"),
    Fault("changed_in_place", "a split tensor that was changed in place is not refused", "gradient/walk.hpp",
          "call.base._version() == call.version,", "true,",
          "gradient/fork", "Refusal.InPlaceChanges"),
    Fault("micro_batch_losses", "the report forgets the losses of earlier micro-batches", "gradient/backward.hpp",
          "    report.losses = earlier.losses + report.losses;\n", "",
          "gradient/fork", "Backward.AccumulatesMicroBatchesToTheStepOfTheirSummedLosses"),

    Fault("active_not_told", "the method is not told which tasks have no label", "gradient/combine.hpp",
          ".active = active,", ".active = {},", "gradient/fork", "Backward.TellsAMethodAllThatItMayRead"),
    Fault("step_not_told", "the method is asked at step 0 every time", "gradient/combine.hpp",
          ".step = fork.step,", ".step = 0,", "gradient/fork", "Backward.TellsAMethodAllThatItMayRead"),

    # ---- shared layers
    Fault("task_below", "what comes back below a split tensor all belongs to task 0", "gradient/collect.hpp",
          "gradients, [&](size_t) { return t; }, [&](size_t) { return t; });", "gradients, [&](size_t) { return size_t{0}; }, [&](size_t) { return t; });",
          "gradient/shared", "SharedLayers.EqualSeparateBackwardsThroughDenseTables"),
    Fault("earlier_gradient", "a gradient that a parameter had before counts as a task's", "gradient/collect.hpp",
          "earlier_.push_back(std::exchange(parameters_.back().mutable_grad(), at::Tensor()));", "earlier_.push_back(parameters_.back().grad());",
          "gradient/shared", "SharedLayers.AddToGradientsThatAreThereAndCanBeDifferentiatedAgain"),
    Fault("tied_weights", "a weight that two layers read is taken for one layer's", "gradient/shared_linears.hpp",
          "if (readers[p] != 1 || !layers[p]) continue;", "if (!layers[p]) continue;", "gradient/shared", "SharedLayers.EqualSeparateBackwardsThroughDenseTables"),
    Fault("rows_of_linear", "x xᵀ has only the first part of a layer's input", "gradient/linear_tasks.hpp",
          "of_rows.defined() ? at::addmm(of_rows, x, x.t()) : at::mm(x, x.t());", "of_rows.defined() ? of_rows : at::mm(x, x.t());",
          "gradient/shared", "SharedLayers.EqualSeparateBackwardsThroughDenseTables"),
    Fault("dense_tail", "the last numbers of a block are left out of the products", "gradient/dense_kernels.hpp",
          "std::copy(from, from + (count - whole), last[r]);", "std::copy(from, from + (count - whole - 1), last[r]);",
          "gradient/shared", "SharedLayers.OfAnyNumberOfNumbersInAnyTypeAreTheirProductsAndSums"),
    Fault("cross_turned", "the products of two batches are transposed", "gradient/parts.hpp",
          ".gramian.narrow(0, 0, tasks).narrow(1, tasks, tasks);", ".gramian.narrow(1, 0, tasks).narrow(0, tasks, tasks);",
          "gradient/shared", "SharedLayers.GiveMethodsOfSeveralBatchesTheirProducts"),
    Fault("batches_summed", "what is not shared gets the sum of the batches' gradients", "gradient/backward.hpp",
          "const auto share = 1.0 / static_cast<double>(given);", "const auto share = 1.0;",
          "gradient/shared", "SharedLayers.GiveMethodsOfSeveralBatchesTheirProducts"),
    Fault("one_memory", "all groups of a scope share one memory", "gradient/method_state.hpp",
          "return htl::weights(method, gramian, memory(group));", "return htl::weights(method, gramian, memory(0));",
          "gradient/shared", "SharedLayers.AreOneVectorOrSeveralByScope"),
    Fault("loaded_group", "every group of a scope loads the first one's memory", "gradient/method_state.hpp",
          "field = after[f++].at(g);", "field = after[f++].at(0);",
          "methods/end_to_end", "EveryMethod.GoesOnFromASavedStateWithTheSameBits"),
    Fault("cloned_generator", "a clone draws from the original's generator", "gradient/fork.hpp",
          "if (own->generator) own->generator = own->generator->clone();", "",
          "methods/end_to_end", "EveryMethod.OfACloneGoesOnByItself"),
    Fault("generator_not_told", "the method is not told the fork's generator", "gradient/combine.hpp",
          ".generator = fork.generator}", ".generator = {}}",
          "methods/end_to_end", "EveryMethod.OfTheLossesIsTheMethodOfTheDenseJacobian"),
    Fault("micro_batch_active", "a task counts as active only where it has a label in every micro-batch", "gradient/backward.hpp",
          "earlier.active.logical_or(report.active)", "earlier.active.logical_and(report.active)",
          "methods/end_to_end", "EveryMethod.OfMicroBatchesIsTheMethodOfTheirSum"),
    Fault("dense_micro_batches", "earlier micro-batches of a dense parameter are forgotten", "gradient/collect.hpp",
          "add(part.dense.gradients, known.dense.gradients);", "continue;",
          "gradient/shared", "SharedLayers.AccumulateMicroBatchesToTheStepOfTheirSum"),
    Fault("unnamed_parameter", "a parameter below a split that was not named is not refused", "gradient/walk.hpp",
          "if (shared_->are_others_summed()) return;", "if (!shared_->are_others_summed()) return;",
          "gradient/shared", "SharedLayers.RefuseWhatTheMethodWouldNotSee"),
    Fault("similarity", "magnitude similarity is the ratio of lengths", "gradient/report.hpp",
          "(2.0 * product / sum.where(product > 0.0, 1.0))", "(product / sum.where(product > 0.0, 1.0))",
          "gradient/shared", "SharedLayers.ReportConflictsConditionAndMagnitudes"),

    # ---- towers
    Fault("dropout_scale", "what dropout keeps is not scaled", "nn/detail/linear_kernels.hpp",
          "const auto scale = static_cast<scalar_t>(1.0 / (1.0 - dropout));", "const auto scale = scalar_t(1);",
          "nn/tower", "Dropout.ScalesWhatItKeepsAndCutsTheSameElementsBackward"),
    Fault("dropout_backward", "the gradient of what dropout keeps is not scaled", "nn/linear_parts.hpp",
          "ctx->saved_data[\"scale\"] = 1.0 / (1.0 - dropout);", "ctx->saved_data[\"scale\"] = 1.0;",
          "nn/tower", "Dropout.ScalesWhatItKeepsAndCutsTheSameElementsBackward"),
    Fault("transposed_weight", "a weight's gradient has the weight's strides, which rows of few outputs overlap in", "nn/linear_parts.hpp",
          "at::empty(weight.sizes(), weight.options())", "weight.new_empty_strided(weight.sizes(), weight.strides())",
          "nn/tower", "LinearParts.WritesItsGradientsWhateverTheStridesOfWeightAndParts"),
    Fault("few_outputs", "of several input parts only the last counts in a layer of few outputs", "nn/detail/linear_kernels.hpp",
          "y = adds ? y + product : product;", "y = product;",
          "nn/tower", "LinearParts.EqualsTheLinearLayerOfTheConcatenationAndItsGradients"),

    # ---- experts and inputs
    Fault("shared_reads", "the shared stream reads the shared experts only", "nn/progressive_layered_extraction.hpp",
          "if (is_followed) made.reads.push_back(all);", "if (is_followed) made.reads.push_back({shared});",
          "nn/experts", "SharedBlocks.EqualLoopsOverExpertsTasksAndLevels"),
    Fault("adatt_residual", "a unit's single expert is not added to its mixture", "nn/detail/expert_level.hpp",
          "at::ones({count}, like.options())", "at::zeros({count}, like.options())", "nn/experts", "AdaTT.GivesTheGoldenNumbers"),
    Fault("stitch_turned", "a task gets what it should give: the stitch is transposed", "nn/cross_stitch.hpp",
          "stitches_[l].view({1, tasks * tasks})", "stitches_[l].t().reshape({1, tasks * tasks})",
          "nn/experts", "SharedBlocks.EqualLoopsOverExpertsTasksAndLevels"),
    Fault("gates_in_evaluation", "gates are dropped in evaluation too", "nn/mixture_of_experts.hpp",
          "is_training() ? options.gate_dropout() : 0.0", "options.gate_dropout()", "nn/mixing", "GateDropout.ActsInTrainingOnly"),
    Fault("group_input", "every group's weight learns from the first group's input", "nn/detail/grouped_linear.hpp",
          "arriving.t(), columns_of(x, g * width, width)", "arriving.t(), columns_of(x, 0, width)",
          "nn/mixing", "GroupedDense.IsALinearLayerAGroupByLoopsAndByTensorsAlike"),
    Fault("load_variation", "the variation of the experts' load is a sample's", "nn/expert_load.hpp",
          "/*unbiased=*/false", "/*unbiased=*/true", "nn/mixing", "ExpertLoad.TellsWhoIsUsed"),
    Fault("periodic_turns", "a frequency counts radians instead of turns", "nn/periodic_embedding.hpp",
          "(frequencies * two_pi)", "frequencies", "nn/inputs", "PeriodicEmbedding.IsSinesAndCosinesOfEachNumber"),
    Fault("last_bin", "the last bin of a number with fewer bins than another ends at its edge", "nn/piecewise_linear_embedding.hpp",
          "most = most.masked_fill(exists.logical_and(upper.eq(edges.narrow(1, bins(), 1))), infinity);", "most.select(1, bins() - 1).fill_(infinity);",
          "nn/inputs", "PiecewiseLinearEmbedding.SaysHowFarANumberHasComeInEachBin"),
    Fault("attention_target", "the target is added to an entry instead of taken off", "nn/detail/history_attention.hpp",
          "line = w[1] - w[2];", "line = w[1] + w[2];", "nn/inputs", "TargetAttention.EqualsItsFormulaForPaddedHistoriesAndBags"),
    Fault("attention_bag", "all histories are multiplied by the first row's target", "nn/detail/history_attention.hpp",
          "from[j * dim + i] * targets[bag * dim + i];", "from[j * dim + i] * targets[i];",
          "nn/inputs", "TargetAttention.EqualsItsFormulaForPaddedHistoriesAndBags"),

    # ---- what flows from task to task
    Fault("label_rows", "the rows of a binary label embedding are swapped", "transfer/detail/label_kernels.hpp",
          "q[row] * positive[j] + rest * negative[j];", "q[row] * negative[j] + rest * positive[j];",
          "transfer/label_embedding", "LabelEmbedding.HasTheGoldenWeightsOfATemperedProbability"),
    Fault("temperature_ignored", "the temperature is not applied", "transfer/detail/label_kernels.hpp",
          "const double tempered = (logit + noise) / temperature;", "const double tempered = logit + noise;",
          "transfer/label_embedding", "LabelEmbedding.HasTheGoldenWeightsOfATemperedProbability"),
    Fault("temperature_slope", "the slope of a label weight lacks 1/temperature", "transfer/detail/label_kernels.hpp",
          "const double slope = soft * (1.0 - soft) / temperature;", "const double slope = soft * (1.0 - soft);",
          "transfer/label_embedding", "LabelEmbedding.LoopsEqualTheTensorFormInValueAndGradient"),
    Fault("noise_in_evaluation", "the label embedding keeps its noise in evaluation", "transfer/label_embedding.hpp",
          "if (!is_training()) {", "if (false) {",
          "transfer/label_embedding", "LabelEmbedding.DrawsOnlyInTrainingAndFromItsGenerator"),
    Fault("label_detached", "the label embedding is detached on its output", "transfer/task_graph.hpp",
          "labels[t] = unit->forward(cut(outputs[t]));", "labels[t] = unit->forward(cut(outputs[t])).detach();",
          "transfer/task_graph", "TaskGraph.TrainsExactlyWhatItsStopGradientSays"),
    Fault("representation_not_cut", "the representation leaves the tower with its graph", "transfer/task_graph.hpp",
          "representations[t] = cut(result.representation);", "representations[t] = result.representation;",
          "transfer/task_graph", "TaskGraph.LeavesTheViewsOfOtherTasksAloneUnlessNothingStops"),
    Fault("fusion_not_cut", "stop-gradient fusion_output leaves the fusion units in the graph", "transfer/task_graph.hpp",
          "at::GradMode::is_enabled() && stop != StopGradient::fusion_output;", "at::GradMode::is_enabled();",
          "transfer/task_graph", "TaskGraph.TrainsExactlyWhatItsStopGradientSays"),
    Fault("label_flows", "labels flow although only representations should", "transfer/task_graph.hpp",
          "!task.is_discrete() || !has_label(options.transfer())) return;", "!task.is_discrete()) return;",
          "transfer/task_graph", "TaskGraph.MakesOnlyWhatSomeTaskReads"),
    Fault("attention_scale", "attention scores lack 1/√O", "transfer/detail/attention_mix.hpp",
          "const double scale = 1.0 / std::sqrt(static_cast<double>(query.size(0)));\n    const at::Tensor product",
          "const double scale = 1.0;\n    const at::Tensor product",
          "transfer/task_graph", "InformationFusion.HasTheGoldenValuesOfIdentityMaps"),
    Fault("softmax_over_rows", "attention weights sum to 1 over the batch instead of the sources", "transfer/information_fusion.hpp",
          "static_cast<double>(options.outputs()))).softmax(1)", "static_cast<double>(options.outputs()))).softmax(0)",
          "transfer/task_graph", "InformationFusion.EqualsItsFormulaAndGradientsForAnySources"),

    # ---- losses and labels
    Fault("share_of_batch", "Σ w l / B instead of Σ w l / Σ w", "loss/prepared_label.hpp",
          "scaled.div(sum)", "scaled.div(static_cast<double>(rows))",
          "loss/hybrid_loss", "HybridLoss.divides_by_the_weights_of_the_rows_that_carry_the_label"),
    Fault("mask_ignored", "the mask of a label is not read", "loss/prepared_label.hpp",
          "const bool on = mask ? mask[row] : true;", "const bool on = true;",
          "loss/hybrid_loss", "HybridLoss.divides_by_the_weights_of_the_rows_that_carry_the_label"),
    Fault("weight_ignored", "the weight of a row is not read", "loss/prepared_label.hpp",
          "const double given = weight ? weight[row] : 1.0, any", "const double given = 1.0, any",
          "loss/hybrid_loss", "HybridLoss.divides_by_the_weights_of_the_rows_that_carry_the_label"),
    Fault("event_ignored", "rows count although the event before did not happen", "loss/hybrid_loss.hpp",
          "    label.mask = tasks_.observed(t, labels);\n", "",
          "loss/hybrid_loss", "HybridLoss.sees_labels_only_where_the_event_happened"),
    Fault("huber_delta", "Huber's switch point is always 1", "loss/huber.hpp",
          "std::min(std::max(error, -delta), delta)", "std::min(std::max(error, -1.0), 1.0)",
          "loss/hybrid_loss", "HybridLoss.equals_a_naive_reduction_over_hundreds_of_random_batches"),
    Fault("inverse_order", "the inverse of the z-score adds the mean before it multiplies by sd", "task/label_transform.hpp",
          "return values.mul(sd).add(mean);", "return values.add(mean).mul(sd);",
          "task/task", "LabelTransform.inverts_itself_over_hundreds_of_random_labels"),
    Fault("zero_weight_fitted", "rows of weight 0 enter what is fitted to labels", "task/label.hpp",
          "const at::Tensor counts = weight.defined() ? weight.ne(0) : mask;", "const at::Tensor counts = weight.defined() ? at::ones_like(weight, at::kBool) : mask;",
          "task/task", "LabelTransform.carries_the_statistics_of_the_observed_labels"),
    Fault("transform_type", "off the CPU labels are transformed in their own type", "loss/prepared_label.hpp",
          "label.value.detach().to(at::kDouble), counts", "label.value.detach(), counts",
          "loss/hybrid_loss", "HybridLoss.by_loops_equals_its_form_by_tensors_for_other_devices"),
    Fault("tie_ranks", "equal labels get the first of their ranks", "task/quantile_transform.hpp",
          "(first + end - 1).to(y.scalar_type()) / 2.0", "first.to(y.scalar_type())",
          "task/transforms", "QuantileRanks.of_equal_labels_are_the_middle_of_their_ranks_and_come_back"),
    Fault("grouped_edge", "a bucket has its lower edge instead of its upper one", "task/grouped_transform.hpp",
          "at::tensor(edges, by.options().dtype(at::kDouble)))", "at::tensor(edges, by.options().dtype(at::kDouble)), /*out_int32=*/false, /*right=*/true)",
          "task/transforms", "Grouped.has_a_transform_for_each_bucket_of_the_column"),
    Fault("platt_turned", "a model that is worse than chance is turned round", "task/platt_scaling.hpp",
          "!(gain > rounding)", "!(std::abs(gain) > rounding)",
          "task/calibration", "PlattScaling.stays_finite_where_the_classes_can_be_told_apart_and_never_turns_round"),
    Fault("calibrated_twice", "a calibrator is fitted to calibrated predictions", "task/task_set.hpp",
          "with(task.calibration({})).predict(t, outputs[task.name()], labels.context, &outputs)",
          "predict(t, outputs[task.name()], labels.context, &outputs)",
          "task/calibration", "Calibrators.are_part_of_the_tasks_and_are_fitted_to_the_rows_that_carry_the_label"),
    Fault("ziln_mean", "the mean of a log-normal forgets its variance", "loss/ziln.hpp",
          "add(outputs.select(1, 1)).add(sigma(outputs).square().mul(0.5))", "add(outputs.select(1, 1))",
          "loss/likelihoods", "ZILN.matches_golden_numbers_of_its_public_implementations"),
    Fault("bce_smoothing", "labels are smoothed in one form only", "loss/binary_cross_entropy.hpp",
          "const double target = (1.0 - smoothing) * labels[i] + 0.5 * smoothing;", "const double target = labels[i];",
          "loss/numbers", "NumberLosses.hold_what_every_loss_must_hold"),
    Fault("pinball_sides", "labels above a quantile and below it change their weights", "loss/quantile.hpp",
          "std::max(q * error, (q - 1.0) * error)", "std::max(-q * error, (1.0 - q) * error)",
          "loss/numbers", "Losses.equal_numbers_that_scipy_gives_for_their_definitions"),
    Fault("coral_own_class", "a label counts as above its own class", "loss/coral.hpp",
          "y > static_cast<double>(k)", "y >= static_cast<double>(k)", "loss/numbers", "Losses.equal_numbers_that_scipy_gives_for_their_definitions"),
    Fault("tweedie_power", "2 − p and p − 1 change places", "loss/tweedie.hpp",
          "a_(2.0 - options.power), b_(options.power - 1.0)", "a_(options.power - 1.0), b_(2.0 - options.power)",
          "loss/likelihoods", "Tweedie.matches_golden_numbers_and_its_identities"),
    Fault("gamma_shape", "the slope of Gamma's shape lacks 1/k", "loss/gamma.hpp",
          "digamma_rest(k.value, log_k) - 1.0 / k.value)", "digamma_rest(k.value, log_k))",
          "loss/likelihoods", "Likelihoods.hold_what_every_loss_must_hold"),
    Fault("d2q_bucket", "rows are put into buckets by their watch time", "loss/d2q.hpp",
          "detail::bucket_of(changed.edges, durations[row])", "detail::bucket_of(changed.edges, times[row])",
          "loss/watch_time", "D2Q.has_uniform_levels_in_each_bucket_and_its_prediction_is_their_inverse"),
    Fault("cread_steps", "the splits are summed instead of the steps between them", "loss/cread.hpp",
          "steps_.push_back(point - std::exchange(before, point));", "steps_.push_back(point);",
          "loss/watch_time", "WatchTimeLosses.match_golden_numbers_of_the_literature"),
    Fault("tpm_way", "of the way to a leaf only the step at the root counts", "loss/tpm.hpp",
          "way += log_whole[parent] +", "way = log_whole[parent] +", "loss/watch_time", "WatchTimeLosses.have_one_arithmetic_per_row_and_in_one_pass"),
    Fault("mixture_mass", "what is cut off below 0 is not given back to the normals", "loss/exponential_gaussian_mixture.hpp",
          ".sub(detail::kHalfLogTwoPi).sub(log_mass);", ".sub(detail::kHalfLogTwoPi);",
          "loss/watch_time", "Mixtures.integrate_to_one_and_predict_the_mean_of_their_density"),
    Fault("entire_space_sum", "the probabilities are added instead of multiplied", "loss/entire_space.hpp",
          "log_p = log_each.sum(1)", "log_p = at::logsumexp(log_each, {1})", "loss/task_terms", "TaskTerms.match_golden_numbers_of_the_literature"),
    Fault("propensity_clip", "the inverse propensity has no bound", "loss/propensity.hpp",
          ".reciprocal().clamp_max(clip)", ".reciprocal()",
          "loss/task_terms", "InversePropensity.and_DoublyRobust_have_the_mean_over_all_rows_as_expectation"),
    Fault("propensity_trained", "the propensity learns from the loss that it weighs", "loss/propensity.hpp",
          "given, input.output).detach().sigmoid()", "given, input.output).sigmoid()",
          "loss/task_terms", "TaskTerms.have_one_arithmetic_per_row_and_in_one_pass"),
    Fault("batch_normalised", "the weights of a batch are divided by all rows instead of those with the event", "loss/inverse_propensity.hpp",
          "p.mul(counts.mul(o).sum())", "p.mul(counts.sum())", "loss/task_terms", "TaskTerms.match_golden_numbers_of_the_literature"),
    Fault("imputed_kept", "the imputed error is not taken off where the error was seen", "loss/doubly_robust.hpp",
          "weights.mul(error.sub(held))", "weights.mul(error)",
          "loss/task_terms", "InversePropensity.and_DoublyRobust_have_the_mean_over_all_rows_as_expectation"),
    Fault("order_turned", "probabilities that are in order are punished, those out of order are not", "loss/order_calibration.hpp",
          "excess.masked_fill(own.le(others), 0)", "excess.masked_fill(own.ge(others), 0)",
          "loss/task_terms", "TaskTerms.match_golden_numbers_of_the_literature"),
    Fault("teacher_heat", "the teacher's output is not divided by the temperature", "loss/distillation.hpp",
          "u = known.div(heat);", "u = known;", "loss/task_terms", "Distillation.is_a_divergence_that_is_zero_at_the_teacher_and_leaves_it_alone"),
    Fault("pairs_across_groups", "rows of different groups are pairs", "loss/pairwise_ranking.hpp",
          "same = groups.unsqueeze(1).eq(groups.unsqueeze(0)).logical_and(both.ne(0));", "same = both.ne(0);",
          "loss/task_terms", "PairwiseRanking.is_the_mean_over_pairs_by_brute_force"),
    Fault("ndcg_ties", "rows of one score keep the order in which they came", "metrics/ndcg.hpp",
          "total += gain / static_cast<double>(tied) * discount;", "total += gain * discount;",
          "metrics/groups", "Ndcg.is_the_mean_over_all_orders_of_ties"),
    Fault("bias_served", "the bias is served too", "nn/bias_tower.hpp",
          "if (!is_training()) return output;", "if (!is_training() && !context.defined()) return output;",
          "nn/bias_tower", "BiasTower.takes_a_planted_bias_from_the_model"),

    # ---- optimizers
    Fault("schedule_off_by_one", "the warm-up is one step late", "optim/schedule.hpp",
          "static_cast<double>(step + 1) /", "static_cast<double>(step) /",
          "optim/dense_optim", "Schedule.HasTheseRatesAtTheseSteps"),
    Fault("clip_rows_twice", "clipping counts and scales row gradients twice", "optim/clip.hpp",
          "add(table.gradient().values, owner);", "add(table.gradient().values, owner), add(table.gradient().values, owner);",
          "optim/dense_optim", "ClipGradNorm.EqualsTorchOnTheDenseGradients"),
    Fault("decay_coupled", "decoupled weight decay goes through the moments", "optim/fused_adam.hpp",
          "options_.weight_decay, options_.decoupled_weight_decay};", "options_.weight_decay, false};",
          "optim/dense_optim", "FusedAdam.EqualsTorchAdamAndAdamWOverHundredsOfSteps"),
    Fault("average_off_by_one", "the mean of the weights counts one sample too many", "optim/weight_average.hpp",
          "return static_cast<double>(to - from) / static_cast<double>(to);", "return static_cast<double>(to - from) / static_cast<double>(to + 1);",
          "optim/dense_optim", "WeightAverage.EqualsTheDenseDefinitionAlthoughOnlyTouchedRowsCost"),
    Fault("bias_by_table", "the bias correction of a row counts the table's steps", "optim/lazy_adam.hpp",
          "corrections_[static_cast<size_t>(updates - 1)]", "corrections_[static_cast<size_t>(t - 1)]",
          "optim/row_optimizers", "LazyAdam.FirstUpdateOfALateRowHasSizeLrOnlyWithPerRowCorrection"),
    Fault("eps_in_root", "eps stands inside the root", "optim/lazy_adam.hpp",
          "(scale * std::sqrt(square) + eps)", "(scale * std::sqrt(square + eps))",
          "optim/row_optimizers", "LazyAdam.EqualsItsDenseMeaningOverHundredsOfSteps"),
    Fault("accumulator_sum", "Adagrad's accumulator of a row takes the sum instead of the mean", "optim/row_adagrad.hpp",
          "sum / static_cast<P>(d)", "sum",
          "optim/row_optimizers", "RowAdagrad.EqualsItsDenseMeaningOverHundredsOfSteps"),
    Fault("padding_trained", "Adagrad trains the padding row", "optim/row_adagrad.hpp",
          "if (rows[i] == step.padding) continue;", "",
          "optim/row_optimizers", "EachRowOptimizer/0.LeavesUntouchedRowsThePaddingRowAndTheirStateAlone"),
    Fault("version_not_counted", "autograd is not told that an optimizer changed the weights", "optim/row_update.hpp",
          "if (!weight.is_inference()) weight.unsafeGetTensorImpl()->bump_version();", "(void)weight;",
          "optim/row_optimizers", "EachRowOptimizer/1.RefusesABackwardThroughWeightsThatItHasChanged"),

    # ---- metrics
    Fault("auc_ties", "pairs with equal scores count nothing in the AUC", "metrics/metric.hpp",
          "(pairs.negative + 0.5 * negative)", "pairs.negative",
          "metrics/metrics", "Auc.EqualsTheMeanOverAllPairsWithTiesWeightsAndMasks"),
    Fault("spearman_ties", "equal values share the highest of their ranks", "metrics/spearman.hpp",
          "below + 0.5 * weight;", "below + weight;",
          "metrics/metrics", "Spearman.EqualsThePearsonCorrelationOfAverageRanks"),
    Fault("gini_own_share", "the normalised Gini leaves half of a row's own share out", "metrics/gini.hpp",
          "0.5 * sum * (weight + 1.0);", "0.5 * sum * weight;",
          "metrics/metrics", "NormalizedGini.KnowsTheWorkedExample"),
    Fault("nrmse_denominator", "NRMSE divides by the mean instead of the standard deviation", "metrics/regression_error.hpp",
          "double nrmse(Denominator by = Denominator::std)", "double nrmse(Denominator by = Denominator::mean)",
          "metrics/metrics", "RegressionError.EqualsItsFormulasOverEveryDenominator"),

    # ---- data
    Fault("unknown_id", "an unknown text shares the id of the first known one", "data/feature_map.hpp",
          "return text.empty() ? 0 : lookup(field, text);", "return text.empty() ? 0 : std::max(lookup(field, text), 1);",
          "data/features", "FeatureMap.MapsKnownTextsToTheirPlaceAndAllElseToZero"),
    Fault("bucket_edge", "a number on an edge falls below it", "data/feature_map.hpp",
          "edges[below + half - 1] <= value", "edges[below + half - 1] < value",
          "data/features", "FeatureMap.ANumbersIdIsOneAndTheNumberOfEdgesAtOrBelowIt"),
    Fault("min_count", "a text needs one occurrence more than min_count", "data/field_counter.hpp",
          ">= std::max<int64_t>(plan_.min_count, 1)", "> std::max<int64_t>(plan_.min_count, 1)",
          "data/features", "FieldCounter.NumbersTextsByFallingCountAndPoolsRareOnes"),
    Fault("shuffle_biased", "the shuffle never leaves a row in its place", "data/shuffle.hpp",
          "random.below(i, i)", "random.below(i - 1, i)",
          "data/features", "Shuffle.EveryOrderOfFourRowsIsEquallyLikely"),
    Fault("last_batch", "an incomplete last batch is lost", "data/batch_loader.hpp",
          "if (state_.position >= usable_rows()) {", "if (state_.position + options_.batch_size > usable_rows()) {",
          "data/features", "BatchLoader.OnePassSeesEveryRowOnceAndTheNextInAnotherOrder"),
    Fault("resume_epoch", "the order of the first epoch stays for all epochs", "data/batch_loader.hpp",
          "(order_seed_ != at.seed || order_epoch_ != at.epoch)", "order_seed_ != at.seed",
          "data/features", "BatchLoader.ResumesAtEveryBatchWithExactlyTheRemainingOnes"),
    Fault("resume_seed", "a loader that resumes keeps the order of its old seed", "data/batch_loader.hpp",
          "(order_seed_ != at.seed || order_epoch_ != at.epoch)", "order_epoch_ != at.epoch",
          "data/features", "BatchLoader.ALoopLeftEarlyIsContinuedByTheNext"),
    Fault("resume_prefetched", "a loader that resumes gives the batch that it made ahead at its old place", "data/batch_loader.hpp",
          "if (!(worker_->at == at) || !(worker_->ready || worker_->error)) {", "if (!(worker_->ready || worker_->error)) {",
          "data/features", "BatchLoader.ALoopLeftEarlyIsContinuedByTheNext"),
    Fault("select_layout", "the bags of selected fields are read field by field instead of row by row", "data/field_batch.hpp",
          ".reshape({rows(), fields}).select(1, position)", ".reshape({fields, rows()}).select(0, position)",
          "embedding/lookup", "FieldEmbeddingTest.LooksUpSomeFieldsAsAllOfThem"),
    Fault("select_weights", "the ids of selected fields leave their weights behind", "data/field_batch.hpp",
          "weights.defined() ? weights.index_select(0, place) : weights", "at::Tensor()",
          "embedding/lookup", "FieldEmbeddingTest.LooksUpSomeFieldsAsAllOfThem"),
    Fault("csv_quote", "a quoted field ends with its piece of 64 bytes", "data/csv_scan.hpp",
          "inside = (between >> 63) != 0;", "inside = false;",
          "data/csv", "Csv.QuotesAroundChunksOf64BytesAreFollowed"),

    # ---- files
    Fault("offset_in_elements", "offsets in a safetensors file count elements instead of bytes", "io/safetensors.hpp",
          "offset += part.bytes;", "offset += static_cast<uint64_t>(part.tensor->numel());",
          "io/io", "Safetensors.GivesBackEveryTypeShapeAndBit"),
    Fault("endianness", "the length of a safetensors header is written with its highest byte first", "io/safetensors.hpp",
          "const uint64_t length = text.size();", "const uint64_t length = __builtin_bswap64(text.size());",
          "io/io", "Safetensors.GivesBackEveryTypeShapeAndBit"),
    Fault("half_types", "the names of float16 and bfloat16 are swapped", "io/safetensors.hpp",
          "{at::kHalf, \"F16\"},\n                                                             {at::kBFloat16, \"BF16\"},", "{at::kHalf, \"BF16\"}, {at::kBFloat16, \"F16\"},",
          "io/io", "Safetensors.ReadsWhatPythonWrote"),
    Fault("graph_representation", "the first hidden layer is written as the last one", "io/task_graph_json.hpp",
          "layer == first_hidden  ? Json(\"first\")", "layer == first_hidden  ? Json(\"last\")",
          "io/task_graph_json", "TaskGraphJson.LosesNothing"),
    Fault("module_dtype", "a module takes tensors of another element type", "io/module_state.hpp",
          " || into.scalar_type() != found->second.scalar_type()", "",
          "io/io", "ModuleState.ListsEveryMisfitAndChangesNothing"),
    Fault("warm_row", "a warm start takes the row of the text before", "io/warm_start_maps.hpp",
          "row + 1 + static_cast<int64_t>(rows.size())", "row + static_cast<int64_t>(rows.size())",
          "io/warm_start", "WarmStart.IntoAGrownShrunkAndReorderedVocabularyCarriesRowsByText"),
    Fault("warm_state", "a new text's row takes the optimizer state of id 0 over", "io/warm_start.hpp",
          "map.source[i] >= 0 || is_state || map.stand_in.empty()", "map.source[i] >= 0 || map.stand_in.empty()",
          "io/warm_start", "WarmStart.CarriesTheRowsOfRowAdagrad"),
    Fault("warm_columns", "the columns of a new field stay as they were drawn", "io/warm_start.hpp",
          "if (is_state || map.fresh == IndexMap::New::zero)", "if (is_state)",
          "io/warm_start", "WarmStart.WithNewFieldsNumbersAndTasksPredictsAsBefore"),
    # ---- serve
    Fault("shared_once", "what a request shares is not added", "serve/folded_graph.hpp",
          "at::addmm_out(buffers.shift_, shift_, shared, shared_weight_);", "buffers.shift_.copy_(shift_);",
          "serve/ranker", "Ranker.PredictsWhatTheModulesPredict"),
    Fault("value_bias", "the bias of a fusion unit's value map is lost where it is folded", "serve/folded_graph.hpp",
          "shift = shift + mixture.shift;", "shift = shift + 0.0 * mixture.shift;",
          "serve/ranker", "Ranker.PredictsWhatTheModulesPredict"),
    Fault("score_difference", "the difference of two attention scores forgets their line", "serve/detail/loops.hpp",
          "(u[j + lane] - v[j + lane]) * (a[j + lane] + b[j + lane])", "(u[j + lane] - v[j + lane]) * a[j + lane]",
          "serve/ranker", "Ranker.PredictsWhatTheModulesPredict"),
    Fault("projected_field", "a projected field reads the rows of the table's first", "serve/ranker.hpp",
          "field.first_row = std::exchange(projected_rows, projected_rows + field.size);", "field.first_row = 0;",
          "serve/ranker", "Ranker.PredictsWhatTheModulesPredict"),
    Fault("curve_tail", "the mean label weight of a negative logit is that of the positive one", "serve/detail/label_curve.hpp",
          "return logit < 0.0 ? 1.0 - upper : upper;", "return upper;",
          "serve/ranker", "LabelCurve.IsTheLabelEmbeddingsOwnEvaluation"),
    Fault("live_buffers", "buffers are not made anew for another ranker", "serve/folded_graph.hpp",
          "if (buffers.graph_ == identity_ && buffers.rows_ == rows) return;", "if (buffers.graph_ && buffers.rows_ == rows) return;",
          "serve/ranker", "Ranker.GivesEveryThreadTheSameBitsAndSharesNothing"),
    Fault("golden_tolerance", "golden requests are compared without a bound", "serve/golden_requests.hpp",
          "expected.abs().clamp_min(1.0) * tolerance)", "expected.abs().clamp_min(1.0) * 1e9)",
          "serve/ranker", "GoldenRequests.PassTheirOwnModelAndNoOther"),
    Fault("mapping_writes", "a mapping writes to its file", "io/mapped_safetensors.hpp",
          "MAP_PRIVATE | MAP_NORESERVE", "MAP_SHARED",
          "io/io", "Safetensors.AreMappedWithoutReadingThem"),
    # ---- what does not fit, or is not there
    Fault("rows_unchecked", "one pass does not look whether labels and shares are of the outputs' rows", "loss/one_pass.hpp",
          "columns.size(0) == output.size(0) && share.defined() && share.dim() == 1 && share.size(0) == output.size(0);", "share.defined();",
          "loss/losses", "Losses.hold_what_every_loss_must_hold"),
    Fault("slopes_overflow", "slopes beyond float32 are not held", "loss/one_pass.hpp",
          "static_cast<T>(std::min(std::max(number, -most), most))", "static_cast<T>(std::min(std::max(number, -1e9 * most), 1e9 * most))",
          "loss/likelihoods", "Likelihoods.keep_gradients_finite_where_a_shape_or_dispersion_multiplies_exponentials"),
    Fault("bound_stands_still", "the bound of a gamma's exponential is taken for a constant of the shape", "loss/gamma.hpp",
          "log_k > 0.0 && d > most ? ratio.slope - 1.0 - d : rest", "rest",
          "loss/likelihoods", "Likelihoods.keep_gradients_finite_where_a_shape_or_dispersion_multiplies_exponentials"),
    Fault("nan_is_no_purchase", "a label that is NaN is a row without a purchase", "loss/ziln.hpp",
          "const double zero = std::isnan(*label) ? *label : 0.0;", "const double zero = 0.0;",
          "loss/likelihoods", "Likelihoods.hold_what_every_loss_must_hold"),
    Fault("duration_in_single", "D2Q trains by durations in single precision", "loss/d2q.hpp",
          "buckets(durations(input.context)).to(", "buckets(durations(input.context).to(at::kFloat)).to(",
          "loss/watch_time", "D2Q.trains_in_the_bucket_that_it_predicts_from_where_durations_need_float64"),
    Fault("weightless_event", "a row of weight 0 is an event for the tasks behind it", "task/task_set.hpp",
          "event.logical_and(of.weight.gt(0))", "event.logical_and(of.weight.ge(0))",
          "task/task", "TaskSet.takes_an_event_for_happened_where_it_is_observed_and_counts"),
    Fault("narrow_predictions", "predictions are made in the outputs' half precision", "task/task_set.hpp",
          "narrow ? given.to(at::kFloat) : given", "narrow ? given.to(at::kFloat).to(given.scalar_type()) : given",
          "task/task", "TaskSet.predicts_from_narrow_outputs_as_the_loss_reads_them"),
    Fault("logarithm_of_less", "a loss below 0 goes into a logarithm", "balance/balanced_losses.hpp", "HTL_CHECK(loss >= least ||", "HTL_CHECK(loss >= least - 1.0 ||",
          "balance/balancer", "Balancing.RefusesLossesBelowZeroWhereLogarithmsAreTaken"),
    Fault("list_of_one", "a list of one row counts as a perfect one", "metrics/ndcg.hpp", "best > 0.0 && last - first > 1", "best > 0.0 && last - first > 0",
          "metrics/groups", "Ndcg.is_the_mean_over_all_orders_of_ties"),
]


def stop(sentence):
    sys.exit("plant_faults: " + sentence)


def check(faults):
    """The text of every fault stands exactly once in its file, and its test in its source."""
    names = [fault.name for fault in FAULTS]
    for name in names:
        if names.count(name) > 1:
            stop(f'two faults are called "{name}"')
    for fault in faults:
        count = (ROOT / fault.path()).read_text().count(fault.old)
        if count != 1:
            stop(f'fault "{fault.name}": expected its text once in {fault.path()}, found it {count} times: {fault.old}')
        suite, test = re.sub(r"/\d+", "", fault.test).split(".")
        if not re.search(rf"\({suite}, {test}\)", (ROOT / "tests" / (fault.source + "_test.cpp")).read_text()):
            stop(f'fault "{fault.name}": there is no test {fault.test} in tests/{fault.source}_test.cpp')


def write_table(faults, out):
    print("| fault | file under include/htl | caught by | in |\n|---|---|---|---|", file=out)
    for fault in faults:
        print(f"| {fault.says} | `{fault.file}` | `{fault.test}` | `{fault.program()}` |", file=out)


class Scratch:
    """A copy of the tracked files with a build tree of its own."""

    def __init__(self, root, jobs):
        self.root = root
        self.build = root / "build" / "dev"
        self.jobs = jobs

    def copy(self):
        """Brings the copy up to date, without the test sources."""
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout.decode().split("\0")
        for name in listed:
            source, to = ROOT / name, self.root / name
            if not name or name.endswith("_test.cpp") or not source.is_file():
                continue
            if not to.is_file() or to.read_bytes() != source.read_bytes():
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, to)

    def choose(self, source):
        """Makes this test source the only one."""
        for other in self.root.glob("tests/*/*_test.cpp"):
            other.unlink()
        name = f"tests/{source}_test.cpp"
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, self.root / name)  # with its time, so that a later run need not compile it again

    def configure(self, torch_root):
        # a fault may leave a variable unused, which is no reason not to build it
        options = ["-D", "HTL_BUILD_EXAMPLES=OFF", "-D", "HTL_BUILD_BENCHMARKS=OFF", "-D", "HTL_BUILD_DOCS=OFF", "-D", "HTL_WARNINGS_AS_ERRORS=OFF"]
        if torch_root:
            options += ["-D", "HTL_TORCH_ROOT=" + torch_root]
        made = subprocess.run(["cmake", "--preset", "dev", *options], cwd=self.root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if made.returncode != 0:
            stop("the scratch copy does not configure:\n" + made.stdout)

    def compile(self, program):
        """What the build says, if it fails."""
        command = ["cmake", "--build", str(self.build), "--target", program, "-j", str(self.jobs)]
        made = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
        return made.stdout if made.returncode != 0 else None

    def run(self, fault):
        """"passes", "fails", "crashes", "hangs", or what is odd."""
        command = [str(self.build / "tests" / fault.program()), "--gtest_filter=" + fault.test, "--gtest_color=no"]
        try:
            ran = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", timeout=600)
        except subprocess.TimeoutExpired:
            return "hangs"
        if ran.returncode < 0:
            return "crashes"
        if ran.returncode != 0 and "[  FAILED  ] " + fault.test in ran.stdout:
            return "fails"
        if ran.returncode == 0 and "[       OK ] " + fault.test in ran.stdout:
            return "passes"
        return "does not run:\n" + ran.stdout[-2000:]

    def plant(self, fault):
        """Puts the fault in, builds, runs, takes it out: (what happened, what the build said)."""
        header = self.root / fault.path()
        good = header.read_bytes()
        try:
            header.write_bytes(good.replace(fault.old.encode(), fault.new.encode()))
            said = self.compile(fault.program())
            return ("does not build", said) if said is not None else (self.run(fault), "")
        finally:
            header.write_bytes(good)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="print the faults and check their texts")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these faults only")
    parser.add_argument("--jobs", type=int, default=1, help="parallel compiles, of 1 to 2 GB each (default 1)")
    parser.add_argument("--table", type=pathlib.Path, metavar="FILE", help="write the Markdown table of the caught faults there instead of printing it")
    parser.add_argument("--torch-root", default=os.environ.get("HTL_TORCH_ROOT", ""), metavar="DIR", help="LibTorch (default: HTL_TORCH_ROOT, or what CMake finds)")
    parser.add_argument("--scratch", type=pathlib.Path, default=ROOT / "build" / "faults", metavar="DIR", help="where to work (default: build/faults)")
    arguments = parser.parse_args()

    unknown = set(arguments.only or []) - {fault.name for fault in FAULTS}
    if unknown:
        stop("there is no fault called " + ", ".join(sorted(unknown)) + "; see --list")
    faults = [fault for fault in FAULTS if not arguments.only or fault.name in arguments.only]
    check(faults)
    if arguments.list:
        for fault in faults:
            print(f"{fault.name:24} {fault.path()}: {fault.says}; {fault.program()} {fault.test}")
        print(len(faults), "faults")
        return 0

    start = time.monotonic()
    scratch = Scratch(arguments.scratch.resolve(), arguments.jobs)
    scratch.copy()
    scratch.choose(faults[0].source)
    scratch.configure(arguments.torch_root)
    caught = []
    for source in dict.fromkeys(fault.source for fault in faults):
        of_source = [fault for fault in faults if fault.source == source]
        scratch.choose(source)
        said = scratch.compile(of_source[0].program())
        if said is not None:
            stop(f"tests/{source}_test.cpp does not build without a fault:\n{said}")
        for fault in {fault.test: fault for fault in of_source}.values():
            result = scratch.run(fault)
            if result != "passes":
                stop(f"{fault.test} must pass without a fault, but {result}")
        print(f"tests/{source}_test.cpp without a fault: passes ({time.monotonic() - start:.0f} s so far)", flush=True)
        for fault in of_source:
            begin = time.monotonic()
            result, said = scratch.plant(fault)
            is_caught = result in ("fails", "crashes", "hangs")
            caught += [fault] if is_caught else []
            print(f"{'caught  ' if is_caught else 'SURVIVED'} {fault.name}: {fault.test} {result} ({time.monotonic() - begin:.0f} s)", flush=True)
            if said:
                print("\n".join(said.splitlines()[-25:]), flush=True)
    print(f"{len(caught)} of {len(faults)} faults caught in {(time.monotonic() - start) / 60:.0f} minutes")
    if arguments.table:
        with open(arguments.table, "w", encoding="utf-8") as out:
            write_table(caught, out)
    else:
        write_table(caught, sys.stdout)
    return 0 if len(caught) == len(faults) else 1


if __name__ == "__main__":
    sys.exit(main())
