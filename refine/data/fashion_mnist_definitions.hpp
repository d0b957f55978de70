#pragma once

// What fashion_mnist.hpp declares.

#include <refine/data/fashion_mnist.hpp>

#include <ATen/ops/zeros.h>

#include <filesystem>
#include <string>

#include <refine/core/compiled.hpp>
#include <refine/core/error.hpp>
#include <refine/core/file_bytes.hpp>
#include <refine/data/idx.hpp>

namespace refine::data::detail::fashion {

REFINE_DEFINITION std::filesystem::path plain_or_gzipped(const std::filesystem::path& root,
                                                         const std::string& name) {
  const auto plain = root / name, gzipped = root / (name + ".gz");
  if (is_there(plain)) return plain;
  if (is_there(gzipped)) return gzipped;
  throw Error(
      "cannot read Fashion-MNIST: neither {} nor {}.gz is in {}; install Debian's dataset-fashion-mnist, or "
      "name the folder that has it",
      name, name, root.string());
}

REFINE_DEFINITION Dataset read(const std::filesystem::path& root, const std::string& part) {
  const auto images_file = plain_or_gzipped(root, part + "-images-idx3-ubyte");
  const auto labels_file = plain_or_gzipped(root, part + "-labels-idx1-ubyte");
  const at::Tensor grey = idx(images_file), labels = idx(labels_file);
  if (grey.dim() != 3 || grey.size(1) != 28 || grey.size(2) != 28) {
    throw Error("cannot read {}: its images are not 28 x 28; fetch it again", images_file.string());
  }
  if (labels.dim() != 1 || labels.size(0) != grey.size(0)) {
    throw Error("cannot read {}: it has no single label for each of the {} images; fetch it again",
                labels_file.string(), grey.size(0));
  }
  if (labels.numel() > 0 && labels.max().item<int>() > 9) {
    throw Error("cannot read {}: a label is {}, but labels are 0 to 9; fetch it again", labels_file.string(),
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

REFINE_DEFINITION Split fashion_mnist(const std::filesystem::path& root) {
  return {.train = detail::fashion::read(root, "train"), .test = detail::fashion::read(root, "t10k")};
}

}  // namespace refine::data
