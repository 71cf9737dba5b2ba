#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Prints the tables of docs/performance.md: builds the benchmarks as preset release does, and runs them; what is compared runs in turns. Up to an hour on
# two cores, on a machine that does nothing else.
#
# usage: benchmarks/measure.sh [--python PYTHON] [--threads N]
#   --python PYTHON   one that has benchmarks/side_by_side/requirements.txt; without it the comparison with other trainers is left out
#   --threads N       2 where it is not given
set -euo pipefail
cd "$(dirname "$0")/.."
python='' threads=2
while [ $# -gt 0 ]; do
  case $1 in
    --python | --threads) [ $# -ge 2 ] || { echo "measure: $1 needs a value" >&2; exit 1; } ;;&
    --python) python=$2; shift ;;
    --threads) threads=$2; shift ;;
    -h | --help) sed -n '3,/^set -/{/^set -/d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
    *) echo "measure: unknown option $1; see --help" >&2; exit 1 ;;
  esac
  shift
done
torch=$(scripts/setup.sh)
cmake --preset release -D HTL_TORCH_ROOT="$torch" -D HTL_BUILD_TESTS=OFF >&2
cmake --build --preset release --target htl_benchmarks >&2
programs=build/release/benchmarks
step() { "$programs/side_by_side_step" --threads "$threads" "$@"; }
field() { sed -n "s/.*\"$1\":\([^,}]*\).*/\1/p"; }

printf '## The adjusted step against the plain one, in turns within one run\n\n| rows of a batch | adjusted, ms | plain, ms | ratio of medians | median of ratios |\n'
printf '|---:|---:|---:|---:|---:|\n'
for batch in 1024 8192; do
  for _ in 1 2 3; do
    line=$(step --mode both --batch $batch --steps $((batch == 1024 ? 200 : 40)))
    printf '| %s | %.2f | %.2f | %.3f | %.3f |\n' $batch "$(field ms_adjusted <<<"$line")" "$(field ms_plain <<<"$line")" \
      "$(field adjusted_over_plain <<<"$line")" "$(field median_of_pairwise_ratios <<<"$line")"
  done
done

printf '\n## The size of the table\n\n| rows of the table | ms a step | peak memory, MB | table, optimizer state and ids, MB |\n|---:|---:|---:|---:|\n'
for _ in 1 2 3; do
  for rows in 40000 1000000 10000000; do
    line=$(step --rows $rows)
    printf '| %s | %.2f | %.0f | %.0f |\n' $rows "$(field ms_per_step <<<"$line")" "$(field peak_memory_mb <<<"$line")" "$(field table_state_and_ids_mb <<<"$line")"
  done
done

printf '\n## The parts of an adjusted step\n\n'
for _ in 1 2 3; do step --mode parts; done

printf '\n## Gradient methods: the adjusted step against the plain one\n\n| method | T = 3, median of ratios | T = 8 |\n|---|---:|---:|\n'
for method in sum mean core_task metabalance pcgrad gradvac mgda pe_ltr:bound=0.01 sdmgrad:lambda=0.3 cagrad imtl_g nash_mtl fairgrad aligned_mtl upgrad dualproj \
  config krum gradnorm random cr_mogm:inner=cagrad famo; do
  printf '| %s |' $method
  for tasks in 3 8; do
    line=$(step --mode both --adjuster $method --tasks $tasks --steps 100)
    printf ' %.3f |' "$(field median_of_pairwise_ratios <<<"$line")"
  done
  printf '\n'
done

printf '\n## Exact gradients of a dense trunk\n'
"$programs/trunk_cost" --threads "$threads"

printf '\n## What a method costs by itself\n\n'
if [ -n "$python" ]; then
  OMP_NUM_THREADS=1 "$python" benchmarks/side_by_side/compare_weights.py --ours "$programs/weights_cost"
else
  OMP_NUM_THREADS=1 "$programs/weights_cost"
fi

printf '\n## Beside straightforward and careful trainers\n\n'
compare() {
  "$python" benchmarks/side_by_side/compare.py --ours "$programs/side_by_side_step" --naive-cpp "$programs/side_by_side_naive" --threads "$threads" \
    --ours-steps 100 "$@"
}
if [ -n "$python" ]; then
  compare --rows 36000 --repeat 5 --steps 50
  compare --rows 1000000 --repeat 3 --steps 15 --warmup 3 --only naive compiled
  compare --rows 10000000 --repeat 2 --steps 3 --warmup 1 --only naive.cpp
  beside_torchjd() {
    local model=$1 ours=$2
    shift 2
    "$python" benchmarks/side_by_side/compare.py --torchjd "$model" --ours "$ours" --threads "$threads" --ours-steps 100 "$@"
  }
  printf '\n## Beside TorchJD, UPGrad: a dense trunk, then tables of embeddings\n\n'
  beside_torchjd trunk "$programs/side_by_side_trunk" --repeat 3 --steps 30
  beside_torchjd tables "$programs/side_by_side_step --model shared_embedding --adjuster upgrad" --rows 36000 1000000 --repeat 3 --steps 5 --warmup 2
  printf '\n## Beside torch-rechub: shared bottom, MMoE, PLE, AITM, ESMM\n\n'
  architectures() { "$python" benchmarks/side_by_side/architectures.py --ours "$programs/side_by_side_architectures" --threads "$threads" "$@"; }
  architectures --rows 36000 --batch 1024 4096
  architectures --rows 1000000 --batch 1024 --repeat 3 --steps 10
  architectures --rows 36000 --batch 1024 --loader --repeat 3
else
  echo 'Left out; --python PYTHON adds it.'
fi

printf '\n## Reading\n\n'
"$programs/data_benchmark" --benchmark_filter='1000000$|rows:131474' --benchmark_repetitions=3 --benchmark_report_aggregates_only=true

printf '\n## Serving\n\n'
"$programs/serve_benchmark" --benchmark_enable_random_interleaving=true --benchmark_repetitions=9 --benchmark_report_aggregates_only=true
