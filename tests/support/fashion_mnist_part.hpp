#pragma once

#include <gtest/gtest.h>
#include <zlib.h>

#include <cstddef>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <memory>
#include <string>

namespace refine::testing {

/// Writes the first images and labels of Debian's Fashion-MNIST, in the same format, so that a test that reads them
/// often takes less time.
///
/// \param folder  the folder to write, which must not exist
/// \param train  number of training images, at most 60,000
/// \param test  number of test images, at most 10,000
inline void write_fashion_mnist_part(const std::filesystem::path& folder, std::size_t train,
                                     std::size_t test) {
  std::filesystem::create_directory(folder);
  struct Part {
    std::string name;
    std::size_t n, header, bytes;  // of the header, and of an element
  };
  for (const auto& [name, n, header, bytes] : std::initializer_list<Part>{
           {"train-images-idx3-ubyte", train, 16, 28 * 28},
           {"train-labels-idx1-ubyte", train, 8, 1},
           {"t10k-images-idx3-ubyte", test, 16, 28 * 28},
           {"t10k-labels-idx1-ubyte", test, 8, 1},
       }) {
    const auto from = std::filesystem::path("/usr/share/datasets/fashion-mnist") / (name + ".gz");
    const std::unique_ptr<gzFile_s, int (*)(gzFile)> file(gzopen(from.c_str(), "rb"), &gzclose);
    std::string content(header + n * bytes, '\0');
    ASSERT_EQ(gzread(file.get(), content.data(), static_cast<unsigned>(content.size())),
              static_cast<int>(content.size()))
        << from;
    for (int i = 0; i < 4; ++i) content[4 + i] = static_cast<char>(n >> (24 - 8 * i));  // big-endian
    std::ofstream(folder / name, std::ios::binary) << content;
  }
}

}  // namespace refine::testing
