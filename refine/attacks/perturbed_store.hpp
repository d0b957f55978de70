#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <optional>
#include <string>

#include <refine/core/atomic_file.hpp>
#include <refine/core/error.hpp>
#include <refine/formats/safetensors.hpp>

namespace refine::attacks::detail {

/// A hash of a tensor's bytes, in hexadecimal digits. \pre it is on the host
std::string hash_of(const at::Tensor& tensor);

/// A file that keeps perturbed images for the next run. It is used again only where everything that they were
/// made from is the same: the key, and what the model says of the first of them.
class PerturbedStore {
 public:
  /// \param key of the images, their labels and the settings
  /// \param logits the model's, of some of the images
  PerturbedStore(std::filesystem::path path, std::string key, const at::Tensor& logits);

  /// The images of the file; none where there is no file or it was made from something else.
  /// \throws Error when it can't be read, is no such file, or is damaged
  std::optional<at::Tensor> read(const at::Tensor& like) const;

  /// \throws Error when `write` could not: to be asked before the work, not after it
  void require_writable() const { AtomicFile nothing(path_); }

  /// \throws Error when the disk is full
  void write(const at::Tensor& images) const;

 private:
  static constexpr const char* name = "refine perturbed images";
  static constexpr const char* hash_name = "hash";

  formats::SafeTensors loaded() const;

  [[noreturn]] void refuse() const;

  std::filesystem::path path_;
  std::string key_;
  at::Tensor logits_;
};

}  // namespace refine::attacks::detail

#if !defined(REFINE_COMPILED)
#include <refine/attacks/perturbed_store_definitions.hpp>
#endif
