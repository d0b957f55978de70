#pragma once

#include <refine/defend/named_dataset.hpp>

#include <refine/core/config.hpp>
#include <refine/core/error.hpp>
#include <refine/core/file.hpp>
#include <refine/data/cifar10.hpp>
#include <refine/data/fashion_mnist.hpp>
#include <refine/data/image_folder.hpp>

namespace refine {

REFINE_INLINE NamedDataset read_dataset(const std::string& name, const NamedDatasetOptions& options) {
  if (!options.store.empty() && (name == "CIFAR10" || name == "FashionMNIST")) {
    throw Error("cannot keep {} in a store: only the images of a folder are kept; leave --store out", name);
  }
  const auto root_or = [&](const char* other) {
    return options.root.empty() ? std::filesystem::path(other) : options.root;
  };
  if (name == "CIFAR10") {
    const std::filesystem::path folder = root_or("data/CIFAR10");
    if (options.root.empty() && options.download && !data::holds_cifar10(folder)) options.download(folder);
    return {name, data::cifar10(folder), normalizations::cifar10};
  }
  if (name == "FashionMNIST") {
    const std::filesystem::path folder =
        root_or(file_exists("data/FashionMNIST") ? "data/FashionMNIST" : "/usr/share/datasets/fashion-mnist");
    return {name, data::fashion_mnist(folder), normalizations::fashion_mnist};
  }
  if (!file_exists(name)) {
    throw Error(
        "cannot read the data set {}: it is neither CIFAR10 nor FashionMNIST nor a folder; check the path",
        name);
  }
  data::ImageFolderOptions folder{
      .image = options.image, .fit = options.resize, .on_error = options.on_error, .store = options.store};
  if (options.resize != data::ResizeMode::exact && !options.image.is_static()) {
    const ImageShape common = data::common_shape(data::image_files(std::filesystem::path(name) / "train"));
    if (!common.is_static()) {
      throw Error(
          "cannot read the data set {}: its images have several sizes; specify --image, the size they become",
          name);
    }
    folder.image = merged(options.image, common);
  }
  return {dataset_name(name), data::image_folders(name, folder), std::nullopt};
}

REFINE_INLINE std::string dataset_name(const std::string& name) {
  if (name == "CIFAR10" || name == "FashionMNIST") return name;
  const std::filesystem::path folder = std::filesystem::path(name).lexically_normal();
  return (folder.has_filename() ? folder : folder.parent_path()).filename().string();
}

}  // namespace refine
