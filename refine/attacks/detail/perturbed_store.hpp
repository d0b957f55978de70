#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <fmt/format.h>

#include <filesystem>
#include <optional>
#include <string>
#include <utility>

#include <refine/core/error.hpp>
#include <refine/core/file.hpp>
#include <refine/core/random.hpp>
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

inline std::string hash_of(const at::Tensor& tensor) {
  const at::Tensor whole = tensor.contiguous();
  return fmt::format("{:016x}",
                     derived_seed(0, {static_cast<const char*>(whole.const_data_ptr()), whole.nbytes()}));
}

inline PerturbedStore::PerturbedStore(std::filesystem::path path, std::string key, const at::Tensor& logits)
    : path_(std::move(path)), key_(std::move(key)), logits_(logits.detach().to(at::kCPU).to(at::kFloat)) {}

inline std::optional<at::Tensor> PerturbedStore::read(const at::Tensor& like) const {
  if (!file_exists(path_)) return {};
  const formats::SafeTensors content = loaded();
  const auto hash = content.metadata.find(hash_name);
  if (content.metadata.at(name) != key_ || hash == content.metadata.end()) return {};
  const at::Tensor& images = content.tensors.at("images");
  const at::Tensor& logits = content.tensors.at("logits");
  if (images.scalar_type() != at::kByte || images.sizes() != like.sizes() || hash_of(images) != hash->second)
    refuse();
  // Another device or number of threads rounds otherwise; another model differs by far more.
  const bool same = logits.scalar_type() == at::kFloat && logits.sizes() == logits_.sizes() &&
                    (logits - logits_).abs().le(1e-3 * logits_.abs().amax()).all().item<bool>();
  return same ? std::optional(images) : std::nullopt;
}

inline void PerturbedStore::write(const at::Tensor& images) const {
  formats::write_safetensors(path_, {.tensors = {{"images", images}, {"logits", logits_}},
                                     .metadata = {{name, key_}, {hash_name, hash_of(images)}}});
}

inline formats::SafeTensors PerturbedStore::loaded() const {
  const std::string bytes = read_file(path_);  // what the system says against it is no damage
  formats::SafeTensors content;
  try {
    content = formats::read_safetensors(path_, bytes);
  } catch (const Error&) {
    refuse();
  }
  if (!content.metadata.contains(name) || !content.tensors.contains("images") ||
      !content.tensors.contains("logits")) {
    refuse();
  }
  return content;
}

inline void PerturbedStore::refuse() const {
  throw Error(
      "{} is damaged, or no store of perturbed images; delete it, or give .store another path "
      "[pgd]",
      path_.string());
}

}  // namespace refine::attacks::detail
