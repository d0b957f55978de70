#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include <refine/core/error.hpp>
#include <refine/core/random.hpp>
#include <refine/core/task.hpp>
#include <refine/data/resize.hpp>

/// What lies in folders: of `image_folder` and `image_files`.
namespace refine::data::detail {

/// What lies in a folder, hidden entries apart, sorted by name. \throws Error when it cannot be listed
std::vector<std::filesystem::directory_entry> entries(const std::filesystem::path& folder);

bool is_folder(const std::filesystem::directory_entry& entry);

/// By its name: .png, .jpg, .webp and so on, in any case.
bool has_image_extension(const std::filesystem::path& file);

/// The extensions that are read, as a sentence lists them.
std::string image_extensions();

/// By its name. A link that leads nowhere is one too, so that whoever reads it hears of it; a pipe is not.
bool is_image(const std::filesystem::directory_entry& entry);

/// Each real folder is listed once, under the first of its names: so links cannot lead in circles.
/// \param passed_over gets the files that are no images by their name
void list_images(const std::filesystem::path& folder, std::set<std::filesystem::path>& seen,
                 std::vector<std::filesystem::path>& files,
                 std::vector<std::filesystem::path>* passed_over = nullptr);

}  // namespace refine::data::detail

namespace refine::data {

/// What a file that cannot be decoded, or does not fit, brings about.
enum class OnDecodeError {
  fail,  ///< an `Error` that names it
  skip,  ///< it is left out, and a line says why
};

/// One line for each file that was left out, on standard error; of very many, how many more.
void warn_skipped(const std::vector<std::string>& skipped);

/// Reports files that are not read on standard error: one line that counts them by extension. Nothing for
/// none.
void warn_ignored(const std::vector<std::filesystem::path>& files);

struct ImageFilesOptions {
  ImageShape image = {};  ///< what the images become; 1 channel: grey; open extents: the first image's
  ResizeMode fit = ResizeMode::exact;          ///< what happens to an image of another size
  OnDecodeError on_bad = OnDecodeError::fail;  ///< `skip`: the file is left out and gets a line in `skipped`
  /// A folder that keeps the decoded images, so that a set may be larger than memory; empty: in memory. They
  /// take N·C·H·W bytes there, and are decoded anew only when files, `image` or `fit` have changed.
  std::filesystem::path store = {};
  unsigned threads = 0;   ///< that decode; 0: as many as the machine has
  std::int64_t most = 0;  ///< read no more than so many files, drawn by `seed`; 0: all
  std::uint64_t seed = default_seed;
};

struct LoadedImages {
  at::Tensor images = {};                         ///< uint8, N×C×H×W, RGB or grey, 0–255
  std::vector<std::filesystem::path> files = {};  ///< where each image came from
  std::vector<std::string> skipped = {};          ///< why a file was left out, one line each
};

/// Returns the images under a folder, at any depth, sorted by path: `*.png`, `*.jpg`, `*.jpeg`, `*.jpe`,
/// `*.jfif`, `*.webp`, `*.tif`, `*.tiff`, `*.bmp`, `*.ppm`, `*.pgm`, `*.pbm` and `*.pnm` in any case. Hidden
/// entries are passed over; links are followed, and a folder that is reached twice is listed once. A path to
/// a file is that file alone, whatever its name.
/// \param passed_over gets the other files, which `warn_ignored` reports; may be null
/// \throws Error if nothing is there, it cannot be listed, or holds no image
std::vector<std::filesystem::path> image_files(const std::filesystem::path& file_or_folder,
                                               std::vector<std::filesystem::path>* passed_over = nullptr);

/// The files as one tensor, decoded in parallel, in their order; whatever the number of threads, and with a
/// store or without, the result is the same.
///
/// With `options.store`, `images` are a mapping of the file `<store>/<name>.images`, as `image_folder` has
/// it; the name is that of the innermost folder that all files lie in. Those that `most` draws have a store
/// of their own, `<name>.most<most>.seed<seed>.images`.
/// \throws Error when there is no file, none that can be used, or (`OnDecodeError::fail`) one that cannot; when
///   images are to be fitted and `options.image` does not say the size; when the store can't be written
LoadedImages load_images(std::vector<std::filesystem::path> files, const ImageFilesOptions& options = {});

/// 3×H×W when those of the first `sample` files that are images all have that size, 3×?×? when they have not.
/// Reads the headers of PNG and JPEG files, and decodes others. \throws Error when there is no file
ImageShape common_shape(const std::vector<std::filesystem::path>& files, std::int64_t sample = 64);

}  // namespace refine::data

#if !defined(REFINE_COMPILED_LIB)
#include <refine/data/impl/image_files.ipp>
#endif
