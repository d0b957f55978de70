#pragma once

#include <refine/data/fashion_mnist.hpp>

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <fmt/ranges.h>
#include <zlib.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <memory>
#include <system_error>
#include <vector>

#include <refine/core/config.hpp>
#include <refine/core/file.hpp>

namespace refine::data {

REFINE_INLINE at::Tensor read_idx(const std::filesystem::path& path) {
  errno = 0;
  const std::unique_ptr<gzFile_s, int (*)(gzFile)> file(gzopen(path.c_str(), "rb"), &gzclose);
  if (!file) {
    throw Error("cannot read {}: {}; check the path and its permissions", path.string(),
                std::generic_category().message(errno ? errno : ENOMEM));
  }

  const auto read = [&](std::uint8_t* to, std::int64_t n) {
    std::int64_t got = 0;
    while (got < n) {
      const int step =
          gzread(file.get(), to + got, static_cast<unsigned>(std::min<std::int64_t>(n - got, 1 << 24)));
      if (step <= 0) break;
      got += step;
    }
    int code = Z_OK;
    const char* reason = gzerror(file.get(), &code);
    if (code == Z_BUF_ERROR) reason = "the compressed data ends too early";
    if (code == Z_ERRNO) reason = "the system cannot read it";
    if (code != Z_OK && code != Z_STREAM_END) {
      throw Error("cannot read {}: {}; fetch it again", path.string(), reason);
    }
    return got;
  };
  const auto check = [&](bool valid, const char* problem) {
    if (!valid) throw Error("cannot read {}: {}; fetch it again", path.string(), problem);
  };

  std::uint8_t magic[4] = {};
  check(read(magic, 4) == 4, "it is too short for an IDX header");
  check(magic[0] == 0 && magic[1] == 0 && magic[2] == 8 && magic[3] >= 1 && magic[3] <= 4,
        "its header is not that of an IDX file of bytes");
  constexpr std::int64_t max_bytes = std::int64_t{1} << 32;  // a forged header must not claim all memory
  std::vector<std::int64_t> extents;
  std::int64_t bytes = 1;
  for (int i = 0; i < magic[3]; ++i) {
    std::uint8_t e[4] = {};
    check(read(e, 4) == 4, "it is too short for its IDX header");
    const std::int64_t extent = std::int64_t{e[0]} << 24 | e[1] << 16 | e[2] << 8 | e[3];
    check(extent == 0 || bytes <= max_bytes / extent, "its IDX header claims more than 4 GiB");
    bytes *= extent;
    extents.push_back(extent);
  }

  auto tensor = at::empty(extents, at::kByte);
  check(read(tensor.mutable_data_ptr<std::uint8_t>(), bytes) == bytes,
        "it is shorter than its IDX header requires");
  std::uint8_t beyond = 0;  // reading it also makes zlib verify its checksum
  check(read(&beyond, 1) == 0, "it is longer than its IDX header requires");
  return tensor;
}

}  // namespace refine::data

namespace refine::data::detail::fashion {

REFINE_INLINE std::filesystem::path plain_or_gzipped(const std::filesystem::path& root,
                                                     const std::string& name) {
  const auto plain = root / name, gzipped = root / (name + ".gz");
  if (file_exists(plain)) return plain;
  if (file_exists(gzipped)) return gzipped;
  throw Error(
      "{}: contains no Fashion-MNIST (expected {} or {}.gz); install Debian's dataset-fashion-mnist, or "
      "specify another folder",
      root.string(), name, name);
}

REFINE_INLINE Dataset read(const std::filesystem::path& root, const std::string& part) {
  const auto images_file = plain_or_gzipped(root, part + "-images-idx3-ubyte");
  const auto labels_file = plain_or_gzipped(root, part + "-labels-idx1-ubyte");
  const at::Tensor grey = read_idx(images_file), labels = read_idx(labels_file);
  if (grey.dim() != 3 || grey.size(1) != 28 || grey.size(2) != 28) {
    throw Error("cannot read {}: wrong extents (got {}, expected N×28×28); fetch it again",
                images_file.string(), fmt::join(grey.sizes(), "×"));
  }
  if (labels.dim() != 1 || labels.size(0) != grey.size(0)) {
    throw Error("cannot read {}: must have one label for each of the {} images, got {}; fetch it again",
                labels_file.string(), grey.size(0), labels.numel());
  }
  if (labels.numel() > 0 && labels.max().item<int>() > 9) {
    throw Error("cannot read {}: bad label (got {}, expected 0 to 9); fetch it again", labels_file.string(),
                labels.max().item<int>());
  }
  Dataset set{.images = at::zeros({grey.size(0), 3, 32, 32}, at::kByte),
              .labels = labels.to(at::kLong),
              .classes = {"T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker",
                          "Bag", "Ankle boot"}};
  set.images.narrow(2, 2, 28).narrow(3, 2, 28).copy_(grey.unsqueeze(1));  // the same grey in each channel
  return set;
}

}  // namespace refine::data::detail::fashion

namespace refine::data {

REFINE_INLINE Split fashion_mnist(const std::filesystem::path& root) {
  return {.train = detail::fashion::read(root, "train"), .test = detail::fashion::read(root, "t10k")};
}

}  // namespace refine::data
