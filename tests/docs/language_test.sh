#!/usr/bin/env bash
# tools/check_language finds what it is for, and finds nothing in this repository.
set -uo pipefail
bad=$(mktemp --suffix=.hpp)
good=$(mktemp --suffix=.hpp)
trap 'rm -f "$bad" "$good"' EXIT
failed=0

expect() { # RESULT DESCRIPTION
  if (($1)); then printf '[       OK ] CheckLanguage, %s\n' "$2"; else printf '[  FAILED  ] CheckLanguage, %s\n' "$2"; failed=1; fi
}

printf '%s\n' '/// A rate; it is above 0.' 'throw Error("3 classes were said");' '/// So many of so many.' '// It is no template.' >"$bad"
expect "$(($(tools/check_language "$bad" | wc -l) == 4))" "DialectInCommentsAndMessages_IsReported"
printf '%s\n' '/// Returns the rate, which must be positive. It is no longer used.' 'int whoever = 3;' >"$good"
expect "$(tools/check_language "$good" >/dev/null && echo 1 || echo 0)" "PlainEnglishAndCode_Pass"
lines=$(grep -cv '^#' tools/language_allowlist.txt)
expect "$((lines <= 10))" "AllowList_HasAtMostTenLines"
count=$(find refine -name '*.hpp' | wc -l)
expect "$((count > 100))" "Headers_AreFound"
tools/check_language
expect "$(($? == 0))" "Repository_HasNoDialect"
exit $failed
