"""The modules of refine: the folders of refine/, each with a library of the same name."""

MODULES = [
    "adversaries",
    "attacks",
    "backbones",
    "baselines",
    "core",
    "data",
    "defend",
    "distributed",
    "evaluation",
    "export",
    "formats",
    "metrics",
    "nn",
    "objectives",
    "pipeline",
    "programs",
    "remaps",
    "report",
    "training",
    "transforms",
    "triggers",
    "winograd",
]

# The headers and impl/*.ipp of all libraries, for tests that read them.
LIBRARY_FILES = [
    "//refine:refine_files",
    "//refine/core:sha256_files",
    "//refine/data:download_files",
] + [
    "//refine/{0}:{0}_files".format(module)
    for module in MODULES
]
