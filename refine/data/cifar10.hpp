#pragma once

#include <refine/core/file_bytes.hpp>
#include <refine/data/image_folder.hpp>
#include <refine/data/split.hpp>

#include <array>
#include <filesystem>
#include <string>
#include <vector>

namespace refine::data {

namespace detail::cifar {

inline constexpr std::int64_t pixels = 3 * 32 * 32;
inline constexpr std::int64_t record = 1 + pixels;  // the label, then three planes of 32 rows
inline constexpr std::array training_files = {"data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin",
                                              "data_batch_4.bin", "data_batch_5.bin"};
inline constexpr const char* test_file = "test_batch.bin";

std::vector<std::string> class_names();

Dataset read(const std::filesystem::path& folder, const std::vector<std::string>& files);

bool has_binary(const std::filesystem::path& folder);

Split read_binary(const std::filesystem::path& folder);

}  // namespace detail::cifar

/// Whether something that `cifar10(root)` would read lies under `root`.
bool holds_cifar10(const std::filesystem::path& root);

/// CIFAR-10 (krizhevsky2009learning): 3×32×32, ten classes. Takes whichever form lies under `root`: the
/// binary one (`data_batch_1.bin` … `test_batch.bin`, there or in `cifar-10-batches-bin`), or image folders
/// (`train/<class>/*.png`, `test/<class>/*.jpg`). `download_cifar10` of `<refine/data/download.hpp>` fetches
/// it. \throws Error when neither or both are there, or a file is missing or damaged.
Split cifar10(const std::filesystem::path& root);

}  // namespace refine::data

#if !defined(REFINE_COMPILED)
#include <refine/data/cifar10_definitions.hpp>
#endif
