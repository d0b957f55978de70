#pragma once

#include <refine/data/sources.hpp>

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <fmt/ranges.h>
#include <unistd.h>
#include <zlib.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <numbers>
#include <sstream>
#include <string>
#include <system_error>
#include <vector>

#include <refine/core/config.hpp>
#include <refine/core/error.hpp>
#include <refine/core/file.hpp>
#include <refine/core/text.hpp>
#include <refine/data/image_folder.hpp>

namespace refine::data::detail::cifar {

inline constexpr std::int64_t pixels = 3 * 32 * 32;
inline constexpr std::int64_t record = 1 + pixels;  // the label, then three planes of 32 rows
inline constexpr std::array training_files = {"data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin",
                                              "data_batch_4.bin", "data_batch_5.bin"};
inline constexpr std::uintmax_t max_batch_bytes = 10'000 * record, max_meta_bytes = 1 << 16;
inline constexpr const char* test_file = "test_batch.bin";

inline std::vector<std::string> class_names() {
  return {"airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"};
}

REFINE_INLINE Dataset read(const std::filesystem::path& folder, const std::vector<std::string>& files) {
  std::vector<std::string> contents;
  std::int64_t images = 0;
  for (const auto& name : files) {
    const auto path = folder / name;
    const auto& bytes = contents.emplace_back(files::read(path, max_batch_bytes));
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
  const auto exists = [&](const char* name) { return files::exists(folder / name); };
  return exists(test_file) || std::any_of(training_files.begin(), training_files.end(), exists);
}

REFINE_INLINE Split read_binary(const std::filesystem::path& folder) {
  Split split{.train = read(folder, {training_files.begin(), training_files.end()}),
              .test = read(folder, {test_file})};
  if (const auto meta = folder / "batches.meta.txt"; files::exists(meta)) {
    const std::string text = files::read(meta, max_meta_bytes);
    if (const std::size_t bad = text::find_invalid_utf8(text); bad != std::string::npos) {
      throw Error(
          "cannot read {}: line {} is not UTF-8 (got the byte 0x{:02x}); save it as UTF-8 or remove it",
          meta.string(), 1 + std::count(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(bad), '\n'),
          static_cast<unsigned char>(text[bad]));
    }
    std::istringstream words(text);
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
         files::exists(root / "train");
}

REFINE_INLINE Split cifar10(const std::filesystem::path& root) {
  const auto nested = root / "cifar-10-batches-bin";
  const bool in_nested = detail::cifar::has_binary(nested);
  const bool binary = in_nested || detail::cifar::has_binary(root);
  const bool folders = files::exists(root / "train");
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

REFINE_INLINE at::Tensor read_idx(const std::filesystem::path& path) {
  std::uint64_t file_bytes = 0;
  const int descriptor = refine::detail::open_regular_file(path, file_bytes);
  errno = 0;
  const std::unique_ptr<gzFile_s, int (*)(gzFile)> file(gzdopen(descriptor, "rb"), &gzclose);
  if (!file) {
    const int reason = errno ? errno : ENOMEM;
    ::close(descriptor);
    refine::detail::fail_to_read(path, reason);
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
  const auto check = [&](bool valid, std::string_view problem) {
    if (!valid) throw Error("cannot read {}: {}; fetch it again", path.string(), problem);
  };

  std::uint8_t magic[4] = {};
  check(read(magic, 4) == 4, "it is too short for an IDX header");
  check(magic[0] == 0 && magic[1] == 0 && magic[2] == 8 && magic[3] >= 1 && magic[3] <= 4,
        "its header is not that of an IDX file of bytes");
  std::vector<std::int64_t> extents;
  for (int i = 0; i < magic[3]; ++i) {
    std::uint8_t e[4] = {};
    check(read(e, 4) == 4, "it is too short for its IDX header");
    extents.push_back(std::int64_t{e[0]} << 24 | e[1] << 16 | e[2] << 8 | e[3]);
  }
  constexpr std::int64_t max_bytes = std::int64_t{1} << 32;  // a forged header must not claim all memory
  // Bytes without the extents of 0: strides are products of the others and must not overflow.
  std::int64_t span = 1;
  for (const std::int64_t extent : extents) {
    const std::int64_t factor = std::max<std::int64_t>(extent, 1);
    check(span <= max_bytes / factor, fmt::format("its IDX header claims {} bytes, more than the {} allowed",
                                                  fmt::join(extents, "×"), max_bytes));
    span *= factor;
  }
  const std::int64_t bytes = std::ranges::find(extents, 0) == extents.end() ? span : 0;

  constexpr std::int64_t always_allowed = 1 << 20, max_ratio = 50;  // images compress about fivefold
  check(
      bytes <= always_allowed || static_cast<std::uint64_t>(bytes + max_ratio - 1) / max_ratio <= file_bytes,
      fmt::format("its IDX header claims {} bytes for a file of {}, more than {} times as many", bytes,
                  file_bytes, max_ratio));

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
  if (files::exists(plain)) return plain;
  if (files::exists(gzipped)) return gzipped;
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

REFINE_INLINE void Synthetic::validate() const {
  const auto& [channels, height, width] = task.image;
  if (channels < 1 || height < 1 || width < 1 || task.classes < 1) {
    throw Error("synthetic.task must have known, positive extents and classes, got {}x{}x{} and {} classes",
                channels, height, width, task.classes);
  }
  if (train < 0 || test < 0) {
    throw Error("synthetic: train and test must not be negative, got {} and {}", train, test);
  }
}

REFINE_INLINE Split Synthetic::make() const {
  validate();
  return {.train = draw(train, derived_seed(seed, "synthetic train")),
          .test = draw(test, derived_seed(seed, "synthetic test"))};
}

REFINE_INLINE bool Synthetic::contains(int shape, double y, double x) {
  const double distance = std::max(std::abs(y), std::abs(x)), radius = std::hypot(y, x);
  switch (shape) {
    case 0:  // a disc
      return radius <= 1;
    case 1:  // a square
      return distance <= 0.9;
    case 2:  // a ring
      return radius <= 1.1 && radius >= 0.6;
    default:  // a cross
      return distance <= 1.1 && std::min(std::abs(y), std::abs(x)) <= 0.35;
  }
}

REFINE_INLINE Dataset Synthetic::draw(std::int64_t n, std::uint64_t drawing_seed) const {
  const auto [channels, height, width] = task.image;
  Dataset set{.images = at::empty({n, channels, height, width}, at::kByte),
              .labels = at::empty({n}, at::kLong),
              .classes = {}};
  for (int c = 0; c < task.classes; ++c) set.classes.push_back("class " + std::to_string(c));

  Random random(drawing_seed);
  const auto between = [&](double low, double high) { return low + (high - low) * uniform_unit(random); };
  auto* pixel = set.images.mutable_data_ptr<std::uint8_t>();
  auto* label = set.labels.mutable_data_ptr<std::int64_t>();
  for (std::int64_t i = 0; i < n; ++i) {
    const int kind = static_cast<int>(i % task.classes);
    label[i] = kind;
    const double radius = between(0.22, 0.36) * std::min(height, width);
    const double top = between(0.35, 0.65) * height, left = between(0.35, 0.65) * width;
    const double background = between(80, 176);
    for (int channel = 0; channel < channels; ++channel) {
      const double hue = static_cast<double>(kind) / task.classes - static_cast<double>(channel) / channels;
      const double colour = 127.5 + 127.5 * std::cos(2 * std::numbers::pi * hue);
      for (int y = 0; y < height; ++y) {
        for (int x = 0; x < width; ++x) {
          const bool is_inside = contains(kind % 4, (y + 0.5 - top) / radius, (x + 0.5 - left) / radius);
          const double value = (is_inside ? colour : background) + between(-28, 28);
          *pixel++ = static_cast<std::uint8_t>(std::clamp(value, 0.0, 255.0));
        }
      }
    }
  }
  return set;
}

}  // namespace refine::data
