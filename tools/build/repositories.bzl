"""The repositories that refine needs, for a WORKSPACE file. MODULE.bazel is for Bazel 7 and newer."""

load(":libtorch.bzl", "libtorch_repository")
load(":system.bzl", "system_repository")

_DEBIAN = {
    "bazel_skylib": "/usr/share/bazel/tools/skylib",
    "platforms": "/usr/share/bazel/tools/platforms",
    "rules_java": "/usr/share/bazel/rules/java",
    "rules_proto": "/usr/share/bazel/rules/proto",
}

def _folder_impl(ctx):
    folder = ctx.path(Label("//tools/build:BUILD.bazel")).dirname.get_child(ctx.attr.folder)
    for child in folder.readdir():
        ctx.symlink(child, child.basename)

_folder_repository = repository_rule(
    implementation = _folder_impl,
    attrs = {"folder": attr.string(mandatory = True)},
    local = True,
    doc = "A folder of tools/build as a repository, also where refine is itself an external repository.",
)

def refine_repositories():
    """Declares @libtorch, @system and, without a download, the repositories from which Bazel's rules are loaded.

    Debian's Bazel is 4.2.3 and reports no version. Newer versions bring their own definitions of all of the latter
    except for rules_cc.
    """
    libtorch_repository(name = "libtorch")
    system_repository(name = "system")

    version = getattr(native, "bazel_version", "").split(".")[0]
    major = int(version) if version.isdigit() else 4
    if major < 7:
        _folder_repository(name = "rules_cc", folder = "rules_cc")
    if major < 5:
        _folder_repository(name = "remote_coverage_tools", folder = "coverage_stub")
        for name, path in _DEBIAN.items():
            native.local_repository(name = name, path = path)
