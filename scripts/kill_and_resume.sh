#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Kills the program htlnet at random moments (default: 100 times), resumes it each time, and checks that what it ends with is bit by bit what a run ends
# with that was never stopped.
#
# usage: scripts/kill_and_resume.sh [KILLS [BUILD_DIRECTORY]]
set -euo pipefail
cd "$(dirname "$0")/.."
program=${2:-build/dev}/tests/htl_test_examples
[ -x "$program" ] || { echo "kill_and_resume: expected the test program $program; build it first (scripts/test.sh)" >&2; exit 1; }
HTL_KILLS=${1:-100} "$program" --gtest_filter='Resume.AfterKills*'
