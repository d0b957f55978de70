#pragma once

#include <refine/formats/inspect.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <system_error>

#include <refine/core/config.hpp>
#include <refine/core/text.hpp>
#include <refine/formats/detail/zip_directory.hpp>

namespace refine::formats::detail {

inline constexpr std::string_view retrace_advice =
    "load it in Python with its library; if it is a PyTorch module, save it with "
    "torch.jit.trace(model.eval(), images).save(\"model.pt\")";
inline constexpr std::string_view convert_advice =
    "convert it to PyTorch and save it with torch.jit.trace(model.eval(), images).save(\"model.pt\")";
inline constexpr std::string_view export_advice =
    "export the module itself, with PyTorch 2.9 or newer: "
    "torch.export.save(torch.export.export(model.eval(), (images,)), \"model.pt2\")";
inline constexpr std::string_view download_advice = "download the model file itself";

/// The bytes that identify a kind of file.
struct Signature {
  std::size_t offset;      ///< where they lie
  std::string_view bytes;  ///< the bytes
  ForeignFile kind;        ///< what they identify
};

using namespace std::string_view_literals;

inline constexpr std::array signatures = {
    Signature{0, "\x89HDF\r\n\x1a\n"sv, {"an HDF5 file, as Keras writes models", convert_advice}},
    Signature{0, "GGUF"sv, {"a GGUF file of a language model", "provide an image classifier"}},
    Signature{4, "TFL3"sv, {"a TensorFlow Lite model", "use the model that it was converted from"}},
    Signature{4, "ET12"sv, {"an ExecuTorch program (.pte)", export_advice}},
    Signature{4, "PTMF"sv, {"a PyTorch Mobile flatbuffer", "use the TorchScript file that it was made from"}},
    Signature{0,
              "version https://git-lfs"sv,
              {"a Git LFS pointer instead of the file", "fetch the file with: git lfs pull", false}},
    Signature{
        0, "\x93NUMPY"sv, {"a NumPy array", "provide the whole state dict, saved with torch.save", false}},
    Signature{0, "MATLAB 5.0 MAT"sv, {"a MATLAB file", convert_advice, false}},
    Signature{
        0, "\x1f\x8b"sv, {"a gzip archive", "unpack it with gunzip or tar, and use the model in it", false}},
    Signature{0, "BZh"sv, {"a bzip2 archive", "unpack it, and use the model in it", false}},
    Signature{0,
              "\xfd"
              "7zXZ\0"sv,
              {"an xz archive", "unpack it, and use the model in it", false}},
    Signature{0, "\x28\xb5\x2f\xfd"sv, {"a zstd archive", "unpack it, and use the model in it", false}},
    Signature{0, "7z\xbc\xaf\x27\x1c"sv, {"a 7z archive", "unpack it, and use the model in it", false}},
    Signature{0, "Rar!"sv, {"a RAR archive", "unpack it, and use the model in it", false}},
    Signature{257, "ustar"sv, {"a tar archive", "unpack it, and use the model in it", false}},
    Signature{0, "\x89PNG"sv, {"a PNG image", "provide a model here; images go to --images", false}},
    Signature{0, "\xff\xd8\xff"sv, {"a JPEG image", "provide a model here; images go to --images", false}},
    Signature{0,
              "\x7f"
              "ELF"sv,
              {"an executable or shared library", "provide the model file", false}},
    Signature{0, "MZ"sv, {"a Windows executable or library", "provide the model file", false}},
    Signature{0, "%PDF"sv, {"a PDF document", "provide the model file", false}},
    Signature{0, "ptrt"sv, {"a TensorRT engine, which has no gradients", export_advice}},
    Signature{0, "ftrt"sv, {"a TensorRT engine, which has no gradients", export_advice}},
};

/// A field in protobuf's wire format.
struct ProtobufField {
  std::uint64_t number = 0;  ///< field number
  std::uint64_t type = 0;    ///< wire type: 0 varint, 2 length-delimited
  std::uint64_t value = 0;   ///< the varint, or the length of the data that follows
};

/// Removes a varint from the front of `bytes`. \return its value; empty if it is malformed

REFINE_INLINE std::optional<std::uint64_t> take_varint(std::string_view& bytes) {
  std::uint64_t value = 0;
  for (unsigned shift = 0; shift < 64 && !bytes.empty(); shift += 7) {
    const auto byte = static_cast<unsigned char>(bytes.front());
    bytes.remove_prefix(1);
    value |= std::uint64_t{byte & 0x7fu} << shift;
    if (byte < 0x80) return value;
  }
  return std::nullopt;
}

/// Removes a field's key and value (or length) from the front of `bytes`.
/// \return the field; empty if it is not one that a model begins with
REFINE_INLINE std::optional<ProtobufField> take_field(std::string_view& bytes) {
  const auto key = take_varint(bytes);
  if (!key) return std::nullopt;
  ProtobufField field{.number = *key >> 3, .type = *key & 7};
  if (field.number == 0 || field.number > 2000 || (field.type != 0 && field.type != 2)) return std::nullopt;
  const auto value = take_varint(bytes);
  if (!value) return std::nullopt;
  field.value = *value;
  return field;
}

/// Recognizes models that are protobuf messages, by the types of their first fields.
REFINE_INLINE std::optional<ForeignFile> recognize_protobuf(std::string_view bytes, std::uint64_t size) {
  const auto is_text = [](std::string_view text) {
    return std::ranges::all_of(text, [](unsigned char c) { return c >= 0x20 && c < 0x7f; });
  };
  std::string_view rest = bytes;
  const auto first = take_field(rest);
  if (!first || first->number != 1) return std::nullopt;
  if (first->type == 2) {  // the first node of a GraphDef begins with its name and its operator
    if (first->value > size || first->value < 8) return std::nullopt;
    const auto name = take_field(rest);
    if (!name || name->number != 1 || name->type != 2 || name->value > 200 || name->value > rest.size()) {
      return std::nullopt;
    }
    if (!is_text(rest.substr(0, name->value))) return std::nullopt;
    rest.remove_prefix(name->value);
    const auto type = take_field(rest);
    if (!type || type->number != 2 || type->type != 2 || type->value > 100 || type->value > rest.size() ||
        !is_text(rest.substr(0, type->value))) {
      return std::nullopt;
    }
    return ForeignFile{"a frozen TensorFlow graph", convert_advice};
  }
  if (first->value == 0 || first->value > 1000) return std::nullopt;
  const auto second = take_field(rest);
  if (!second || (second->type == 2 && second->value > size)) return std::nullopt;
  const ForeignFile onnx{"an ONNX model",
                         "provide it as --model of refine defend, which reads it, or ask for "
                         "PyTorch's weights"};
  if (second->number != 2) {  // opset imports, the producer's version, the graph
    const bool is_onnx = second->type == 2 && second->number >= 3 && second->number <= 26;
    return is_onnx ? std::optional(onnx) : std::nullopt;
  }
  if (second->type != 2) return std::nullopt;
  if (second->value <= rest.size() && second->value <= 200 && is_text(rest.substr(0, second->value))) {
    return onnx;  // the producer's name
  }
  const auto inner = take_field(rest), innermost = take_field(rest);
  if (!inner || inner->type != 2 || inner->number > 10 || inner->value > second->value) return std::nullopt;
  // A SavedModel's description begins with a list of operators, a Core ML model's with its inputs.
  const bool saved_model = first->value == 1 && inner->number == 1 && innermost && innermost->number != 1;
  return saved_model ? ForeignFile{"a TensorFlow SavedModel", convert_advice}
                     : ForeignFile{"a Core ML model", convert_advice};
}

/// Recognizes web pages, XML and JSON.
REFINE_INLINE std::optional<ForeignFile> recognize_text(std::string_view bytes) {
  if (bytes.starts_with("\xef\xbb\xbf")) bytes.remove_prefix(3);
  const std::size_t first = bytes.find_first_not_of(" \t\r\n");
  bytes.remove_prefix(std::min(first, bytes.size()));
  const std::string lower = text::lower(bytes.substr(0, 64));
  for (const std::string_view tag : {"<!doctype html", "<html", "<head", "<body", "<!--"}) {
    if (lower.starts_with(tag)) {
      return ForeignFile{"a web page instead of a model", download_advice, false};
    }
  }
  if (lower.starts_with("<?xml") || lower.starts_with("<net ")) {
    const bool openvino = bytes.substr(0, 4096).find("<net ") != std::string_view::npos;
    return openvino ? ForeignFile{"an OpenVINO model", "use the model that it was converted from"}
                    : ForeignFile{"an XML document", download_advice, false};
  }
  if (lower.starts_with("{\"") || lower.starts_with("{\n") || lower.starts_with("[{") ||
      lower.starts_with("{ \"")) {
    const bool index = bytes.find("\"weight_map\"") != std::string_view::npos;
    return index ? ForeignFile{"the index of a model in several files", "join the files into one", false}
                 : ForeignFile{"a JSON document", download_advice, false};
  }
  return std::nullopt;
}

REFINE_INLINE void refuse_foreign(const std::filesystem::path& path, const ForeignFile& foreign) {
  throw ForeignFileError("cannot load {}: the file is {}; {}", path.string(), foreign.what, foreign.advice);
}

}  // namespace refine::formats::detail

