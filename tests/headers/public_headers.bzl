"""The headers that a library declares, as files: a header added to a room is tested by itself."""

def _impl(ctx):
    return [DefaultInfo(files = depset(ctx.attr.library[CcInfo].compilation_context.direct_public_headers))]

public_headers = rule(
    implementation = _impl,
    attrs = {"library": attr.label(mandatory = True, providers = [CcInfo])},
)
