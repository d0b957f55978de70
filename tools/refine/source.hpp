#pragma once

#include <ATen/core/Tensor.h>
#include <CLI/CLI.hpp>

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include <refine/backbones/normalized.hpp>
#include <refine/core/random.hpp>
#include <refine/core/task.hpp>
#include <refine/data/dataset.hpp>
#include <refine/data/image_files.hpp>
#include <refine/data/resize.hpp>

namespace refine::cli {

/// A data set that has a name, with what is known of it.
struct Source {
  std::string name;  ///< for folders of results
  data::Split split;
  std::optional<Normalization> normalization;
};

/// `CIFAR10`, `FashionMNIST`, or a folder with train/<class>/ and test/<class>/.
/// \param root where a named one lies; empty: data/<name>
/// \param image what a folder's images become; open extents are those of its first image
/// \param on_bad what a damaged file of a folder brings about
/// \param store a folder that keeps a folder's decoded images, for sets larger than memory; empty: none
/// \throws Error when there is no such data set, it cannot be read, or a named one is to be kept in a store
Source read_dataset(const std::string& name, const std::filesystem::path& root, const ImageShape& image,
                    data::ResizeMode fit, data::OnDecodeError on_bad = data::OnDecodeError::fail,
                    const std::filesystem::path& store = {});

/// The name that a data set has in folders of results.
std::string dataset_name(const std::string& name);

/// Where `attack` puts its results, and `defend` looks for them.
std::filesystem::path result_folder(const std::string& root, const std::string& dataset,
                                    const std::string& model, const std::string& attack);

/// Images of any layout, with the labels that class folders give.
struct Images {
  at::Tensor images = {};                         ///< uint8 N×C×H×W
  std::vector<std::filesystem::path> files = {};  ///< where each came from
  std::vector<std::string> folders = {};          ///< the folder of each below the root
  std::set<std::string> all_folders = {};         ///< those of all files there, read or not
  std::size_t skipped = 0;                        ///< files that could not be used
};

using data::warn_skipped;

/// What happens to images of another size, for all commands that read images.
struct FitOptions {
  std::string fit = {};  ///< empty: what the model's file says, else crop
  int resize = 0, crop = 0;

  void add_to(CLI::App& command);

  /// \param stored what a defended file says of the images it was made with (`json_of`); null: nothing
  /// \throws Error if the options contradict each other
  data::ResizeMode resolved(const nlohmann::ordered_json& stored = nullptr) const;

  /// 3×crop×crop, or, without `--crop`, `otherwise`.
  ImageShape image(const ImageShape& otherwise) const;

  /// \throws Error if `--crop` is another size than that which the model takes
  void require(const ImageShape& model) const;
};

/// What `FitOptions::resolved` reads.
nlohmann::ordered_json json_of(const data::ResizeMode& fit);

/// Reads the images below `path`; damaged files are told on standard error and left out.
/// \param most no more than so many, drawn by `seed`; 0: all
/// \param store a folder that keeps the decoded images, for sets larger than memory; empty: none
Images read_images(const std::filesystem::path& path, const ImageShape& shape, data::ResizeMode fit,
                   std::int64_t most = 0, std::uint64_t seed = default_seed,
                   const std::filesystem::path& store = {});

}  // namespace refine::cli
