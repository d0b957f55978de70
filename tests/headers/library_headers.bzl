"""Lists the headers of a library, so that a header added to a module is checked."""

load("@rules_cc//cc/common:cc_info.bzl", "CcInfo")

def _impl(ctx):
    return [DefaultInfo(files = depset([
        header
        for header in ctx.attr.library[CcInfo].compilation_context.direct_public_headers
        if ctx.attr.private or "/detail/" not in header.path
    ]))]

library_headers = rule(
    implementation = _impl,
    attrs = {
        "library": attr.label(mandatory = True, providers = [CcInfo]),
        "private": attr.bool(
            doc = "Also those in detail/. An implementation may include one that no public header includes.",
        ),
    },
)
