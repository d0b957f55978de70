"""Tests of what the compiler says: headers that stand alone, and the texts of compile errors.

The compiler runs in build actions, one a file, with -fsyntax-only: in parallel, and cached. The
test itself only shows the reports, a line a file, as GoogleTest does.
"""

load("@bazel_tools//tools/build_defs/cc:action_names.bzl", "CPP_COMPILE_ACTION_NAME")
load("@bazel_tools//tools/cpp:toolchain_utils.bzl", "find_cpp_toolchain")

def _is_cpp_source(file):
    return file.extension in ["cc", "cpp", "cxx"]

def _compiler(ctx):
    """The compiler, its flags for what `deps` need, and what an action needs to run it."""
    toolchain = find_cpp_toolchain(ctx)
    features = cc_common.configure_features(
        ctx = ctx,
        cc_toolchain = toolchain,
        requested_features = ctx.features,
        unsupported_features = ctx.disabled_features + ["module_maps"],
    )
    compilation = cc_common.merge_cc_infos(
        cc_infos = [dep[CcInfo] for dep in ctx.attr.deps],
    ).compilation_context
    variables = cc_common.create_compile_variables(
        feature_configuration = features,
        cc_toolchain = toolchain,
        user_compile_flags = ctx.fragments.cpp.copts + ctx.fragments.cpp.cxxopts,
        include_directories = compilation.includes,
        quote_include_directories = compilation.quote_includes,
        system_include_directories = compilation.system_includes,
        preprocessor_defines = compilation.defines,
    )
    compiler = cc_common.get_tool_for_action(
        feature_configuration = features,
        action_name = CPP_COMPILE_ACTION_NAME,
    )
    flags = [
        flag
        for flag in cc_common.get_memory_inefficient_command_line(
            feature_configuration = features,
            action_name = CPP_COMPILE_ACTION_NAME,
            variables = variables,
        )
        # Nothing is generated, and without optimisation it is quicker.
        if not flag.startswith("-O") and flag not in ["-c", "-MD", "-D_FORTIFY_SOURCE=1"]
    ]
    environment = cc_common.get_environment_variables(
        feature_configuration = features,
        action_name = CPP_COMPILE_ACTION_NAME,
        variables = variables,
    )
    return struct(
        path = compiler,
        flags = flags,
        environment = environment,
        headers = compilation.headers,
        tools = toolchain.all_files,
    )

def _impl(ctx, mode, files):
    compiler = _compiler(ctx)
    reports = []
    for number, file in enumerate(files):
        report = ctx.actions.declare_file("{}.reports/{}.{}.txt".format(ctx.label.name, number, file.basename))
        arguments = ctx.actions.args()
        arguments.add(mode)
        arguments.add(report)
        arguments.add(file)
        arguments.add(compiler.path)
        arguments.add_all(compiler.flags)
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
    return _impl(ctx, "header", ctx.files.hdrs)

def _messages_impl(ctx):
    for file in ctx.files.srcs:
        if not _is_cpp_source(file):
            fail("%s is not a C++ source" % file.short_path)
    return _impl(ctx, "messages", ctx.files.srcs)

_COMMON = {
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
    "_cc_toolchain": attr.label(default = "@bazel_tools//tools/cpp:current_cc_toolchain"),
}

headers_compile_alone_test = rule(
    implementation = _headers_impl,
    attrs = dict(
        _COMMON,
        hdrs = attr.label_list(
            doc = "Headers, each compiled by itself, included twice.",
            allow_files = True,
            mandatory = True,
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
    compiler = _compiler(ctx)
    file = ctx.actions.declare_file(ctx.label.name + ".txt")
    ctx.actions.write(file, "\n".join([compiler.path] + compiler.flags) + "\n")
    return [DefaultInfo(
        files = depset([file]),
        runfiles = ctx.runfiles(files = [file], transitive_files = compiler.headers),
    )]

compile_command = rule(
    implementation = _command_impl,
    attrs = {
        "deps": attr.label_list(
            doc = "What a file that is compiled by the command includes.",
            providers = [CcInfo],
        ),
        "_cc_toolchain": _COMMON["_cc_toolchain"],
    },
    fragments = ["cpp"],
    toolchains = ["@bazel_tools//tools/cpp:toolchain_type"],
    doc = "A file with the compiler and its flags, one a line, for the execution root; no optimisation is said.",
)
