"""Bazel's own repositories; with Debian's Bazel 4, without a download."""

load("@bazel_tools//tools/build_defs/repo:http.bzl", "http_archive")

_DEBIAN = {
    "bazel_skylib": "/usr/share/bazel/tools/skylib",
    "platforms": "/usr/share/bazel/tools/platforms",
    "rules_java": "/usr/share/bazel/rules/java",
    "rules_proto": "/usr/share/bazel/rules/proto",
}

def bazel_repositories():
    """Declares the repositories from which Bazel's rules are loaded.

    Debian's Bazel is 4.2.3 and reports no version. Newer versions bring their own definitions of all of them except for
    rules_cc.
    """
    version = getattr(native, "bazel_version", "")
    major = version.split(".")[0]
    if not major.isdigit() or int(major) < 5:
        native.local_repository(name = "rules_cc", path = "tools/build/rules_cc")
        native.local_repository(name = "remote_coverage_tools", path = "tools/build/coverage_stub")
        for name, path in _DEBIAN.items():
            native.local_repository(name = name, path = path)
    elif int(major) < 8:
        http_archive(
            name = "rules_cc",
            sha256 = "2037875b9a4456dce4a79d112a8ae885bbc4aad968e6587dca6e64f3a0900cdf",
            strip_prefix = "rules_cc-0.0.9",
            urls = ["https://github.com/bazelbuild/rules_cc/releases/download/0.0.9/rules_cc-0.0.9.tar.gz"],
        )
    else:
        http_archive(
            name = "rules_cc",
            sha256 = "abc605dd850f813bb37004b77db20106a19311a96b2da1c92b789da529d28fe1",
            strip_prefix = "rules_cc-0.0.17",
            urls = ["https://github.com/bazelbuild/rules_cc/releases/download/0.0.17/rules_cc-0.0.17.tar.gz"],
        )
