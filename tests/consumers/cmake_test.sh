#!/usr/bin/env bash
# CMake's targets: a project compiles a file against the installed headers, and the compiled library has every source.
#
#   tests/consumers/cmake_test.sh LIBTORCH_HEADER   include/ATen/ATen.h in LibTorch's folder
set -uo pipefail
torch=$(realpath -- "$1")
torch=${torch%/include/ATen/ATen.h}
work=$(mktemp -d "${TEST_TMPDIR:-/tmp}/cmake.XXXXXX")
trap 'rm -rf "$work"' EXIT
failed=0

expect() { # RESULT DESCRIPTION
  if (($1)); then printf '[       OK ] CMake, %s\n' "$2"; else printf '[  FAILED  ] CMake, %s\n' "$2"; failed=1; fi
}

run() { # a command; its output only if it fails
  "$@" >"$work/log" 2>&1 || { cat "$work/log"; return 1; }
}

# The headers alone, installed and found.
run cmake -S . -B "$work/refine" -DCMAKE_PREFIX_PATH="$torch" -DREFINE_COMPILED=OFF -DCMAKE_INSTALL_PREFIX="$work/prefix" &&
  run cmake --install "$work/refine" &&
  run cmake -S tests/consumers/cmake -B "$work/package" -DCMAKE_PREFIX_PATH="$work/prefix;$torch" &&
  run cmake --build "$work/package"
expect $((!$?)) "InstalledHeaders_AreFoundAndCompile"
version=$(sed -n 's/.*string_view version = "\(.*\)";/\1/p' refine/core/config.hpp)
[[ $("$work/package/version") == "refine $version, 3x32x32, 10 classes, 0.25" ]]
expect $((!$?)) "Program_PrintsTheVersion"
run cmake -S tests/consumers/cmake -B "$work/other" -DCMAKE_PREFIX_PATH="$work/prefix;$torch" -DREFINE_FROM=nothing >"$work/output"
expect $(($? != 0)) "UnknownWay_IsRefused"
run cmake -S . -B "$work/missing" -DCMAKE_PREFIX_PATH="$torch" -DCMAKE_DISABLE_FIND_PACKAGE_PNG=ON >"$work/output"
(($? != 0)) && grep -qw PNG "$work/output"
expect $((!$?)) "MissingLibrary_IsNamed"
run cmake -S . -B "$work/elsewhere" -DCMAKE_PREFIX_PATH="$torch" -DCMAKE_SYSTEM_NAME=FreeBSD >"$work/output"
(($? != 0)) && tr '\n' ' ' <"$work/output" | grep -qF 'got FreeBSD,'
expect $((!$?)) "OtherSystem_IsRefused"
[[ $(find "$work/prefix/include" -name '*.*' | wc -l) == $(find -L refine -name '*.[hi]pp' -o -name '*.inc' | wc -l) ]]
expect $((!$?)) "Installation_HasAllHeaders"

# The compiled library, in a project that adds the repository.
run cmake -S tests/consumers/cmake -B "$work/added" -DCMAKE_PREFIX_PATH="$torch" -DREFINE_FROM=subdirectory \
  -DREFINE_FOLDER="$PWD" -DCMAKE_EXPORT_COMPILE_COMMANDS=ON
expect $((!$?)) "AddedFolder_IsConfigured"
sources=$(find -L refine -name '*.cpp' ! -path refine/data/download.cpp | sort)
compiled=$(sed -n "s|.*\"file\": \"$PWD/\(refine/.*\)\".*|\1|p" "$work/added/compile_commands.json" | sort)
[[ -n $sources && $compiled == "$sources" ]]
expect $((!$?)) "CompiledLibrary_HasEverySource"
users=$(grep -F '"command"' "$work/added/compile_commands.json" | grep -F 'pipeline.cpp')
[[ $(grep -cF -- -DREFINE_COMPILED_LIB <<<"$users") == 1 && $(wc -l <<<"$users") == 2 ]]
expect $((!$?)) "UsersOfTheCompiledLibrary_AloneDefineItsMode"

# The version in other files.
grep -qF "version = \"$version\"," MODULE.bazel
expect $((!$?)) "BazelModule_HasTheSameVersion"
exit $failed
