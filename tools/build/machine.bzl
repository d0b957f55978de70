"""@libtorch and @system, for MODULE.bazel."""

load(":libtorch.bzl", "libtorch_repository")
load(":system.bzl", "system_repository")

def _machine_impl(_ctx):
    libtorch_repository(name = "libtorch")
    system_repository(name = "system")

machine = module_extension(
    implementation = _machine_impl,
    doc = "Makes @libtorch and @system from the libraries of this machine.",
)
