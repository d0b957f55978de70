"""Tests that are scripts. Bazel 9 has no sh_test without another module."""

def _impl(ctx):
    script = ctx.actions.declare_file(ctx.label.name)
    ctx.actions.symlink(output = script, target_file = ctx.file.src, is_executable = True)
    return [DefaultInfo(executable = script, runfiles = ctx.runfiles(files = ctx.files.data))]

script_test = rule(
    implementation = _impl,
    attrs = {
        "src": attr.label(
            doc = "The script. It runs in the root of the repository, where `data` are.",
            allow_single_file = True,
            mandatory = True,
        ),
        "data": attr.label_list(allow_files = True),
    },
    test = True,
    doc = "Passes if the script exits with 0.",
)
