#!/usr/bin/env bash
# Prints CHANGELOG.md's section of a version: .github/release-notes.sh 1.2.3. Fails if there is none, or nothing in it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
version=${1:?Which version? For instance: .github/release-notes.sh 1.2.3}
awk -v head="## [$version]" '
  index($0, head) == 1 { on = 1; next }
  /^## \[/ { on = 0 }
  /^\[.*\]: / { next }
  on && (text || NF) { print; text = text $0 }
  END { if (text !~ /[^ ]/) { print "CHANGELOG.md has no section \"" head "\" with anything in it: move what is under [Unreleased] there." > "/dev/stderr"; exit 1 } }
' CHANGELOG.md
