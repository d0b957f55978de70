#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <string>

/// \file
/// Downloads of data sets. `<refine/data/data.hpp>` does not include this header, and Bazel has it
/// in a separate target, so that only a program that downloads is linked with an HTTP client.

namespace refine::data {

/// A file on a server, whose content is known beforehand.
struct Download {
  std::string url;                 ///< http or https
  std::string sha256;              ///< 64 lower-case hexadecimal digits
  std::uint64_t bytes = 0;         ///< length of the file
  std::filesystem::path to;        ///< final path
  std::chrono::seconds stall{30};  ///< time without data after which the transfer is given up
};

/// Downloads a file to `file.to`.
///
/// The file gets its final name once its length and checksum are right; until then it is
/// `<to>.partial`. After an interruption the next call continues with an HTTP range request. If the
/// server ignores ranges, or the partial file was wrong, it starts again. An existing file with the
/// right content costs one checksum. Proxies are taken from `http_proxy`, `https_proxy` and
/// `no_proxy`.
/// \param file what to download, and where to
/// \throws Error if the server cannot be reached within 5 s, refuses, stalls or sends another file,
///   or the disk is full
void download(const Download& file);

/// True if an earlier `download_cifar10(root)` was interrupted and left a part that the next call
/// continues.
bool cifar10_download_has_begun(const std::filesystem::path& root);

/// Downloads the binary form of CIFAR-10 into `<root>/cifar-10-batches-bin`, where `cifar10(root)`
/// finds it.
///
/// Downloads the archive with `download`, unpacks its eight files and nothing else, and removes the
/// archive. Does nothing if the files exist.
/// \param root the data set's folder
/// \param url of the archive
/// \param sha256 of the archive
/// \param bytes length of the archive
/// \throws Error as `download` does, and if the archive is damaged
void download_cifar10(
    const std::filesystem::path& root,
    const std::string& url = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    const std::string& sha256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    std::uint64_t bytes = 170'052'171);

}  // namespace refine::data

#if !defined(REFINE_COMPILED_LIB)
#include <refine/data/impl/download.ipp>
#endif
