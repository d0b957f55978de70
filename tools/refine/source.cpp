#include "tools/refine/source.hpp"

#include <ATen/ops/tensor.h>

#include <algorithm>
#include <cctype>
#include <set>
#include <utility>

#include <refine/data/cifar10.hpp>
#include <refine/data/download.hpp>
#include <refine/data/fashion_mnist.hpp>
#include <refine/data/image_files.hpp>
#include <refine/data/image_folder.hpp>

namespace refine::cli {

namespace fs = std::filesystem;

std::string dataset_name(const std::string& name) {
  if (name == "CIFAR10" || name == "FashionMNIST") return name;
  const fs::path folder = fs::path(name).lexically_normal();
  return (folder.has_filename() ? folder : folder.parent_path()).filename().string();
}

fs::path result_folder(const std::string& root, const std::string& dataset, const std::string& model,
                       const std::string& attack) {
  return fs::path(root) / dataset_name(dataset) / model / attack;
}

data::Fit parse_fit(const std::string& name) {
  return name == "exact" ? data::Fit::exact : name == "stretch" ? data::Fit::stretch : data::Fit::crop;
}

Source read_dataset(const std::string& name, const fs::path& root, const ImageShape& image, data::Fit fit,
                    data::OnBad on_bad, const fs::path& store) {
  if (!store.empty() && (name == "CIFAR10" || name == "FashionMNIST")) {
    throw Error("cannot keep {} in a store: only the images of a folder are; leave --store out", name);
  }
  const auto place = [&](const char* otherwise) { return root.empty() ? fs::path(otherwise) : root; };
  if (name == "CIFAR10") {
    const fs::path folder = place("data/CIFAR10");
    if (root.empty() && !data::holds_cifar10(folder)) data::download_cifar10(folder);
    return {name, data::cifar10(folder), normalizations::cifar10};
  }
  if (name == "FashionMNIST") {
    const fs::path folder =
        place(is_there("data/FashionMNIST") ? "data/FashionMNIST" : "/usr/share/datasets/fashion-mnist");
    return {name, data::fashion_mnist(folder), normalizations::fashion_mnist};
  }
  if (!is_there(name)) {
    throw Error(
        "cannot read the data set {}: it is neither CIFAR10 nor FashionMNIST nor a folder; check its path",
        name);
  }
  data::ImageFolderOptions options{.image = image, .fit = fit, .on_bad = on_bad, .store = store};
  if (fit != data::Fit::exact && !image.is_static()) {
    const ImageShape common = data::common_shape(data::image_files(fs::path(name) / "train"));
    if (!common.is_static()) {
      throw Error(
          "cannot read the data set {}: its images have several sizes; say --image, the size they become",
          name);
    }
    options.image = merged(image, common);
  }
  return {dataset_name(name), data::image_folders(name, options), std::nullopt};
}

Images read_images(const fs::path& path, const ImageShape& shape, data::Fit fit, std::int64_t most,
                   std::uint64_t seed, const fs::path& store) {
  const std::vector<fs::path> files = data::image_files(path);
  const auto folder = [&](const fs::path& file) {
    return file.lexically_relative(path).parent_path().string();
  };
  auto loaded = data::load_images(
      files,
      {.image = shape, .fit = fit, .on_bad = data::OnBad::skip, .store = store, .most = most, .seed = seed});
  tell_left_out(loaded.skipped);
  Images images{.images = std::move(loaded.images),
                .files = std::move(loaded.files),
                .left_out = loaded.skipped.size()};
  for (const fs::path& file : images.files) images.folders.push_back(folder(file));
  for (const fs::path& file : files) images.all_folders.insert(folder(file));
  return images;
}

std::optional<data::Dataset> labelled(const Images& images, const std::vector<std::string>& names,
                                      int classes) {
  const std::set<std::string>& folders = images.all_folders;
  if (folders.size() < 2 || folders.contains("") || folders.contains(".")) return std::nullopt;
  std::vector<std::string> order = names;
  if (order.empty()) {
    order.assign(folders.begin(), folders.end());
    if (order.size() != static_cast<std::size_t>(classes)) {
      throw Error(
          "cannot tell the classes: there are {} class folders, the model predicts {} classes; say "
          "--class_names, a "
          "file with the model's classes in its order",
          order.size(), classes);
    }
  }
  std::vector<std::int64_t> labels;
  for (const std::string& folder : images.folders) {
    const auto at = std::ranges::find(order, folder);
    if (at == order.end()) {
      throw Error(
          "cannot tell the classes: no class of the model is called '{}'; rename the folder, or say "
          "--class_names",
          folder);
    }
    labels.push_back(at - order.begin());
  }
  return data::Dataset{.images = images.images, .labels = at::tensor(labels), .classes = std::move(order)};
}

}  // namespace refine::cli
