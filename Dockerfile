# refine in a container, from a clone of the repository:
#
#   docker build -t refine .
#   docker run --rm -v "$PWD":/work refine defend --model untrusted.pt --images clean/ --out defended.pt
#   docker build --target test .   # the README's example and all tests
FROM debian:13-slim AS build
COPY . /refine
WORKDIR /refine
RUN tools/bazel build -c opt //tools:refine

FROM build AS test
RUN tools/bazel run //examples:cifar10_badnets -- --budget tiny --data /usr/share/datasets/fashion-mnist
RUN tools/bazel test //...

FROM build AS package
RUN apt-get install -y --no-install-recommends patchelf binutils
RUN tools/package tarball dist && mkdir /opt/refine && tar -C /opt/refine --strip-components=1 -xzf dist/refine-*.tar.gz

FROM debian:13-slim
COPY --from=package /opt/refine /opt/refine
ENV PATH=/opt/refine:$PATH
WORKDIR /work
ENTRYPOINT ["/opt/refine/refine"]
