"""What is built into Bazel 4 to 6, under other names: a file cannot define a name that it has used."""

native_cc_common = cc_common
native_cc_info = CcInfo