namespace refine::formats {

REFINE_INLINE std::optional<ForeignFile> recognize(std::string_view beginning, std::uint64_t size) {
  if (size == 0) {
    return ForeignFile{"empty", "the copy or the download has failed, get it again", false};
  }
  for (const detail::Signature& signature : detail::signatures) {
    if (beginning.size() > signature.offset &&
        beginning.substr(signature.offset).starts_with(signature.bytes)) {
      return signature.kind;
    }
  }
  if (beginning.size() >= 512 &&
      std::ranges::all_of(beginning.substr(0, 512), [](char c) { return c == '\0'; })) {
    return ForeignFile{"a file of zeros", "the copy or the download has failed, get it again", false};
  }
  if (const auto text = detail::recognize_text(beginning)) return text;
  return detail::recognize_protobuf(beginning, size);
}

REFINE_INLINE std::optional<ForeignFile> recognize_archive(const std::vector<std::string>& names) {
  bool exported = false, old_exported = false, compiled = false, model_json = false, attributes = false,
       data_pickle = false, package = false, keras = false;
  bool handler = false, android = false, office = false;
  std::size_t arrays = 0, models = 0;
  for (const std::string& name : names) {
    const std::string_view inner = std::string_view(name).substr(name.find('/') + 1);
    exported = exported || (inner.starts_with("models/") && inner.ends_with(".json"));
    old_exported = old_exported || inner == "serialized_exported_program.json" ||
                   name == "serialized_exported_program.json";
    compiled = compiled || inner.starts_with("data/aotinductor/");
    data_pickle = data_pickle || inner == "data.pkl";
    model_json = model_json || inner == "model.json";
    attributes = attributes || inner == "attributes.pkl" || inner.starts_with("tensors/");
    package = package || inner == ".data/extern_modules" || inner == ".data/python_version";
    keras = keras || name == "model.weights.h5" || inner == "model.weights.h5";
    handler = handler || name == "MAR-INF/MANIFEST.json";
    android = android || name == "META-INF/MANIFEST.MF";
    office = office || name == "[Content_Types].xml";
    if (name.ends_with(".npy")) ++arrays;
    for (const std::string_view ending :
         {".pt", ".pth", ".safetensors", ".onnx", ".h5", ".pb", ".tflite", ".bin", ".ckpt"}) {
      if (name.ends_with(ending)) ++models;
    }
  }
  using Foreign = std::optional<ForeignFile>;
  if (data_pickle && !package) return std::nullopt;
  if (exported) return std::nullopt;  // formats/exported_program.hpp
  if (old_exported) {
    return Foreign({"an exported program (.pt2) of PyTorch 2.8 or older", detail::export_advice});
  }
  if (compiled) {
    return Foreign(
        {"a compiled library of AOTInductor (.pt2), which runs as machine code", detail::export_advice});
  }
  if (package) return Foreign({"a torch.package archive, which runs Python code", detail::retrace_advice});
  if (keras) return Foreign({"a Keras model", detail::convert_advice});
  if (handler) return Foreign({"a TorchServe archive", "unpack it, and use the model in it"});
  if (model_json && attributes) {
    return Foreign({"a TorchScript file of PyTorch 1.0 to 1.3",
                    "load it with PyTorch 1.4 to 1.7 and save it again with torch.jit.save"});
  }
  if (arrays > 0 && arrays == names.size()) {
    return Foreign(
        {"a file of NumPy arrays (.npz)",
         "save them as a state dict: torch.save({k: torch.tensor(v) for k, v in arrays.items()})"});
  }
  if (android || office)
    return Foreign({"a ZIP archive of another application", "provide the model file", false});
  if (models > 0)
    return Foreign({"a ZIP archive with files in it", "unpack it, and use the model in it", false});
  return std::nullopt;
}

REFINE_INLINE std::optional<ForeignFile> recognize_file(const std::filesystem::path& path) {
  std::error_code unknown;
  if (std::filesystem::is_directory(path, unknown)) {
    const auto has = [&](const char* name) { return std::filesystem::exists(path / name, unknown); };
    if (has("saved_model.pb")) {
      return ForeignFile{"a folder of a TensorFlow SavedModel", detail::convert_advice};
    }
    if (has("Manifest.json")) return ForeignFile{"a Core ML package", detail::convert_advice};
    return ForeignFile{"a folder", "provide the model file in it"};
  }
  detail::SeekableFile file(path);
  const std::string beginning =
      file.read(0, static_cast<std::size_t>(std::min<std::uint64_t>(file.size(), 65536)));
  if (beginning.starts_with("PK\3\4")) {
    std::vector<std::string> names;
    for (const detail::ZipEntry& entry : detail::ZipDirectory(file, ArchiveLimits{}.entries).read()) {
      names.push_back(entry.name);
    }
    return recognize_archive(names);
  }
  if (beginning.starts_with('\x80')) return std::nullopt;
  return recognize(beginning, file.size());
}

}  // namespace refine::formats
