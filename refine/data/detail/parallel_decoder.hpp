#pragma once

#include <ATen/core/Tensor.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include <refine/core/progress_meter.hpp>
#include <refine/core/task.hpp>
#include <refine/data/resize.hpp>

// What `image_folder` and `load_images` share.
namespace refine::data::detail {

/// Returns the shape that images get: `wanted`, with open extents taken from the first file that
/// can be read.
/// \param files at least one
/// \param wanted shape from the options
/// \param resize_mode how images are resized
/// \param on_error whether unreadable files are skipped
/// \param what the source, for messages
/// \throws Error if the number of channels is neither 1 nor 3; if images are to be resized and H or
///   W is open; if no file can be read; for `OnDecodeError::fail`, if the first cannot
ImageShape resolve_shape(const std::vector<std::filesystem::path>& files, const ImageShape& wanted,
                         ResizeMode resize_mode, OnDecodeError on_error, const std::string& what);

/// Decodes files in parallel, with the same result for any number of threads. Shows progress if
/// that takes more than a second.
class ParallelDecoder {
 public:
  /// The decoder refers to `files` and `what`.
  /// \param files what to decode
  /// \param shape of the decoded images; must be static
  /// \param resize_mode how images are resized
  /// \param on_error what happens to a file that cannot be used
  /// \param threads 0: one for each processor
  /// \param what the source, for the progress line
  ParallelDecoder(const std::vector<std::filesystem::path>& files, const ImageShape& shape,
                  ResizeMode resize_mode, OnDecodeError on_error, unsigned threads, const std::string& what);

  /// Returns the bytes of one decoded image.
  std::size_t image_bytes() const;

  /// Returns the number of threads.
  unsigned threads() const { return threads_; }

  /// Decodes the files [begin, begin + count) and packs those that could be decoded one after the
  /// other. Each thread takes memory for the content and the pixels of one file.
  /// \param begin index of the first file
  /// \param count number of files
  /// \param to at least count·image_bytes() bytes
  /// \param errors gets the reason at the index of each file that is skipped
  /// \return the number of decoded images
  /// \throws Error that names the first unusable file, unless such files are skipped
  std::size_t run(std::size_t begin, std::size_t count, std::uint8_t* to, std::vector<std::string>& errors);

  /// Completes the progress line.
  void finish() {
    if (meter_) show(files_.size()), meter_->finish();
  }

 private:
  void show(std::size_t done);

  const std::vector<std::filesystem::path>& files_;
  ImageShape shape_;
  ResizeMode resize_mode_;
  OnDecodeError on_error_;
  unsigned threads_;
  const std::string& what_;
  std::optional<ProgressMeter> meter_;
  std::chrono::steady_clock::time_point show_after_ =
      std::chrono::steady_clock::now() + std::chrono::seconds(1);
};

/// The result of decoding a list of files.
struct DecodedImages {
  at::Tensor images;                ///< uint8, N×C×H×W: those that could be decoded, in the files' order
  std::vector<std::string> errors;  ///< for each file the reason why it was left out; empty: it was not
};

/// Throws an `Error` with the first file's reason if no file could be decoded.
void check_any_decoded(const std::vector<std::string>& errors, std::int64_t decoded);

/// Decodes files into memory.
/// \throws Error as `resolve_shape` and `ParallelDecoder::run` do, and if no file can be decoded
DecodedImages decode_images(const std::vector<std::filesystem::path>& files, const ImageShape& wanted,
                            ResizeMode resize_mode, OnDecodeError on_error, unsigned threads,
                            const std::string& what);

}  // namespace refine::data::detail

#if !defined(REFINE_COMPILED_LIB)
#include <refine/data/impl/parallel_decoder.ipp>
#endif
