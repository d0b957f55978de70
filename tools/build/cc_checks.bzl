"""Tests of what the compiler says: headers that stand alone, and the texts of compile errors.

The compiler runs in build actions, one a file, with -fsyntax-only: in parallel, and cached. The
test itself only shows the reports, a line a file, as GoogleTest does.
"""

load(":compiler.bzl", "COMPILER_ATTRS", "compiler_for")
load(":precompiled.bzl", "PrecompiledInfo")

def _is_cpp_source(file):
    return file.extension in ["cc", "cpp", "cxx"]

def _impl(ctx, mode, files, precompiled = []):
    compiler = compiler_for(ctx, ctx.attr.deps + precompiled)

    # Nothing is generated, and without optimisation it is quicker.
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
    return _impl(ctx, "messages", ctx.files.srcs)

_COMMON = dict(COMPILER_ATTRS, **{
    "deps": attr.label_list(
        doc = "What the files include.",
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
            doc = "Headers, each compiled by itself, included twice.",
            allow_files = True,
            mandatory = True,
        ),
        precompiled = attr.label(
            doc = "Where given, a precompiled header that is included first, and the compiler stops at the header's " +
                  "end: a second instead of eight, which finds what a header lacks of this repository's headers.",
            providers = [PrecompiledInfo],
        ),
    ),
    fragments = ["cpp"],
    test = True,
    toolchains = ["@bazel_tools//tools/cpp:toolchain_type"],
    doc = "Passes when every header compiles with nothing included before it.",
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
    ),
    fragments = ["cpp"],
    test = True,
    toolchains = ["@bazel_tools//tools/cpp:toolchain_type"],
    doc = "Passes when every source fails to compile, with the expected texts and no other error.",
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
            doc = "What a file that is compiled by the command includes.",
            providers = [CcInfo],
        ),
    ),
    fragments = ["cpp"],
    toolchains = ["@bazel_tools//tools/cpp:toolchain_type"],
    doc = "A file with the compiler and its flags, one a line, for the execution root; no optimisation is said.",
)
