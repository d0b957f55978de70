"""The headers that a library declares, as files: a header added to a room is tested by itself."""

def _impl(ctx):
    headers = ctx.attr.library[CcInfo].compilation_context.direct_public_headers
    return [DefaultInfo(files = depset(headers), runfiles = ctx.runfiles(headers))]

public_headers = rule(
    implementation = _impl,
    attrs = {"library": attr.label(mandatory = True, providers = [CcInfo])},
)
