"""The public headers that a library declares, as files: a header added to a module is checked by itself.

Private ones, in detail/, are reached through them.
"""

def _impl(ctx):
    headers = ctx.attr.library[CcInfo].compilation_context.direct_public_headers
    return [DefaultInfo(files = depset([
        header
        for header in headers
        if "/detail/" not in header.short_path
    ]))]

public_headers = rule(
    implementation = _impl,
    attrs = {"library": attr.label(mandatory = True, providers = [CcInfo])},
)
