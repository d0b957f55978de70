#pragma once

#include <refine/formats/detail/safetensors_header.hpp>
#include <refine/formats/safetensors.hpp>

#include <ATen/ops/empty.h>
#include <fmt/core.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#include <refine/core/config.hpp>
#include <refine/core/error.hpp>
#include <refine/core/file.hpp>
#include <refine/formats/detail/objection.hpp>
#include <refine/formats/detail/zip_directory.hpp>

namespace refine::formats::detail {

static_assert(std::endian::native == std::endian::little,
              "safetensors files are little-endian and need a little-endian machine");

/// The dtypes that the format shares with PyTorch.
inline constexpr std::array<std::pair<std::string_view, at::ScalarType>, 10> dtypes = {{
    {"F64", at::kDouble},
    {"F32", at::kFloat},
    {"F16", at::kHalf},
    {"BF16", at::kBFloat16},
    {"I64", at::kLong},
    {"I32", at::kInt},
    {"I16", at::kShort},
    {"I8", at::kChar},
    {"U8", at::kByte},
    {"BOOL", at::kBool},
}};

/// Reads a safetensors file. Every size that the file claims is checked before it is used.
class SafeTensorsReader {
 public:
  SafeTensorsReader(const std::filesystem::path& path, std::string_view bytes) : path_(path), bytes_(bytes) {}

  SafeTensors read();

 private:
  [[noreturn]] void fail(std::string_view why) const;

  at::Tensor read_tensor(const std::string& name, const SafeTensorsHeader::Entry& entry);

  /// Requires that every byte belongs to exactly one tensor, as the format demands.
  void check_coverage();

  const std::filesystem::path& path_;
  std::string_view bytes_, data_;
  std::vector<std::pair<std::uint64_t, std::uint64_t>> ranges_;
};

REFINE_INLINE SafeTensors SafeTensorsReader::read() {
  std::uint64_t header_size = 0;
  if (bytes_.size() < sizeof header_size) fail("the file is shorter than its header");
  std::memcpy(&header_size, bytes_.data(), sizeof header_size);
  for (const std::uint64_t available : {bytes_.size() - sizeof header_size, SafeTensorsHeader::max_bytes}) {
    if (header_size <= available) continue;
    fail(fmt::format("the header claims {} bytes, more than the {} that {}", header_size, available,
                     available == SafeTensorsHeader::max_bytes ? "the format allows" : "the file has"));
  }
  SafeTensorsHeader header([this](const std::string& why) { fail(why); });
  header.read(bytes_.substr(sizeof header_size, header_size));
  data_ = bytes_.substr(sizeof header_size + header_size);

  SafeTensors result{.metadata = header.metadata()};
  for (const auto& [name, entry] : header.tensors()) result.tensors.emplace(name, read_tensor(name, entry));
  check_coverage();
  return result;
}

REFINE_INLINE void SafeTensorsReader::fail(std::string_view why) const {
  throw Error("cannot load {}: {}; the file is damaged or not a safetensors file, get it again",
              path_.string(), why);
}

REFINE_INLINE at::Tensor SafeTensorsReader::read_tensor(const std::string& name,
                                                        const SafeTensorsHeader::Entry& entry) {
  const std::string shown = shorten(name);
  const auto dtype = std::ranges::find(dtypes, entry.dtype, [](const auto& d) { return d.first; });
  if (dtype == dtypes.end() && is_unsupported_dtype(entry.dtype)) {
    const UnsupportedTensor kind = describe_unsupported_tensor(entry.dtype);
    throw Error("cannot load {}: '{}' is {} ({}), which refine does not read; {}", path_.string(), shown,
                kind.what, entry.dtype, kind.advice);
  }
  if (dtype == dtypes.end())
    fail(fmt::format("tensor '{}' has the unknown dtype '{}'", shown, shorten(entry.dtype)));

  const std::uint64_t begin = entry.data_offsets[0];
  const std::uint64_t end = entry.data_offsets[1];
  if (begin > end || end > data_.size()) fail(fmt::format("tensor '{}' lies outside the file", shown));

  constexpr std::size_t max_dims = 64;  // the limit of LibTorch
  if (entry.shape.size() > max_dims) {
    fail(fmt::format("tensor '{}' has {} dimensions, more than the {} allowed", shown, entry.shape.size(),
                     max_dims));
  }
  std::vector<std::int64_t> shape;
  // Bytes without the extents of 0: strides are products of the others and must not overflow.
  std::uint64_t span = c10::elementSize(dtype->second);
  bool empty = false;
  constexpr std::uint64_t max_span = std::numeric_limits<std::int64_t>::max();
  for (const std::uint64_t n : entry.shape) {
    if (n > 0 && span > max_span / n) {
      fail(fmt::format("tensor '{}' claims more bytes than the file has", shown));
    }
    empty = empty || n == 0;
    span *= n > 0 ? n : 1;
    shape.push_back(static_cast<std::int64_t>(n));
  }
  const std::uint64_t size = empty ? 0 : span;
  if (size != end - begin) {
    fail(fmt::format("tensor '{}' has {} bytes, but its shape and dtype need {}", shown, end - begin, size));
  }
  if (dtype->second == at::kBool &&
      std::ranges::any_of(data_.substr(begin, size), [](char c) { return c != 0 && c != 1; })) {
    fail(fmt::format("tensor '{}' is boolean but has values other than 0 and 1", shown));
  }
  ranges_.emplace_back(begin, end);
  at::Tensor tensor = at::empty(shape, dtype->second);
  if (size > 0) std::memcpy(tensor.mutable_data_ptr(), data_.data() + begin, size);
  return tensor;
}

REFINE_INLINE void SafeTensorsReader::check_coverage() {
  std::ranges::sort(ranges_);
  std::uint64_t expected = 0;
  for (const auto& [begin, end] : ranges_) {
    if (begin != expected) {
      fail(begin < expected ? "tensors overlap" : "there are unused bytes between tensors");
    }
    expected = end;
  }
  if (expected != data_.size()) fail("there are extra bytes after the last tensor");
}

}  // namespace refine::formats::detail

