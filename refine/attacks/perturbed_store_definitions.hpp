#pragma once

// What perturbed_store.hpp declares.

#include <refine/attacks/perturbed_store.hpp>

#include <ATen/TensorOperators.h>
#include <fmt/format.h>

#include <filesystem>
#include <optional>
#include <string>
#include <utility>

#include <refine/core/compiled.hpp>
#include <refine/core/file_bytes.hpp>
#include <refine/core/seed.hpp>

namespace refine::attacks::detail {

REFINE_DEFINITION std::string hash_of(const at::Tensor& tensor) {
  const at::Tensor whole = tensor.contiguous();
  return fmt::format("{:016x}",
                     derived_seed(0, {static_cast<const char*>(whole.const_data_ptr()), whole.nbytes()}));
}

REFINE_DEFINITION PerturbedStore::PerturbedStore(std::filesystem::path path, std::string key,
                                                 const at::Tensor& logits)
    : path_(std::move(path)), key_(std::move(key)), logits_(logits.detach().to(at::kCPU).to(at::kFloat)) {}

REFINE_DEFINITION std::optional<at::Tensor> PerturbedStore::read(const at::Tensor& like) const {
  if (!is_there(path_)) return {};
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

REFINE_DEFINITION void PerturbedStore::write(const at::Tensor& images) const {
  formats::write_safetensors(path_, {.tensors = {{"images", images}, {"logits", logits_}},
                                     .metadata = {{name, key_}, {hash_name, hash_of(images)}}});
}

REFINE_DEFINITION formats::SafeTensors PerturbedStore::loaded() const {
  const std::string bytes = file_bytes(path_);  // what the system says against it is no damage
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

REFINE_DEFINITION void PerturbedStore::refuse() const {
  throw Error(
      "refine: {} is damaged, or no store of perturbed images; delete it, or give .store another path "
      "[pgd]",
      path_.string());
}

}  // namespace refine::attacks::detail
