# SPDX-License-Identifier: Apache-2.0
# Doxygen reads pages through this: they get a list of their sections, and links into the repository become links to the site's own pages of headers and examples.
s#\](\.\./include/htl/\([^)]*\))#](@ref \1)#g
s#\[\([^]]*\)\](\.\./examples/models/[^)]*)#`\1`#g
s#\](\.\./examples/\([^)]*\))#](@ref \1)#g
1s/$/\n\n[TOC]/
s#\*\*\(`[^`]*`\)\*\*#<b>\1</b>#g
