# SPDX-License-Identifier: Apache-2.0
# Doxygen reads pages through this: they get a list of their sections, a section gets the name that links give it, and links into the repository become links to the
# site's own pages of headers and examples.
function name_of(title) {
  gsub(/[^A-Za-z0-9 _-]/, "", title)
  gsub(/ /, "-", title)
  return tolower(title)
}
# Every match of the pattern, without its first `left` and its last `right` characters, between two texts
function rewrite(line, pattern, left, right, before, after,   done) {
  while (match(line, pattern)) {
    done = done substr(line, 1, RSTART - 1) before substr(line, RSTART + left, RLENGTH - left - right) after
    line = substr(line, RSTART + RLENGTH)
  }
  return done line
}
FNR == 1 { page = FILENAME; sub(/.*\//, "", page); sub(/[.]md$/, "", page) }
/^```/ { code = !code }
!code {
  if (/^##+ /) {
    title = $0
    sub(/^#+ /, "", title)
    $0 = $0 " {#" page "_" name_of(title) "}"
  }
  $0 = rewrite($0, "\\]\\([.][.]/include/htl/[^)]*\\)", 17, 1, "](@ref ", ")")
  while (match($0, /\[[^]]*\]\([.][.]\/examples\/models\/[^)]*\)/)) {
    text = substr($0, RSTART + 1)
    sub(/\].*/, "", text)
    $0 = substr($0, 1, RSTART - 1) "`" text "`" substr($0, RSTART + RLENGTH)
  }
  $0 = rewrite($0, "\\]\\([.][.]/examples/[^)]*\\)", 14, 1, "](@ref ", ")")
  $0 = rewrite($0, "[*][*]`[^`]*`[*][*]", 2, 2, "<b>", "</b>")
  while (match($0, /\]\([a-z_]*[.]md#[^)]*\)/)) {
    target = substr($0, RSTART + 2, RLENGTH - 3)
    sub(/[.]md#/, "_", target)
    $0 = substr($0, 1, RSTART - 1) "](@ref " target ")" substr($0, RSTART + RLENGTH)
  }
}
{ print }
FNR == 1 { print "\n[TOC]" }
