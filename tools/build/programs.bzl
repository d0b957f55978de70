"""How tests and programs are declared: as few, quickly compiled translation units."""

load("@rules_cc//cc:defs.bzl", "cc_binary", "cc_library", "cc_test")

# -O0: what is slow to run is in LibTorch and in the compiled library.
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
    doc = "Translation units that include `srcs`, dealt out in turns.",
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

    Files share a translation unit: their helpers must not have the same name, or a file has to be `apart`.

    Args:
      name: of the target.
      srcs: .cpp files and headers.
      deps: as for cc_test.
      copts: as for cc_test.
      units: the number of translation units; 0 for one a file.
      apart: those of `srcs` that are compiled by themselves.
      libtorch: whether LibTorch is linked, so that its headers may be precompiled.
      **kwargs: as for cc_test.
    """
    _program(cc_test, name, srcs, deps, copts, units, apart, libtorch, kwargs)

def refine_binary(name, srcs, deps = [], copts = [], units = 1, apart = [], libtorch = True, **kwargs):
    """A cc_binary in the manner of refine_test.

    Args:
      name: of the target.
      srcs: .cpp files and headers.
      deps: as for cc_binary.
      copts: as for cc_binary.
      units: the number of translation units; 0 for one a file.
      apart: those of `srcs` that are compiled by themselves.
      libtorch: whether LibTorch is linked, so that its headers may be precompiled.
      **kwargs: as for cc_binary.
    """
    _program(cc_binary, name, srcs, deps, copts, units, apart, libtorch, kwargs)
