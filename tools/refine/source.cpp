#include "tools/refine/source.hpp"

#include <algorithm>
#include <cctype>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string_view>
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

void FitOptions::add_to(CLI::App& command) {
  command
      .add_option("--fit", fit,
                  "what happens to images of another size: crop, stretch or exact; left out: as the model's "
                  "file says, else crop")
      ->check(CLI::IsMember({"crop", "stretch", "exact"}));
  command
      .add_option("--resize", resize,
                  "the shorter side that every image is resized to before its middle is taken, as "
                  "torchvision's Resize(256) and CenterCrop(224) do; left out: just enough to cover it")
      ->check(CLI::Range(1, 1 << 14));
  command.add_option("--crop", crop, "height and width of that middle; left out: those the model takes")
      ->check(CLI::Range(1, 1 << 14));
}

data::ResizeMode FitOptions::resolved(const nlohmann::ordered_json& stored) const {
  std::string kind = fit;
  int side = resize;
  if (fit.empty() && resize == 0 && crop == 0 && stored.is_object()) {
    const auto known = stored.find("fit");
    const auto shorter = stored.find("resize");
    if (known != stored.end() && known->is_string()) kind = known->get<std::string>();
    if (shorter != stored.end() && shorter->is_number_unsigned()) {
      side = static_cast<int>(std::min<std::uint64_t>(shorter->get<std::uint64_t>(), 1 << 14));
    }
  }
  if ((resize > 0 || crop > 0) && !fit.empty() && fit != "crop") {
    throw Error("--fit {}: --resize and --crop crop images (got both); leave --fit out", fit);
  }
  if (resize > 0 && resize < crop) {
    throw Error("--resize: must be at least --crop (got {} and {})", resize, crop);
  }
  if (kind == "exact") return data::ResizeMode::exact;
  if (kind == "stretch") return data::ResizeMode::stretch;
  return side > 0 ? data::ResizeMode::resize_crop(side) : data::ResizeMode::crop;
}

ImageShape FitOptions::image(const ImageShape& otherwise) const {
  return crop > 0 ? ImageShape{3, crop, crop} : otherwise;
}

void FitOptions::require(const ImageShape& model) const {
  if (crop > 0 && (model.height != crop || model.width != crop)) {
    throw Error("--crop: must be the size that the model takes (got {}, expected {} x {})", crop,
                model.height, model.width);
  }
  if (resize > 0 && resize < std::max(model.height, model.width)) {
    throw Error("--resize: must be at least the size that the model takes (got {}, expected {} or more)",
                resize, std::max(model.height, model.width));
  }
}

nlohmann::ordered_json json_of(const data::ResizeMode& fit) {
  const auto kind = fit.kind;
  nlohmann::ordered_json json = {{"fit", kind == data::ResizeMode::Kind::exact     ? "exact"
                                         : kind == data::ResizeMode::Kind::stretch ? "stretch"
                                                                                   : "crop"}};
  if (fit.shorter_side > 0) json["resize"] = static_cast<unsigned>(fit.shorter_side);
  return json;
}

Source read_dataset(const std::string& name, const fs::path& root, const ImageShape& image,
                    data::ResizeMode fit, data::OnDecodeError on_bad, const fs::path& store) {
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
        place(file_exists("data/FashionMNIST") ? "data/FashionMNIST" : "/usr/share/datasets/fashion-mnist");
    return {name, data::fashion_mnist(folder), normalizations::fashion_mnist};
  }
  if (!file_exists(name)) {
    throw Error(
        "cannot read the data set {}: it is neither CIFAR10 nor FashionMNIST nor a folder; check its path",
        name);
  }
  data::ImageFolderOptions options{.image = image, .fit = fit, .on_bad = on_bad, .store = store};
  if (fit != data::ResizeMode::exact && !image.is_static()) {
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

namespace {

/// True for a file that is an image by its name, of a format that is not read.
bool is_unread_image(const fs::path& file) {
  std::string extension = file.extension().string();
  for (char& c : extension) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  constexpr std::string_view known[] = {".gif", ".heic", ".heif", ".avif", ".jp2", ".j2k", ".jxl",
                                        ".tga", ".psd",  ".dng",  ".raw",  ".exr", ".hdr", ".npy"};
  return std::ranges::find(known, extension) != std::end(known);
}

}  // namespace

Images read_images(const fs::path& path, const ImageShape& shape, data::ResizeMode fit, std::int64_t most,
                   std::uint64_t seed, const fs::path& store) {
  std::vector<fs::path> passed_over;
  const std::vector<fs::path> files = data::image_files(path, &passed_over);
  data::warn_ignored(passed_over);
  const auto folder = [&](const fs::path& file) {
    return file.lexically_relative(path).parent_path().string();
  };
  auto loaded = data::load_images(files, {.image = shape,
                                          .fit = fit,
                                          .on_bad = data::OnDecodeError::skip,
                                          .store = store,
                                          .most = most,
                                          .seed = seed});
  warn_skipped(loaded.skipped);
  Images images{
      .images = std::move(loaded.images), .files = std::move(loaded.files), .skipped = loaded.skipped.size()};
  for (const fs::path& file : images.files) images.folders.push_back(folder(file));
  for (const fs::path& file : files) images.all_folders.insert(folder(file));
  for (const fs::path& file : passed_over) {  // a class of images that are not read is a class
    if (!folder(file).empty() && is_unread_image(file)) images.all_folders.insert(folder(file));
  }
  return images;
}

}  // namespace refine::cli
