"""Declares the modules of refine."""

load(":programs.bzl", "INCLUDE_PRECOMPILED", "PRECOMPILED", "QUICK")
load("@rules_cc//cc:cc_library.bzl", "cc_library")
load("@rules_cc//cc/common:cc_info.bzl", "CcInfo")

# Of the library's own files; tests and programs have those of .bazelrc.
_WARNINGS = [
    "-Wshadow",
    "-Wconversion",
]

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
            doc = "The library to link.",
            providers = [CcInfo],
        ),
        "headers": attr.label(
            doc = "The library to include.",
            providers = [CcInfo],
        ),
    },
    provides = [CcInfo],
    doc = "A library that hides its sources from its users, so that a change of them does not recompile the users.",
)

def refine_library(name, srcs = [], hdrs = None, impls = None, textual_hdrs = [], deps = [], quick = False, **kwargs):
    """Declares a module whose headers are included as <refine/module/header.hpp>.

    With `srcs`, the module is compiled (core/config.hpp): users include its headers and link `srcs`, which include
    impl/*.ipp. `<name>_files` has all of its files, for //refine:header_only.

    In this repository, .bazelrc puts the root on the include path, with warnings. For other repositories, the headers
    are system headers.

    Args:
      name: name of the target; the folder's name for the main target of the module.
      srcs: the source that compiles impl/*.ipp, if any.
      hdrs: the headers (default: all of the folder and its detail/).
      impls: the files that srcs include (default: all of impl/).
      textual_hdrs: files that headers include in the middle.
      deps: the libraries that the headers and impl/*.ipp include.
      quick: True to compile the source like a test (programs.bzl), because its slow code is in LibTorch. Only in this
        repository, and not with -c opt.
      **kwargs: as for cc_library.
    """
    kwargs.setdefault("visibility", ["//visibility:public"])
    if hdrs == None:
        hdrs = native.glob(["*.hpp", "detail/*.hpp"], allow_empty = True)
    if impls == None:
        impls = native.glob(["impl/*.ipp"], allow_empty = True)
    sources = impls if srcs else []
    native.filegroup(
        name = name + "_files",
        srcs = hdrs + textual_hdrs + sources,
        visibility = ["//visibility:public"],
    )
    native.filegroup(
        name = name + "_source",
        srcs = srcs,
        visibility = ["//tests:__subpackages__"],
    )
    repository = native.repo_name() if hasattr(native, "repo_name") else native.repository_name().strip("@")
    if repository and native.package_name():
        up = "/".join([".."] * len(native.package_name().split("/")))
        kwargs.setdefault("includes", [up])
    copts = kwargs.pop("copts", [])
    own_deps = []
    if quick and not repository:
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
        copts = _WARNINGS + copts,
        deps = [":" + name + "_headers"] + deps + own_deps,
        **private
    )
    _compiled(
        name = name,
        compiled = ":" + name + "_compiled",
        headers = ":" + name + "_headers",
        visibility = kwargs["visibility"],
    )
