#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Fuzzes the readers with the programs of `cmake --build --preset fuzz`: each for so many inputs, from its seeds and what earlier runs found. The first crash,
# hang (10 s), leak, or memory beyond 2 GB (one allocation: 512 MB) ends it with the input's file. Corpora are in build/fuzz/corpus/.
#
# usage: scripts/fuzz.sh [--runs N] [--seconds S] [TARGET…]      N 1000000 unless given, S without end unless given; all targets unless given
set -euo pipefail
cd "$(dirname "$0")/.."
runs=1000000 seconds=0
while [ $# -gt 0 ]; do
  case $1 in
    --runs) runs=$2; shift 2 ;;
    --seconds) seconds=$2; shift 2 ;;
    -*) sed -n '/^# usage/s/^# //p' "$0" >&2; exit 2 ;;
    *) break ;;
  esac
done
[ $# -gt 0 ] || set -- csv gzip schema config safetensors checkpoint json
# LibTorch is built without the sanitizers' container annotations; a search for uses of a function's stack after its return takes a fifth of the time
export ASAN_OPTIONS=detect_container_overflow=0:detect_stack_use_after_return=0:quarantine_size_mb=16:malloc_context_size=12 UBSAN_OPTIONS=print_stacktrace=1 OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
! command -v llvm-symbolizer-16 >/dev/null || export ASAN_SYMBOLIZER_PATH="$(command -v llvm-symbolizer-16)"
for target in "$@"; do
  program=build/fuzz/tests/fuzz/htl_fuzz_$target corpus=build/fuzz/corpus/$target findings=build/fuzz/findings
  [ -x "$program" ] || { echo "there is no $program; build it: cmake --preset fuzz && cmake --build --preset fuzz" >&2; exit 1; }
  mkdir -p "$corpus" $findings
  start=$SECONDS
  if ! "$program" -runs="$runs" -max_total_time="$seconds" -max_len=2048 -timeout=10 -rss_limit_mb=2048 -malloc_limit_mb=512 -print_final_stats=1 -verbosity=1 \
    -dict=tests/fuzz/dictionaries/"$target".dict -artifact_prefix=$findings/"$target"- "$corpus" tests/fuzz/seeds/"$target" >"$corpus.log" 2>&1; then
    tail -n 60 "$corpus.log" >&2
    echo "fuzz: $target stopped; its input is in $findings/" >&2
    exit 1
  fi
  value() { sed -n "s/^stat::$1: *//p" "$corpus.log"; }
  coverage=$(sed -n 's/.* cov: \([0-9]*\) ft: \([0-9]*\) corp: \([0-9]*\).*/\1 edges, \3 kept inputs/p' "$corpus.log" | tail -n 1)
  printf '%-12s %9d inputs  %6d a second  %5d s  %s  peak %d MB\n' "$target" "$(value number_of_executed_units)" "$(value average_exec_per_sec)" \
    $((SECONDS - start)) "$coverage" "$(value peak_rss_mb)"
done
