"""Lists all headers of a library, so that a header added to a module is checked.

Private headers, in detail/, are checked as well: an implementation may include one that no public header includes.
"""

load("@rules_cc//cc/common:cc_info.bzl", "CcInfo")

def _impl(ctx):
    return [DefaultInfo(files = depset(ctx.attr.library[CcInfo].compilation_context.direct_public_headers))]

library_headers = rule(
    implementation = _impl,
    attrs = {"library": attr.label(mandatory = True, providers = [CcInfo])},
)
