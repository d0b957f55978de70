"""Precompiled headers: the headers of other projects are compiled once instead of once for each file."""

load("@rules_cc//cc/common:cc_common.bzl", "cc_common")
load("@rules_cc//cc/common:cc_info.bzl", "CcInfo")
load(":compiler.bzl", "COMPILER_ATTRS", "compiler_for")

PrecompiledInfo = provider(
    doc = "A precompiled header.",
    fields = {"header": "the name under which it is included"},
)

def _impl(ctx):
    compiler = compiler_for(ctx, ctx.attr.deps)
    header = ctx.actions.declare_file("{0}/{1}".format(ctx.label.name, ctx.file.header.basename))
    precompiled = ctx.actions.declare_file(header.basename + ".gch", sibling = header)
    ctx.actions.symlink(output = header, target_file = ctx.file.header)
    arguments = ctx.actions.args()
    arguments.add_all(compiler.flags)
    arguments.add_all(ctx.attr.copts)
    arguments.add_all(["-fPIC", "-x", "c++-header", header, "-o", precompiled])
    ctx.actions.run(
        executable = compiler.path,
        arguments = [arguments],
        inputs = depset([header], transitive = [compiler.headers, compiler.tools]),
        outputs = [precompiled],
        env = compiler.environment,
        use_default_shell_env = not compiler.environment,
        mnemonic = "CppPrecompile",
        progress_message = "Precompiling %s" % ctx.file.header.short_path,
    )
    files = depset([header, precompiled])
    return [
        DefaultInfo(files = files),
        PrecompiledInfo(header = header.basename),
        # The headers of deps, too, because the compiler reports them as the dependencies of a file.
        cc_common.merge_cc_infos(cc_infos = [
            CcInfo(compilation_context = context)
            for context in [cc_common.create_compilation_context(
                headers = files,
                quote_includes = depset([header.dirname]),
            )] + [dep[CcInfo].compilation_context for dep in ctx.attr.deps]
        ]),
    ]

precompiled_header = rule(
    implementation = _impl,
    attrs = dict(
        COMPILER_ATTRS,
        header = attr.label(
            doc = "Includes the headers to precompile.",
            allow_single_file = [".hpp"],
            mandatory = True,
        ),
        copts = attr.string_list(
            doc = "Flags in addition to those of .bazelrc; must be those of the files that use the header.",
        ),
        deps = attr.label_list(
            doc = "The libraries that the header includes.",
            providers = [CcInfo],
        ),
    ),
    fragments = ["cpp"],
    toolchains = ["@bazel_tools//tools/cpp:toolchain_type"],
    doc = """Precompiles a header.

A target with this in its `deps` and `-include HEADER` in its `copts` does not read the header again. If the flags
differ, the compiler reads it as text and warns (-Winvalid-pch).
""",
)
