#pragma once

#include <ATen/core/Tensor.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <refine/core/error.hpp>
#include <refine/core/file.hpp>
#include <refine/core/progress_meter.hpp>
#include <refine/core/task.hpp>
#include <refine/data/detail/pixels.hpp>
#include <refine/data/image_files.hpp>
#include <refine/data/resize.hpp>

namespace refine::data {

namespace detail {

/// By content, not by name. \throws Error naming `name`.
void decode(std::string_view data, std::string_view name, Rgb& image);

}  // namespace detail

/// Decodes a JPEG, PNG, WebP, TIFF, BMP or PNM image, told by its content, to uint8 3×H×W. Grey and palette
/// images are expanded, CMYK is converted, alpha is dropped, 16 bits become 8, colour profiles are ignored.
/// The orientation that EXIF says is applied, as Pillow's `ImageOps.exif_transpose` does.
/// \param name stands in the message
/// \throws Error if it is none of these, is cut short or damaged, or has a side longer than 16,384 pixels
at::Tensor decode_image(std::string_view bytes, std::string_view name);

/// The same from a file. \throws Error naming it.
inline at::Tensor decode_image(const std::filesystem::path& path) {
  return decode_image(read_file(path), path.string());
}

}  // namespace refine::data

/// What `image_folder` and `load_images` share: many files decoded in parallel.
namespace refine::data::detail {

/// What images become: `wanted`, its open extents those of the first file that can be read.
/// \param files  one at least
/// \param what   for messages
/// \throws Error when C is neither 1 nor 3, H or W is open though images are to be fitted, or no size can be
///   told; and when the first file is bad and bad files are not to be skipped
ImageShape decoded_shape(const std::vector<std::filesystem::path>& files, const ImageShape& wanted,
                         ResizeMode fit, OnDecodeError on_bad, const std::string& what);

/// Decodes files in parallel, the same with any number of threads, and tells how far it is where it takes
/// long enough to wonder.
class Decoding {
 public:
  /// \param threads  0: as many as the machine has
  /// \pre `shape` is static, and what is referred to outlives this
  Decoding(const std::vector<std::filesystem::path>& files, const ImageShape& shape, ResizeMode fit,
           OnDecodeError on_bad, unsigned threads, const std::string& what);

  std::size_t image_bytes() const;

  unsigned threads() const { return threads_; }

  /// The files [begin, begin + count), those that are good, one behind the other at `to`, which has room for
  /// all of them; how many those are. Takes up to memory for one file's content and pixels a thread.
  /// \param bad  gets a line for each file that is skipped, at its index
  /// \throws Error naming the first bad file where none may be skipped
  std::size_t run(std::size_t begin, std::size_t count, std::uint8_t* to, std::vector<std::string>& bad);

  void finish() {
    if (meter_) show(files_.size()), meter_->finish();
  }

 private:
  void show(std::size_t done);

  const std::vector<std::filesystem::path>& files_;
  ImageShape shape_;
  ResizeMode fit_;
  OnDecodeError on_bad_;
  unsigned threads_;
  const std::string& what_;
  std::optional<ProgressMeter> meter_;
  std::chrono::steady_clock::time_point patience_ =
      std::chrono::steady_clock::now() + std::chrono::seconds(1);
};

/// What came of a list of files.
struct DecodedImages {
  at::Tensor images;             ///< uint8 N×C×H×W, the good ones in their order
  std::vector<std::string> bad;  ///< for each file why it was left out; empty: it is there
};

void require_one(const std::vector<std::string>& bad, std::int64_t good);

/// The files in memory, as `Decoding` has it. \throws Error as `decoded_shape` and `Decoding`, and when no
/// file is good
DecodedImages decode_images(const std::vector<std::filesystem::path>& files, const ImageShape& wanted,
                            ResizeMode fit, OnDecodeError on_bad, unsigned threads, const std::string& what);

}  // namespace refine::data::detail

#if !defined(REFINE_COMPILED_LIB)
#include <refine/data/impl/decode.ipp>
#endif
