"""Lists the public headers of a library, so that a header added to a module is checked.

Private headers, in detail/, are checked through the public ones that include them.
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
