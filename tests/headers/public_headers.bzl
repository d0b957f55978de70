"""The headers that a library declares, as files: a header added to a room is tested by itself.

What the headers leave to …_definitions.hpp is compiled with the room already.
"""

def _impl(ctx):
    headers = ctx.attr.library[CcInfo].compilation_context.direct_public_headers
    return [DefaultInfo(files = depset([
        header
        for header in headers
        if not header.basename.endswith("_definitions.hpp")
    ]))]

public_headers = rule(
    implementation = _impl,
    attrs = {"library": attr.label(mandatory = True, providers = [CcInfo])},
)