namespace refine::formats {

REFINE_INLINE SafeTensors read_safetensors(const std::filesystem::path& path) {
  const std::string bytes = files::read(path);
  return read_safetensors(path, bytes);
}

REFINE_INLINE SafeTensors read_safetensors(const std::filesystem::path& path, std::string_view bytes) {
  return detail::SafeTensorsReader(path, bytes).read();
}

REFINE_INLINE void write_safetensors(const std::filesystem::path& path, const SafeTensors& content) {
  using Json = nlohmann::json;
  const auto quoted = [&](const std::string& text) -> std::string {
    try {
      return Json(text).dump();
    } catch (const Json::exception&) {
      throw Error("cannot save {}: a tensor's name or the metadata is not UTF-8; encode it in UTF-8",
                  path.string());
    }
  };
  std::string metadata;
  for (const auto& [key, value] : content.metadata) {
    metadata += fmt::format("{}{}:{}", metadata.empty() ? "" : ",", quoted(key), quoted(value));
  }
  std::string header = metadata.empty() ? "" : fmt::format("\"__metadata__\":{{{}}}", metadata);
  std::vector<at::Tensor> data;
  std::uint64_t offset = 0;
  for (const auto& [name, tensor] : content.tensors) {
    data.push_back(tensor.detach().to(at::kCPU).contiguous());
    const auto dtype =
        std::ranges::find(detail::dtypes, tensor.scalar_type(), [](const auto& d) { return d.second; });
    if (dtype == detail::dtypes.end()) {
      throw Error("cannot save {}: tensor '{}' has the dtype {}, which safetensors lacks; convert it first",
                  path.string(), name, c10::toString(tensor.scalar_type()));
    }
    if (name == "__metadata__") {
      throw Error("cannot save {}: the tensor name '{}' is reserved; rename it", path.string(), name);
    }
    const std::uint64_t end = offset + data.back().nbytes();
    header +=
        fmt::format(R"({}{}:{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})", header.empty() ? "" : ",",
                    quoted(name), dtype->first, fmt::join(tensor.sizes(), ","), offset, end);
    offset = end;
  }
  std::string text = "{" + header + "}";
  text.append((8 - text.size() % 8) % 8, ' ');  // aligns the data to 8 bytes

  AtomicFile file(path);
  const std::uint64_t header_size = text.size();
  file.write(&header_size, sizeof header_size);
  file.write(text);
  for (const at::Tensor& tensor : data) file.write(tensor.const_data_ptr(), tensor.nbytes());
  file.commit();
}

}  // namespace refine::formats

