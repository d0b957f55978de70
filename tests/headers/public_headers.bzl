"""The headers that a library declares, as files: a header added to a room is tested by itself.

What the headers leave to …_definitions.hpp is the output group `definitions`: a header that is
compiled alone ends by including it.
"""

def _is_definitions(header):
    return header.basename.endswith("_definitions.hpp")

def _impl(ctx):
    headers = ctx.attr.library[CcInfo].compilation_context.direct_public_headers
    alone = [header for header in headers if not _is_definitions(header)]
    return [
        DefaultInfo(files = depset(alone), runfiles = ctx.runfiles(alone)),
        OutputGroupInfo(definitions = depset([header for header in headers if _is_definitions(header)])),
    ]

public_headers = rule(
    implementation = _impl,
    attrs = {"library": attr.label(mandatory = True, providers = [CcInfo])},
)
