"""@system: the libraries of the system's packages.

The compiler finds their headers by itself, so that a target only says what to link. Only Eigen needs an include path.
"""

_LIBRARIES = {
    "archive": ["-larchive"],
    "benchmark": ["-lbenchmark", "-lpthread"],
    "cli11": [],
    "crypto": ["-lcrypto"],
    "curl": ["-lcurl"],
    "fmt": ["-lfmt"],
    "gtest": ["-lgtest", "-lpthread"],
    "jpeg": ["-ljpeg"],
    "json": [],
    "png": ["-lpng"],
    "range-v3": [],
    "tiff": ["-ltiff"],
    "tomlplusplus": [],
    "webp": ["-lwebp"],
    "zlib": ["-lz"],
}

# These are linked before the library that they need.
_ON_TOP = {
    "benchmark_main": ("benchmark", ["-lbenchmark_main"]),
    "gtest_main": ("gtest", ["-lgtest_main"]),
}

_HEAD = """# Written by tools/build/system.bzl.
load("@rules_cc//cc:cc_library.bzl", "cc_library")

package(default_visibility = ["//visibility:public"])

cc_library(
    name = "eigen",
    hdrs = glob(["eigen3/Eigen/**", "eigen3/unsupported/**"]),
    includes = ["eigen3"],
)
"""

_LIBRARY = """
cc_library(
    name = "{name}",
    linkopts = {linkopts},
    deps = {deps},
)
"""

def _find_header(ctx, header):
    """Returns the header in the first of the compiler's default folders that has it, or None."""
    for folder in ["/usr/include", "/usr/local/include"]:
        path = ctx.path(folder + "/" + header)
        if path.exists:
            return path
    for child in ctx.path("/usr/include").readdir(): # /usr/include/x86_64-linux-gnu
        if "-linux-" in child.basename:
            path = ctx.path(str(child) + "/" + header)
            if path.exists:
                return path
    return None

def _system_impl(ctx):
    missing = []
    for line in ctx.read(Label("//tools/build:apt-packages.txt")).split("\n"):
        words = [word for word in line.split(" ") if word]
        if len(words) != 2 or not words[1].startswith("/usr/include/"):
            continue
        header = words[1][len("/usr/include/"):]
        if header.startswith("*/"):
            header = header[2:]
        if not _find_header(ctx, header):
            missing.append(words[0])
    if missing:
        fail("missing packages: {0}; the build needs their headers; run tools/bazel, or: apt-get install {0}".format(
            " ".join(missing),
        ))

    ctx.symlink(_find_header(ctx, "eigen3/Eigen/Core").dirname.dirname, "eigen3")
    build = _HEAD
    for name, linkopts in _LIBRARIES.items():
        build += _LIBRARY.format(name = name, linkopts = repr(linkopts), deps = "[]")
    for name, (below, linkopts) in _ON_TOP.items():
        build += _LIBRARY.format(name = name, linkopts = repr(linkopts), deps = repr([":" + below]))
    ctx.file("BUILD.bazel", build)

system_repository = repository_rule(
    implementation = _system_impl,
    doc = "Makes @system from the libraries of the system's packages.",
)
