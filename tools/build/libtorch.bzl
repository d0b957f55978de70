"""@libtorch: the LibTorch of this machine."""

# In this order: the folder that tools/bazel found, the user's LIBTORCH, the one that tools/bazel
# installed in the user's cache folder, the torch of python3.
def _candidates(ctx):
    for variable in ["REFINE_LIBTORCH", "LIBTORCH"]:
        folder = ctx.os.environ.get(variable, "")
        if folder:
            return [ctx.path(folder)]
    found = []
    home = ctx.os.environ.get("HOME", "")
    cache = ctx.os.environ.get("XDG_CACHE_HOME", home + "/.cache" if home else "")
    if cache:
        pin = ctx.read(Label("//tools/build:requirements.txt")).strip()
        venv_lib = ctx.path(cache + "/refine/" + pin.replace("==", "-") + "/lib")
        if venv_lib.exists:
            for python in venv_lib.readdir():
                found.append(python.get_child("site-packages").get_child("torch"))
    python3 = ctx.which("python3")
    if python3:
        result = ctx.execute([python3, "-c", "\n".join([
            "import importlib.util as u",
            "s = u.find_spec('torch')",
            "print(s.submodule_search_locations[0] if s else '')",
        ])])
        if result.return_code == 0 and result.stdout.strip():
            found.append(ctx.path(result.stdout.strip()))
    return found

# The include folder of a CUDA toolkit, or None.
def _cuda_headers(ctx):
    roots = []
    if ctx.os.environ.get("CUDA_HOME", ""):
        roots.append(ctx.os.environ["CUDA_HOME"])
    nvcc = ctx.which("nvcc")
    if nvcc:
        roots.append(str(nvcc.dirname.dirname))
    for root in roots + ["/usr/local/cuda"]:
        folder = ctx.path(root).get_child("include")
        if folder.get_child("cuda_runtime_api.h").exists and folder.get_child("crt").exists:
            return folder
    return None

_BUILD = """# Written by tools/build/libtorch.bzl.
load("@rules_cc//cc:cc_library.bzl", "cc_library")

cc_library(
    name = "libtorch",
    hdrs = glob(
        [
            "cuda/**/*.h",
            "cuda/**/*.hpp",
            "include/**/*.h",
            "include/**/*.hpp",
            "include/**/*.inc",
            "include/**/*.cuh",
        ],
        exclude = [
            "include/ATen/native/mps/**",
            "include/tensorpipe/**",
            "include/google/**",
            "include/pybind11/**",
        ],
        allow_empty = True,  # without CUDA
    ),
    defines = {defines},
    includes = {includes},
    linkopts = {linkopts},
    visibility = ["//visibility:public"],
)

# A file by which programs find the folder of LibTorch.
filegroup(
    name = "location",
    srcs = ["include/ATen/ATen.h"],
    visibility = ["//visibility:public"],
)
"""

def _libtorch_impl(ctx):
    if not ctx.os.name.startswith("linux"):
        fail("the system is not supported (got {}, expected Linux); use a container or a virtual machine".format(ctx.os.name))
    torch = None
    for candidate in _candidates(ctx):
        if candidate.get_child("lib").get_child("libtorch.so").exists:
            torch = candidate
            break
    if not torch:
        fail("LibTorch is missing (not in LIBTORCH, the cache folder or python3); " +
             "run tools/bazel, or set LIBTORCH to an unpacked LibTorch 2.4 or newer")

    # Folder by folder, without LibTorch's own fmt, which would hide the system's.
    for child in torch.get_child("include").readdir():
        if child.basename != "fmt":
            ctx.symlink(child, "include/" + child.basename)

    # The libraries stay where they are, because they find each other and CUDA's by their own path
    # at run time.
    lib = torch.get_child("lib")
    libraries = ["torch", "torch_cpu", "c10"]
    for name in ["torch_cuda", "c10_cuda"]:
        if lib.get_child("lib" + name + ".so").exists:
            libraries.append(name)
    linkopts = ["-L" + str(lib), "-Wl,-rpath," + str(lib), "-Wl,--no-as-needed", "-Wl,--allow-shlib-undefined"]
    linkopts += ["-l" + name for name in libraries]
    linkopts += ["-lpthread", "-ldl"]
    # With CUDA's headers, the training loop can record and replay its steps
    # (refine/nn/cuda_graph.hpp).
    defines = []
    includes = ["include", "include/torch/csrc/api/include"]
    cuda = _cuda_headers(ctx)
    if cuda and "torch_cuda" in libraries:
        defines.append("REFINE_CUDA_GRAPHS")
        if str(cuda) != "/usr/include":  # compilers find a distribution's headers by themselves
            ctx.symlink(cuda, "cuda")
            includes.append("cuda")
    ctx.file("BUILD.bazel", _BUILD.format(
        defines = repr(defines),
        includes = repr(includes),
        linkopts = repr(linkopts),
    ))

libtorch_repository = repository_rule(
    implementation = _libtorch_impl,
    environ = ["REFINE_LIBTORCH", "LIBTORCH", "CUDA_HOME", "HOME", "XDG_CACHE_HOME"],
    local = False,
    doc = "Makes @libtorch//:libtorch from the LibTorch of this machine.",
)
