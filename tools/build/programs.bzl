"""Declares tests and programs as a few translation units that compile quickly."""

load("@rules_cc//cc:cc_binary.bzl", "cc_binary")
load("@rules_cc//cc:cc_library.bzl", "cc_library")
load("@rules_cc//cc:cc_test.bzl", "cc_test")

# -O0: the slow code is in LibTorch and in the compiled library.
QUICK = select({
    "//tools/build:optimized": [],
    "//conditions:default": ["-O0"],
})

PRECOMPILED = select({
    "//tools/build:optimized": [],
    "//conditions:default": ["//tools/build:precompiled"],
})

INCLUDE_PRECOMPILED = select({
    "//tools/build:optimized": [],
    "//conditions:default": ["-include", "precompiled.hpp", "-Winvalid-pch"],
})

def _unity_impl(ctx):
    sources = []
    for unit in range(ctx.attr.units):
        source = ctx.actions.declare_file("{}_{}.cpp".format(ctx.label.name, unit))
        ctx.actions.write(source, "".join([
            "#include \"{}\"\n".format(file.path)
            for number, file in enumerate(ctx.files.srcs)
            if number % ctx.attr.units == unit
        ]))
        sources.append(source)
    return [DefaultInfo(files = depset(sources))]

_unity = rule(
    implementation = _unity_impl,
    attrs = {
        "srcs": attr.label_list(allow_files = [".cpp"]),
        "units": attr.int(default = 1),
    },
    doc = "Makes translation units that include `srcs`, distributed in turn.",
)

def _program(rule, name, srcs, deps, copts, units, apart, libtorch, kwargs):
    together = [file for file in srcs if file.endswith(".cpp") and file not in apart]
    others = [file for file in srcs if file not in together]
    if units and len(together) > units:
        _unity(
            name = name + "_unity",
            srcs = together,
            testonly = kwargs.get("testonly", rule == cc_test),
            units = units,
            visibility = ["//visibility:private"],
        )
        cc_library(
            name = name + "_sources",
            testonly = kwargs.get("testonly", rule == cc_test),
            textual_hdrs = together,
            visibility = ["//visibility:private"],
        )
        srcs = [":" + name + "_unity"] + others
        deps = deps + [":" + name + "_sources"]
    copts = QUICK + copts
    if libtorch:
        copts = INCLUDE_PRECOMPILED + copts
        deps = deps + PRECOMPILED
    rule(
        name = name,
        srcs = srcs,
        copts = copts,
        deps = deps,
        **kwargs
    )

def refine_test(name, srcs, deps = [], copts = [], units = 1, apart = [], libtorch = True, **kwargs):
    """A cc_test whose files are compiled together, with other projects' headers precompiled.

    Files that share a translation unit must not have helpers of the same name; list a file in `apart` otherwise.

    Args:
      name: name of the target.
      srcs: .cpp files and headers.
      deps: as for cc_test.
      copts: as for cc_test.
      units: number of translation units; 0 for one for each file.
      apart: files of `srcs` that are compiled by themselves.
      libtorch: True if LibTorch is linked, so that its headers can be precompiled.
      **kwargs: as for cc_test.
    """
    _program(cc_test, name, srcs, deps, copts, units, apart, libtorch, kwargs)

def refine_binary(name, srcs, deps = [], copts = [], units = 1, apart = [], libtorch = True, **kwargs):
    """A cc_binary that is compiled like a refine_test, and has its arguments."""
    _program(cc_binary, name, srcs, deps, copts, units, apart, libtorch, kwargs)

def refine_program_library(name, srcs, deps = [], copts = [], units = 1, apart = [], libtorch = True, **kwargs):
    """Likewise a cc_library: the parts of a program that its tests call, too."""
    _program(cc_library, name, srcs, deps, copts, units, apart, libtorch, kwargs)
