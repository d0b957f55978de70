#!/usr/bin/env bash
# Runs one compiler check as a Bazel action of cc_checks.bzl. It always succeeds. The first line of
# the report is the outcome, the rest is the reason.
#
#   check_compile.sh header   REPORT FILE COMPILER ARGUMENTS...   the header with its instantiations
#   check_compile.sh parse    REPORT FILE COMPILER ARGUMENTS...   the header without instantiations
#   check_compile.sh messages REPORT FILE COMPILER ARGUMENTS...   a source that must not compile
set -uo pipefail
export LC_ALL=C

mode=$1 report=$2 file=$3
shift 3

quiet=(-fdiagnostics-color=never -fno-diagnostics-show-caret)
case $("$1" --version 2>&1) in
  *clang*) quiet=(-fno-color-diagnostics -fno-caret-diagnostics) ;;
esac

finish() { # OK or FAILED, text
  printf '%s %s\n' "$1" "$file" >"$report"
  [[ -z $2 ]] || printf '%s\n' "$2" >>"$report"
  exit 0
}

if [[ $mode == header ]]; then
  # Twice, to check its include guard.
  if output=$(printf '#include <%s>\n#include <%s>\n' "$file" "$file" |
    "$@" "${quiet[@]}" -fsyntax-only -x c++ - 2>&1); then
    finish OK "$output"
  fi
  finish FAILED "$(grep -m 12 . <<<"$output")"
fi

if [[ $mode == parse ]]; then
  # At the end of a file, GCC instantiates the templates of every inline function, including
  # LibTorch's, which takes most of the time. A failing assertion on the last line stops it before
  # that, because the first error is fatal.
  end='refine: the end of the header'
  output=$(printf '#include <%s>\n#include <%s>\nstatic_assert(sizeof(char) != 1, "%s");\n' "$file" "$file" "$end" |
    "$@" "${quiet[@]}" -Wfatal-errors -fsyntax-only -x c++ - 2>&1) && finish FAILED "the compiler read past the end"
  errors=$(grep -E '(^|: )(fatal )?error: ' <<<"$output")
  [[ $errors == *"$end"* && $errors != *$'\n'* ]] || finish FAILED "$(grep -m 12 . <<<"$output")"
  finish OK "$(grep -F 'warning: ' <<<"$output")"
fi

mapfile -t expected < <(sed -n 's/.*expect-error:[[:space:]]*//p' "$file" | sed 's/[[:space:]]*$//')
((${#expected[@]})) || finish FAILED "the file has no expectation; add // expect-error: TEXT"

# Without source lines in the output: they would show the expectations themselves. Failing assertions after the source
# stop the compiler before it instantiates what inline functions mention, as above; the limit leaves room for the
# source's own errors.
end='refine: the end of the source'
limit=$((${#expected[@]} + 20))
output=$({
  printf '#include "%s"\n' "$file"
  for ((i = 0; i < limit; ++i)); do printf 'static_assert(sizeof(char) != 1, "%s");\n' "$end"; done
} | "$@" "${quiet[@]}" "-fmax-errors=$limit" -fsyntax-only -x c++ - 2>&1)
output=$(grep -vF "$end" <<<"$output")
grep -qE '(^|: |• )(fatal )?error: ' <<<"$output" || finish FAILED "it compiles, but must not"

problems=
for text in "${expected[@]}"; do
  grep -qF -- "$text" <<<"$output" || problems+="not in the compiler's output: $text"$'\n'
done

errors=0 named=0 assertions=0 others=
while IFS= read -r line; do
  errors=$((errors + 1))
  [[ $line =~ static\ assertion\ failed|static_assert\ failed ]] && assertions=$((assertions + 1))
  found=0
  for text in "${expected[@]}"; do
    [[ $line == *"$text"* ]] && found=1
  done
  if ((found)); then named=$((named + 1)); else others+="$line"$'\n'; fi
done < <(grep -E '(^|: |• )(fatal )?error: ' <<<"$output")

if ((named)); then
  [[ -z $others ]] || problems+="unexpected errors:"$'\n'"$others"
elif ((errors != ${#expected[@]})); then
  problems+="$errors errors, expected ${#expected[@]}"$'\n'
fi
if ((assertions && assertions != ${#expected[@]})); then
  problems+="$assertions failed static assertions, expected ${#expected[@]}"$'\n'
fi

[[ -z $problems ]] && finish OK ""
finish FAILED "$problems--- the compiler's output:"$'\n'"$(head -n 40 <<<"$output")"
