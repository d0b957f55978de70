#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>

#include <refine/backbones/normalized.hpp>
#include <refine/core/task.hpp>
#include <refine/data/dataset.hpp>
#include <refine/data/image_files.hpp>
#include <refine/data/resize.hpp>

namespace refine {

/// A data set, and what is known about it.
struct NamedDataset {
  std::string name;                            ///< as folders of results have it
  data::Split split;                           ///< train and test
  std::optional<Normalization> normalization;  ///< its mean and deviation, if they are known
};

/// How a data set is read.
struct NamedDatasetOptions {
  std::filesystem::path root = {};  ///< where CIFAR10 or FashionMNIST is; empty: `data/NAME`
  ImageShape image = {};            ///< of a folder: what images become; open extents are those of its images
  data::ResizeMode resize = data::ResizeMode::crop;        ///< of a folder: what happens to other sizes
  data::OnDecodeError on_error = data::OnDecodeError::fail;  ///< of a folder: what a damaged file causes
  std::filesystem::path store = {};  ///< of a folder: folder that keeps the decoded images; empty: none
  /// Called with data/CIFAR10 if CIFAR-10 is not there and `root` is empty:
  /// `data::download_cifar10`.
  std::function<void(const std::filesystem::path&)> download = {};
};

/// Reads `CIFAR10`, `FashionMNIST`, or a folder with `train/CLASS/` and `test/CLASS/`.
/// \throws Error if the data set does not exist or cannot be read, a folder's images have several
///   sizes and none is specified, or a store is specified for a named set
NamedDataset read_dataset(const std::string& name, const NamedDatasetOptions& options = {});

/// Returns the name that a data set has in folders of results: a folder's own name.
std::string dataset_name(const std::string& name);

}  // namespace refine

#if !defined(REFINE_COMPILED_LIB)
#include <refine/defend/impl/named_dataset.ipp>
#endif
