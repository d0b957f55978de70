#pragma once

// What weights.hpp declares.

#include <refine/formats/weights.hpp>

#include <c10/core/ScalarType.h>
#include <fmt/core.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <refine/core/compiled.hpp>
#include <refine/formats/safetensors.hpp>
#include <refine/formats/torch_file.hpp>
#include <refine/formats/value.hpp>
#include <refine/formats/zip_directory.hpp>

namespace refine::formats::detail {

/// Whether a file begins as safetensors do: the header's size in eight bytes, then the header.
REFINE_DEFINITION bool begins_like_safetensors(SeekableFile& file) {
  constexpr std::uint64_t header_limit = 100'000'000;
  std::uint64_t header_size = 0;
  if (file.size() <= sizeof header_size) return false;
  const std::string start = file.read(0, sizeof header_size + 1);
  std::memcpy(&header_size, start.data(), sizeof header_size);
  return header_size <= header_limit && start.back() == '{';
}

/// The state dict of a checkpoint: the value itself, or what lies under one of the usual names.
REFINE_DEFINITION const Dict* state_dict_of(const Value& value) {
  for (const std::string_view name : {"state_dict", "model_state_dict", "model", "net", "weights"}) {
    const Value* inner = value.find(name);
    if (inner && inner->as_dict()) return inner->as_dict();
  }
  return value.as_dict();
}

REFINE_DEFINITION Weights weights_of(const Value& value, const std::filesystem::path& path) {
  const Dict* state = state_dict_of(value);
  if (!state) {
    throw Error("cannot load {}: it is no dict of tensors by name; save model.state_dict()", path.string());
  }
  Weights result;
  for (const auto& [name, tensor] : *state) {
    if (!name.as_text() || !tensor.as_tensor()) {
      throw Error("cannot load {}: {} is no tensor; save model.state_dict()", path.string(),
                  name.as_text() ? "'" + shown(*name.as_text()) + "'" : "an entry without a name");
    }
    result.tensors.emplace(*name.as_text(), *tensor.as_tensor());
  }
  if (state == value.as_dict()) return result;
  for (const auto& [name, about] : *value.as_dict()) {
    if (!name.as_text()) continue;
    if (about.as_text()) result.metadata.emplace(*name.as_text(), *about.as_text());
    if (about.as_integer()) result.metadata.emplace(*name.as_text(), std::to_string(*about.as_integer()));
  }
  return result;
}

/// nn.DataParallel calls its module `module`; the weights are that module's.
REFINE_DEFINITION void strip_data_parallel(std::map<std::string, at::Tensor>& tensors) {
  constexpr std::string_view prefix = "module.";
  if (!std::ranges::all_of(tensors, [&](const auto& entry) { return entry.first.starts_with(prefix); }))
    return;
  std::map<std::string, at::Tensor> stripped;
  for (auto& [name, tensor] : tensors) stripped.emplace(name.substr(prefix.size()), std::move(tensor));
  tensors = std::move(stripped);
}

}  // namespace refine::formats::detail

namespace refine::formats {

REFINE_DEFINITION Weights read_weights(const std::filesystem::path& path) {
  Weights result;
  if (detail::SeekableFile file(path); detail::begins_like_safetensors(file)) {
    SafeTensors read = read_safetensors(path);
    result = {.tensors = std::move(read.tensors), .metadata = std::move(read.metadata)};
  } else {
    result = detail::weights_of(read_torch_file(path), path);
  }
  if (result.tensors.empty()) {
    throw Error("cannot load {}: it has no tensors; save model.state_dict()", path.string());
  }
  detail::strip_data_parallel(result.tensors);
  return result;
}

REFINE_DEFINITION std::vector<std::int64_t> read_permutation(const std::filesystem::path& path) {
  const Value value = read_torch_file(path);
  const auto fail = [&](std::string_view why) {
    throw Error("cannot load {}: {}; a permutation names each of 0 to n-1 once", path.string(), why);
  };
  const auto is_integral = [](const at::Tensor& tensor) {
    return c10::isIntegralType(tensor.scalar_type(), /*includeBool=*/false);
  };
  std::vector<std::int64_t> permutation;
  if (const at::Tensor* tensor = value.as_tensor(); tensor && is_integral(*tensor) && tensor->dim() == 1) {
    const at::Tensor numbers = tensor->to(at::kLong).contiguous();
    const auto* first = numbers.const_data_ptr<std::int64_t>();
    permutation.assign(first, first + numbers.numel());
  } else if (const List* list = value.as_list()) {
    for (const Value& item : *list) {
      const at::Tensor* scalar = item.as_tensor();
      if (item.as_integer()) {
        permutation.push_back(*item.as_integer());
      } else if (scalar && is_integral(*scalar) && scalar->dim() == 0) {
        permutation.push_back(scalar->item().toLong());
      } else {
        fail("it lists something else than integers");
      }
    }
  } else {
    fail("it is no list of integers");
  }
  if (permutation.empty()) fail("it is empty");
  std::vector<bool> seen(permutation.size(), false);
  for (const std::int64_t name : permutation) {
    if (name < 0 || name >= static_cast<std::int64_t>(seen.size())) {
      fail(fmt::format("it has {} numbers, and {} among them", seen.size(), name));
    }
    if (seen[static_cast<std::size_t>(name)]) fail(fmt::format("it names {} twice", name));
    seen[static_cast<std::size_t>(name)] = true;
  }
  return permutation;
}

}  // namespace refine::formats
