# SPDX-License-Identifier: Apache-2.0
# Doxygen reads headers through this: it says htl::Tower, as programs do, and not htl::v0_1_0::Tower, and each header's folder is a group. No line is added.
/^namespace htl::inline v[0-9_]+/ {
  sub(/::inline v[0-9_]+/, "")
  if ($0 == "namespace htl {") {
    count = split(FILENAME, part, "/")
    $0 = $0 " /** @addtogroup " part[count - 1] " */ /** @{ */"
    open = 1
  }
}
/^}  \/\/ namespace htl$/ && open { $0 = "/** @} */ " $0; open = 0 }
{ print }