namespace refine::formats::detail {

REFINE_INLINE void SafeTensorsHeader::read(std::string_view text) {
  if (!nlohmann::json::sax_parse(text, this)) fail_("the header is not a JSON object");
}

REFINE_INLINE bool SafeTensorsHeader::number_unsigned(std::uint64_t number) {
  if (!extents_) return check_supported();
  extents_->push_back(number);
  return true;
}

REFINE_INLINE bool SafeTensorsHeader::string(std::string& text) {
  if (depth_ == 2 && in_metadata()) {
    metadata_[keys_[1]] = std::move(text);
  } else if (depth_ == 2 && keys_[1] == "dtype") {
    entry_.dtype = std::move(text);
  } else {
    return check_supported();
  }
  return true;
}

REFINE_INLINE bool SafeTensorsHeader::key(std::string& name) {
  const std::size_t level = depth_ - 1;
  if (!names_[level].insert(name).second)
    fail_(fmt::format("the header has the duplicate key '{}'", shorten(name)));
  keys_[level] = std::move(name);
  return true;
}

REFINE_INLINE bool SafeTensorsHeader::start_object(std::size_t) {
  if (depth_ == 1) entry_ = {};
  return (depth_ < 2 || check_supported()) && enter();
}

REFINE_INLINE bool SafeTensorsHeader::end_object() {
  --depth_;
  if (depth_ != 1 || in_metadata()) return true;
  const auto& keys = names_[1];
  if (!keys.contains("dtype") || !keys.contains("shape") || entry_.data_offsets.size() != 2) fail_malformed();
  if (keys_[0].size() > max_tensor_name) {
    fail_(fmt::format("the name of a tensor has {} bytes, more than the {} allowed", keys_[0].size(),
                      max_tensor_name));
  }
  tensors_.emplace(keys_[0], std::move(entry_));
  return true;
}

REFINE_INLINE bool SafeTensorsHeader::start_array(std::size_t) {
  if (depth_ == 2 && !in_metadata()) {
    if (keys_[1] == "shape") extents_ = &entry_.shape;
    if (keys_[1] == "data_offsets") extents_ = &entry_.data_offsets;
  }
  return (extents_ || check_supported()) && enter();
}

REFINE_INLINE bool SafeTensorsHeader::end_array() {
  extents_ = nullptr;
  --depth_;
  return true;
}

REFINE_INLINE bool SafeTensorsHeader::enter() {
  if (depth_ == max_depth) fail_(fmt::format("the header is nested deeper than {} levels", max_depth));
  names_[depth_++].clear();
  return true;
}

REFINE_INLINE bool SafeTensorsHeader::check_supported() {
  if (depth_ == 0) return false;
  if (in_metadata()) {
    fail_(depth_ == 1 ? "the metadata is not an object"
                      : fmt::format("the metadata '{}' is not a string", shorten(keys_[1])));
  }
  if (depth_ == 1 || keys_[1] == "dtype" || keys_[1] == "shape" || keys_[1] == "data_offsets") {
    fail_malformed();
  }
  return true;
}

REFINE_INLINE void SafeTensorsHeader::fail_malformed() {
  fail_(fmt::format("the entry of tensor '{}' is malformed", shorten(keys_[0])));
}

}  // namespace refine::formats::detail
