"""Tests of the compiler's output: headers that compile by themselves, and the texts of compile errors.

The compiler runs with -fsyntax-only in build actions, one for each file: in parallel, and cached. The test itself only
prints the reports, one line for each file, as GoogleTest does.
"""

load("@rules_cc//cc/common:cc_info.bzl", "CcInfo")
load(":compiler.bzl", "COMPILER_ATTRS", "compiler_for")
load(":precompiled.bzl", "PrecompiledInfo")

def _is_cpp_source(file):
    return file.extension in ["cc", "cpp", "cxx"]

def _impl(ctx, mode, files, precompiled = []):
    compiler = compiler_for(ctx, ctx.attr.deps + precompiled)

    # No code is generated, and the compiler is faster without optimization.
    flags = compiler.flags + ["-O0"]
    for target in precompiled:
        flags += ["-fPIC", "-include", target[PrecompiledInfo].header, "-Winvalid-pch"]
    reports = []
    for number, file in enumerate(files):
        report = ctx.actions.declare_file("{}.reports/{}.{}.txt".format(ctx.label.name, number, file.basename))
        arguments = ctx.actions.args()
        arguments.add(mode)
        arguments.add(report)
        arguments.add(file)
        arguments.add(compiler.path)
        arguments.add_all(flags)
        ctx.actions.run(
            executable = ctx.executable._check,
            arguments = [arguments],
            inputs = depset([file] + ctx.files.hdrs, transitive = [compiler.headers]),
            tools = compiler.tools,
            outputs = [report],
            env = compiler.environment,
            use_default_shell_env = not compiler.environment,
            mnemonic = "CppCheck",
            progress_message = "Checking %s" % file.short_path,
        )
        reports.append(report)

    script = ctx.actions.declare_file(ctx.label.name + ".sh")
    ctx.actions.write(script, is_executable = True, content = """#!/usr/bin/env bash
failed=0
for report in {reports}; do
  read -r state name <"$report"
  printf '[ RUN      ] %s\\n' "$name"
  tail -n +2 "$report"
  if [[ $state == OK ]]; then
    printf '[       OK ] %s\\n' "$name"
  else
    printf '[  FAILED  ] %s\\n' "$name"
    failed=1
  fi
done
exit $failed
""".format(reports = " ".join(["'" + report.short_path + "'" for report in reports])))
    return [DefaultInfo(
        executable = script,
        files = depset([script]),
        runfiles = ctx.runfiles(files = reports),
    )]

def _headers_impl(ctx):
    if ctx.attr.precompiled:
        return _impl(ctx, "parse", ctx.files.hdrs, [ctx.attr.precompiled])
    return _impl(ctx, "header", ctx.files.hdrs)

def _messages_impl(ctx):
    for file in ctx.files.srcs:
        if not _is_cpp_source(file):
            fail("%s is not a C++ source" % file.short_path)
    return _impl(ctx, "messages", ctx.files.srcs, [ctx.attr.precompiled] if ctx.attr.precompiled else [])

_COMMON = dict(COMPILER_ATTRS, **{
    "deps": attr.label_list(
        doc = "The libraries that the files include.",
        providers = [CcInfo],
    ),
    "_check": attr.label(
        default = "//tools/build:check_compile.sh",
        allow_single_file = True,
        executable = True,
        cfg = "exec",
    ),
})

headers_compile_alone_test = rule(
    implementation = _headers_impl,
    attrs = dict(
        _COMMON,
        hdrs = attr.label_list(
            doc = "Headers; each is compiled by itself, included twice.",
            allow_files = True,
            mandatory = True,
        ),
        precompiled = attr.label(
            doc = "A precompiled header to include first, if any. The compiler then stops at the end of the header, after one " +
                  "second instead of eight. This finds missing includes of this repository's headers.",
            providers = [PrecompiledInfo],
        ),
    ),
    fragments = ["cpp"],
    test = True,
    toolchains = ["@bazel_tools//tools/cpp:toolchain_type"],
    doc = "Passes if every header compiles with nothing included before it.",
)

compile_messages_test = rule(
    implementation = _messages_impl,
    attrs = dict(
        _COMMON,
        srcs = attr.label_list(
            doc = "Sources that must not compile, with // expect-error: TEXT comments.",
            allow_files = True,
            mandatory = True,
        ),
        hdrs = attr.label_list(
            doc = "Other files that the sources include.",
            allow_files = True,
        ),
        precompiled = attr.label(
            doc = "A precompiled header to include first, if any.",
            providers = [PrecompiledInfo],
        ),
    ),
    fragments = ["cpp"],
    test = True,
    toolchains = ["@bazel_tools//tools/cpp:toolchain_type"],
    doc = "Passes if every source fails to compile, with the expected texts and no other error.",
)

def _command_impl(ctx):
    compiler = compiler_for(ctx, ctx.attr.deps)
    file = ctx.actions.declare_file(ctx.label.name + ".txt")
    ctx.actions.write(file, "\n".join([compiler.path] + [flag for flag in compiler.flags if not flag.startswith("-O")]) + "\n")
    return [DefaultInfo(
        files = depset([file]),
        runfiles = ctx.runfiles(files = [file], transitive_files = compiler.headers),
    )]

compile_command = rule(
    implementation = _command_impl,
    attrs = dict(
        COMPILER_ATTRS,
        deps = attr.label_list(
            doc = "The libraries that a file compiled by the command may include.",
            providers = [CcInfo],
        ),
    ),
    fragments = ["cpp"],
    toolchains = ["@bazel_tools//tools/cpp:toolchain_type"],
    doc = "Writes the compiler and its flags, one on each line, without an optimization level. They are relative to " +
          "the execution root.",
)
