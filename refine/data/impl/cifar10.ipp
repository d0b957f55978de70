#pragma once

#include <refine/data/cifar10.hpp>

#include <ATen/ops/empty.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <sstream>

#include <refine/core/config.hpp>
#include <refine/core/error.hpp>
#include <refine/core/file.hpp>
#include <refine/data/image_folder.hpp>

namespace refine::data::detail::cifar {

inline constexpr std::int64_t pixels = 3 * 32 * 32;
inline constexpr std::int64_t record = 1 + pixels;  // the label, then three planes of 32 rows
inline constexpr std::array training_files = {"data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin",
                                              "data_batch_4.bin", "data_batch_5.bin"};
inline constexpr const char* test_file = "test_batch.bin";

REFINE_INLINE std::vector<std::string> class_names() {
  return {"airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"};
}

REFINE_INLINE Dataset read(const std::filesystem::path& folder, const std::vector<std::string>& files) {
  std::vector<std::string> contents;
  std::int64_t images = 0;
  for (const auto& name : files) {
    const auto path = folder / name;
    const auto& bytes = contents.emplace_back(read_file(path));
    const auto size = static_cast<std::int64_t>(bytes.size());
    if (size == 0 || size % record != 0) {
      throw Error(
          "cannot read {}: truncated or not CIFAR-10 (got {} bytes, not a multiple of {}); fetch it again",
          path.string(), size, record);
    }
    for (std::int64_t begin = 0; begin < size; begin += record) {
      if (const int label = static_cast<unsigned char>(bytes[static_cast<std::size_t>(begin)]); label > 9) {
        throw Error("cannot read {}: bad label of image {} (got {}, expected 0 to 9); fetch it again",
                    path.string(), begin / record, label);
      }
    }
    images += size / record;
  }

  Dataset set{.images = at::empty({images, 3, 32, 32}, at::kByte),
              .labels = at::empty({images}, at::kLong),
              .classes = class_names()};
  auto* to = set.images.mutable_data_ptr<std::uint8_t>();
  auto* label = set.labels.mutable_data_ptr<std::int64_t>();
  for (const auto& bytes : contents) {
    for (std::size_t begin = 0; begin < bytes.size(); begin += record, to += pixels) {
      *label++ = static_cast<unsigned char>(bytes[begin]);
      std::memcpy(to, bytes.data() + begin + 1, pixels);
    }
  }
  return set;
}

REFINE_INLINE bool has_binary(const std::filesystem::path& folder) {
  const auto exists = [&](const char* name) { return file_exists(folder / name); };
  return exists(test_file) || std::any_of(training_files.begin(), training_files.end(), exists);
}

REFINE_INLINE Split read_binary(const std::filesystem::path& folder) {
  Split split{.train = read(folder, {training_files.begin(), training_files.end()}),
              .test = read(folder, {test_file})};
  if (const auto meta = folder / "batches.meta.txt"; file_exists(meta)) {
    std::istringstream words(read_file(meta));
    const std::vector<std::string> names{std::istream_iterator<std::string>(words), {}};
    if (names.size() != 10) {
      throw Error(
          "cannot read {}: wrong number of classes (got {}, expected 10); fetch it again or remove it",
          meta.string(), names.size());
    }
    split.train.classes = split.test.classes = names;
  }
  return split;
}

}  // namespace refine::data::detail::cifar

namespace refine::data {

REFINE_INLINE bool holds_cifar10(const std::filesystem::path& root) {
  return detail::cifar::has_binary(root) || detail::cifar::has_binary(root / "cifar-10-batches-bin") ||
         file_exists(root / "train");
}

REFINE_INLINE Split cifar10(const std::filesystem::path& root) {
  const auto nested = root / "cifar-10-batches-bin";
  const bool in_nested = detail::cifar::has_binary(nested);
  const bool binary = in_nested || detail::cifar::has_binary(root);
  const bool folders = file_exists(root / "train");
  if (binary && folders) {
    throw Error("{}: contains CIFAR-10 both as binary files and as image folders; move one of them elsewhere",
                root.string());
  }
  if (binary) return detail::cifar::read_binary(in_nested ? nested : root);
  if (!folders) {
    throw Error(
        "{}: contains no CIFAR-10 (expected cifar-10-batches-bin, or folders train and test); download it "
        "there, or specify another folder",
        root.string());
  }
  Split split = image_folders(root, {.image = tasks::cifar10.image});
  if (split.train.classes.size() != 10) {
    throw Error(
        "{}: wrong number of class folders (got {}, expected 10); read other images with data::image_folders",
        (root / "train").string(), split.train.classes.size());
  }
  return split;
}

}  // namespace refine::data
