"""How a room of refine is declared."""

load(":programs.bzl", "INCLUDE_PRECOMPILED", "PRECOMPILED", "QUICK")
load("@rules_cc//cc:defs.bzl", "cc_library")

def refine_library(name, hdrs = None, deps = [], quick = False, **kwargs):
    """A library whose headers are included as <refine/room/header.hpp>.

    Headers, and what of them is no template compiled once, as `srcs` (core/compiled.hpp).

    Inside this repository .bazelrc has the root on the include path, with warnings; used from
    another repository, the headers come as system headers.

    Args:
      name: of the target; the folder's name for the room's main one.
      hdrs: the headers; all of the folder when left out.
      deps: the libraries that the headers include.
      quick: whether its own file is compiled as tests are (programs.bzl): what is slow to run in it is LibTorch.
        In this repository, and not with -c opt.
      **kwargs: as for cc_library.
    """
    kwargs.setdefault("visibility", ["//visibility:public"])
    if native.repository_name().strip("@") and native.package_name():
        up = "/".join([".."] * len(native.package_name().split("/")))
        kwargs.setdefault("includes", [up])
    elif quick and not native.repository_name().strip("@"):
        kwargs["copts"] = QUICK + INCLUDE_PRECOMPILED + kwargs.get("copts", [])
        deps = deps + PRECOMPILED
    if kwargs.get("srcs"):
        # //tests/headers reads them.
        native.exports_files(kwargs["srcs"], visibility = ["//tests/headers:__pkg__"])
    cc_library(
        name = name,
        hdrs = native.glob(["*.hpp"]) if hdrs == None else hdrs,
        deps = deps,
        **kwargs
    )
