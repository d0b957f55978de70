"""The headers that a library declares, as files: a header added to a room is tested by itself.

Default are those that are to be compiled alone: x_definitions.hpp stands for x.hpp too, which it
includes before all else (definitions_test.cpp). The output group `all` has both.
"""

def _impl(ctx):
    headers = ctx.attr.library[CcInfo].compilation_context.direct_public_headers
    names = {header.short_path: True for header in headers}
    alone = [
        header
        for header in headers
        if header.short_path[:-len(".hpp")] + "_definitions.hpp" not in names
    ]
    return [
        DefaultInfo(files = depset(alone)),
        OutputGroupInfo(all = depset(headers)),
    ]

public_headers = rule(
    implementation = _impl,
    attrs = {"library": attr.label(mandatory = True, providers = [CcInfo])},
)
