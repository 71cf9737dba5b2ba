# SPDX-License-Identifier: Apache-2.0
# awk -F, -f same_numbers.awk A.csv B.csv: fails unless both have one header, and numbers that differ by 1e-5 of max(1, |a|) at most.
function size(x) { return x < 0 ? -x : x }
NR == FNR { expected[FNR] = $0; lines = FNR; next }
{
  if (split(expected[FNR], a, ",") != NF) exit fault = 1
  for (i = 1; i <= NF; ++i)
    if (FNR == 1 ? $i != a[i] : $i !~ /^[-+.e0-9]+$/ || !(size($i - a[i]) <= 1e-5 * (size(a[i]) > 1 ? size(a[i]) : 1))) {
      print "line " FNR ", column " i ": expected " a[i] ", got " $i
      exit fault = 1
    }
}
END { if (fault || FNR != lines || lines < 2) exit 1 }
