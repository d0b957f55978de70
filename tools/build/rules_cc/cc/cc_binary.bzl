"""cc_binary, under rules_cc's name."""

load(":defs.bzl", _cc_binary = "cc_binary")

cc_binary = _cc_binary
