#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>

#include <filesystem>
#include <optional>
#include <string>

#include <refine/core/atomic_file.hpp>
#include <refine/core/error.hpp>
#include <refine/core/file_bytes.hpp>
#include <refine/formats/safetensors.hpp>

namespace refine::attacks::detail {

/// A file that keeps perturbed images for the next run. It is used again only where everything that they were
/// made from is the same: the key, and what the model says of the first of them.
class PerturbedStore {
 public:
  /// \param key of the images, their labels and the settings
  /// \param logits the model's, of some of the images
  /// \throws Error when the path can't be written to: before the work, not after it
  PerturbedStore(std::filesystem::path path, std::string key, const at::Tensor& logits)
      : path_(std::move(path)), key_(std::move(key)), logits_(logits.detach().to(at::kCPU).to(at::kFloat)) {
    if (!is_there(path_)) AtomicFile writable(path_);
  }

  /// The images of the file; none where there is no file or it was made from something else.
  /// \throws Error when it is no such file, or damaged
  std::optional<at::Tensor> read(const at::Tensor& like) const {
    if (!is_there(path_)) return {};
    const formats::SafeTensors content = loaded();
    if (content.metadata.at(name) != key_) return {};
    const at::Tensor& images = content.tensors.at("images");
    const at::Tensor& logits = content.tensors.at("logits");
    if (images.scalar_type() != at::kByte || images.sizes() != like.sizes()) refuse();
    // Another device or number of threads rounds otherwise; another model differs by far more.
    const bool same = logits.scalar_type() == at::kFloat && logits.sizes() == logits_.sizes() &&
                      (logits - logits_).abs().le(1e-3 * logits_.abs().amax()).all().item<bool>();
    return same ? std::optional(images) : std::nullopt;
  }

  /// \throws Error when the disk is full
  void write(const at::Tensor& images) const {
    formats::write_safetensors(
        path_, {.tensors = {{"images", images}, {"logits", logits_}}, .metadata = {{name, key_}}});
  }

 private:
  static constexpr const char* name = "refine perturbed images";

  formats::SafeTensors loaded() const {
    formats::SafeTensors content;
    try {
      content = formats::read_safetensors(path_);
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
    throw Error(
        "refine: {} is damaged, or no store of perturbed images; delete it, or give .store another path "
        "[pgd]",
        path_.string());
  }

  std::filesystem::path path_;
  std::string key_;
  at::Tensor logits_;
};

}  // namespace refine::attacks::detail
