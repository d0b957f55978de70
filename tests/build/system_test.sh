#!/usr/bin/env bash
# tools/bazel refuses other systems and processors in one line, before anything is installed.
set -uo pipefail
failed=0
work=$(mktemp -d "${TEST_TMPDIR:-/tmp}/system.XXXXXX")
trap 'rm -rf "$work"' EXIT
for program in bash cat cmp dirname grep; do # no python3, which may have a torch
  ln -s "$(type -P "$program")" "$work/$program"
done

expect_refusal() { # NAME TEXT HINT VARIABLE=VALUE
  local output status
  output=$(env -i HOME="$work" PATH="$work" "$4" tools/bazel version 2>&1)
  status=$?
  if [[ $status == 2 && $(wc -l <<<"$output") == 1 && $output == *"$2"* && $output == *"$3"* ]]; then
    printf '[       OK ] Bazel, %s\n' "$1"
  else
    printf '[  FAILED  ] Bazel, %s: status %s: %s\n' "$1" "$status" "$output"
    failed=1
  fi
}

expect_refusal OtherSystem_IsRefused "got darwin23, expected Linux" Dockerfile OSTYPE=darwin23
expect_refusal OtherProcessor_IsRefused "got riscv64, expected x86_64" "set LIBTORCH" HOSTTYPE=riscv64
exit $failed
