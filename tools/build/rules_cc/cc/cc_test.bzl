"""cc_test, under rules_cc's name."""

load(":defs.bzl", _cc_test = "cc_test")

cc_test = _cc_test
