#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <fmt/format.h>

#include <cstdint>
#include <filesystem>
#include <limits>
#include <optional>
#include <string>
#include <utility>

#include <refine/core/error.hpp>
#include <refine/core/file.hpp>
#include <refine/core/random.hpp>
#include <refine/formats/safetensors.hpp>

namespace refine::attacks::detail {

/// Returns a hash of the tensor's bytes, as 16 hexadecimal digits.
inline std::string hash_of(const at::Tensor& tensor) {
  const at::Tensor whole = tensor.to(at::kCPU).contiguous();
  return fmt::format("{:016x}",
                     derived_seed(0, {static_cast<const char*>(whole.const_data_ptr()), whole.nbytes()}));
}

/// A file that keeps perturbed images for the next run. It is used again only if everything that
/// they were made from is the same: the key, and the model's logits of the first images.
class PerturbedStore {
 public:
  /// \param path of the file
  /// \param key identifies the images, their labels and the settings
  /// \param logits the model's, of some of the images
  PerturbedStore(std::filesystem::path path, std::string key, const at::Tensor& logits)
      : path_(std::move(path)), key_(std::move(key)), logits_(logits.detach().to(at::kCPU).to(at::kFloat)) {}

  /// Returns the images of the file; nothing if there is no file or it was made from something
  /// else.
  ///
  /// \param like images of the expected shape
  /// \throws Error if the file cannot be read, is not such a store, or is damaged
  std::optional<at::Tensor> read(const at::Tensor& like) const {
    if (!files::exists(path_)) return {};
    const formats::SafeTensors content = load();
    const auto hash = content.metadata.find(hash_name);
    if (content.metadata.at(name) != key_ || hash == content.metadata.end()) return {};
    const at::Tensor& images = content.tensors.at("images");
    const at::Tensor& logits = content.tensors.at("logits");
    if (images.scalar_type() != at::kByte || images.sizes() != like.sizes() ||
        hash_of(images) != hash->second)
      refuse();
    // Another device or number of threads rounds differently; another model differs by far more.
    const bool same = logits.scalar_type() == at::kFloat && logits.sizes() == logits_.sizes() &&
                      (logits - logits_).abs().le(1e-3 * logits_.abs().amax()).all().item<bool>();
    return same ? std::optional(images) : std::nullopt;
  }

  /// Throws if `write` could not create the file; called before the work, not after it.
  void require_writable() const { AtomicFile unused(path_); }

  /// Writes the images. Throws an Error if the disk is full.
  void write(const at::Tensor& images) const {
    formats::write_safetensors(path_, {.tensors = {{"images", images}, {"logits", logits_}},
                                       .metadata = {{name, key_}, {hash_name, hash_of(images)}}});
  }

 private:
  static constexpr const char* name = "refine perturbed images";
  static constexpr const char* hash_name = "hash";

  formats::SafeTensors load() const {
    constexpr auto any_size = std::numeric_limits<std::uintmax_t>::max();  // this library has written it
    const std::string bytes =
        files::read(path_, any_size);  // outside the try block: an unreadable file is not damaged
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

  [[noreturn]] void refuse() const {
    throw Error("{} is damaged or not a store of perturbed images; delete it, or set .store to another path",
                path_.string());
  }

  std::filesystem::path path_;
  std::string key_;
  at::Tensor logits_;
};

}  // namespace refine::attacks::detail
