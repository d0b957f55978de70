#pragma once

#include <filesystem>

// Part of the target :download. Defined in impl/download.ipp.
namespace refine::data::detail::cifar {

/// Unpacks the archive into `<root>/cifar-10-batches-bin`, which appears once it is complete.
/// \throws Error if the archive is damaged or the folder cannot be written
void extract(const std::filesystem::path& archive_file, const std::filesystem::path& root);

}  // namespace refine::data::detail::cifar
