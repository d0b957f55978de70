"""How a module of refine is declared."""

load(":programs.bzl", "INCLUDE_PRECOMPILED", "PRECOMPILED", "QUICK")
load("@rules_cc//cc:defs.bzl", "cc_library")

def _compiled_impl(ctx):
    headers = ctx.attr.headers[CcInfo]
    return [
        DefaultInfo(files = ctx.attr.compiled[DefaultInfo].files),
        CcInfo(
            compilation_context = headers.compilation_context,
            linking_context = ctx.attr.compiled[CcInfo].linking_context,
        ),
    ]

_compiled = rule(
    implementation = _compiled_impl,
    attrs = {
        "compiled": attr.label(
            doc = "What is linked.",
            providers = [CcInfo],
        ),
        "headers": attr.label(
            doc = "What is included.",
            providers = [CcInfo],
        ),
    },
    provides = [CcInfo],
    doc = "A library whose users do not see the files that it is compiled from, and are not compiled anew for them.",
)

def refine_library(name, srcs = [], hdrs = None, textual_hdrs = [], deps = [], quick = False, **kwargs):
    """A module whose headers are included as <refine/module/header.hpp>.

    With `srcs` it is compiled (core/config.hpp): users see its headers, and link what `srcs` make of
    impl/*.ipp. `<name>_files` has all of its files, for //refine:header_only.

    Inside this repository .bazelrc has the root on the include path, with warnings; used from
    another repository, the headers come as system headers.

    Args:
      name: of the target; the folder's name for the module's main one.
      srcs: the file that compiles impl/*.ipp, if any.
      hdrs: the headers; all of the folder and its detail/ when left out.
      textual_hdrs: files that headers include in the middle.
      deps: the libraries that the headers, or impl/*.ipp, include.
      quick: whether its own file is compiled as tests are (programs.bzl): what is slow to run in it is LibTorch.
        In this repository, and not with -c opt.
      **kwargs: as for cc_library.
    """
    kwargs.setdefault("visibility", ["//visibility:public"])
    if hdrs == None:
        hdrs = native.glob(["*.hpp", "detail/*.hpp"])
    sources = native.glob(["impl/*.ipp"]) if srcs else []
    native.filegroup(
        name = name + "_files",
        srcs = hdrs + textual_hdrs + sources,
        visibility = ["//visibility:public"],
    )
    if native.repository_name().strip("@") and native.package_name():
        up = "/".join([".."] * len(native.package_name().split("/")))
        kwargs.setdefault("includes", [up])
    copts = kwargs.pop("copts", [])
    own_deps = []
    if quick and not native.repository_name().strip("@"):
        copts = QUICK + INCLUDE_PRECOMPILED + copts
        own_deps = PRECOMPILED
    if not srcs:
        cc_library(
            name = name,
            hdrs = hdrs,
            textual_hdrs = textual_hdrs,
            copts = copts,
            deps = deps,
            **kwargs
        )
        return

    # //tests/headers reads them.
    native.exports_files(srcs, visibility = ["//tests/headers:__pkg__"])
    private = dict(kwargs, visibility = ["//visibility:private"])
    cc_library(
        name = name + "_headers",
        hdrs = hdrs,
        textual_hdrs = textual_hdrs,
        deps = deps,
        **private
    )
    cc_library(
        name = name + "_compiled",
        srcs = srcs,
        textual_hdrs = sources,
        copts = copts,
        deps = [":" + name + "_headers"] + deps + own_deps,
        **private
    )
    _compiled(
        name = name,
        compiled = ":" + name + "_compiled",
        headers = ":" + name + "_headers",
        visibility = kwargs["visibility"],
    )
