#pragma once

#include <refine/formats/exported_program_writer.hpp>

#include <caffe2/serialize/inline_container.h>
#include <fmt/core.h>
#include <torch/version.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <exception>
#include <nlohmann/json.hpp>
#include <utility>
#include <variant>

#include <refine/core/config.hpp>
#include <refine/core/file.hpp>

namespace refine::formats::detail::exported {

/// Returns JSON documents of one program, in the words of torch.export's schema, version 8.
class ProgramWriter {
 public:
  using json = nlohmann::json;

  /// The arguments must stay valid.
  ProgramWriter(const WritableProgram& program, const WritableArchive& content)
      : program_(program), content_(content) {}

  /// Returns models/NAME.json.
  json model() const;

  /// Returns data/weights/NAME_weights_config.json.
  /// \param entries tensor → name of its file below data/weights/
  json weights(const std::map<std::string, std::string>& entries) const;

 private:
  /// The only symbol: the number of images.
  static constexpr const char* symbol = "s0";
  /// The number of images in examples of sizes. It is not 1: PyTorch takes 0 and 1 for constants.
  static constexpr std::int64_t example = 2;

  static json tensor(const std::string& value) { return {{"as_tensor", {{"name", value}}}}; }

  static json integer(const BatchInteger& value);
  static json meta(ElementType type, const std::vector<BatchInteger>& sizes,
                   const std::vector<BatchInteger>& strides);
  static json meta(const WritableTensor& tensor);
  static json number(double value);
  static json tree(const std::vector<GraphOutput>& outputs);

  json argument(const GraphArgument& argument) const;
  json node(const GraphNode& node) const;
  json graph() const;
  json signature() const;
  json module_call() const;

  const WritableProgram& program_;
  const WritableArchive& content_;
};

REFINE_INLINE ProgramWriter::json ProgramWriter::integer(const BatchInteger& value) {
  if (value.per_image == 0) return {{"as_int", value.constant}};
  std::string text = fmt::format("Symbol('{}', positive=True, integer=True)", symbol);
  if (value.per_image != 1) text = fmt::format("Mul(Integer({}), {})", value.per_image, text);
  if (value.constant != 0) text = fmt::format("Add({}, Integer({}))", text, value.constant);
  return {
      {"as_expr", {{"expr_str", text}, {"hint", {{"as_int", value.per_image * example + value.constant}}}}}};
}

REFINE_INLINE ProgramWriter::json ProgramWriter::meta(ElementType type,
                                                      const std::vector<BatchInteger>& sizes,
                                                      const std::vector<BatchInteger>& strides) {
  constexpr int strided = 7;
  const auto list = [](const std::vector<BatchInteger>& values) {
    json result = json::array();
    for (const BatchInteger& value : values) result.push_back(integer(value));
    return result;
  };
  return {{"dtype", static_cast<int>(type)},
          {"sizes", list(sizes)},
          {"requires_grad", false},
          {"device", {{"type", "cpu"}, {"index", nullptr}}},
          {"strides", list(strides)},
          {"storage_offset", {{"as_int", 0}}},
          {"layout", strided}};
}

REFINE_INLINE ProgramWriter::json ProgramWriter::meta(const WritableTensor& tensor) {
  std::vector<BatchInteger> sizes, strides(tensor.sizes.size());
  for (const std::int64_t size : tensor.sizes) sizes.push_back({.constant = size});
  std::int64_t stride = 1;
  for (std::size_t i = sizes.size(); i-- > 0;) {
    strides[i].constant = stride;
    stride *= std::max<std::int64_t>(tensor.sizes[i], 1);
  }
  return meta(tensor.type, sizes, strides);
}

/// Returns a number; JSON has none for infinity.
REFINE_INLINE ProgramWriter::json ProgramWriter::number(double value) {
  if (std::isfinite(value)) return value;
  return std::isnan(value) ? "NaN" : value > 0 ? "Infinity" : "-Infinity";
}

REFINE_INLINE ProgramWriter::json ProgramWriter::argument(const GraphArgument& argument) const {
  const auto list = [](const char* key, const auto& values, auto&& convert) {
    json result = json::array();
    for (const auto& value : values) result.push_back(convert(value));
    return json{{key, std::move(result)}};
  };
  const auto name = [](const ValueName& value) { return json{{"name", value.name}}; };
  if (const auto* value = std::get_if<bool>(&argument)) return {{"as_bool", *value}};
  if (const auto* value = std::get_if<std::int64_t>(&argument)) return {{"as_int", *value}};
  if (const auto* value = std::get_if<double>(&argument)) return {{"as_float", number(*value)}};
  if (const auto* value = std::get_if<std::string>(&argument)) return {{"as_string", *value}};
  if (const auto* value = std::get_if<ValueName>(&argument)) {
    if (program_.integers.contains(value->name)) return {{"as_sym_int", {{"as_name", value->name}}}};
    return tensor(value->name);
  }
  if (const auto* value = std::get_if<ElementType>(&argument)) {
    return {{"as_scalar_type", static_cast<int>(*value)}};
  }
  if (const auto* value = std::get_if<GraphMemoryFormat>(&argument)) {
    return {{"as_memory_format", static_cast<int>(*value)}};
  }
  if (std::holds_alternative<GraphStrided>(argument)) {
    constexpr int strided = 7;
    return {{"as_layout", strided}};
  }
  if (const auto* value = std::get_if<GraphDevice>(&argument)) {
    return {{"as_device", {{"type", value->type}, {"index", value->index ? json(*value->index) : json()}}}};
  }
  if (const auto* values = std::get_if<std::vector<GraphInteger>>(&argument)) {
    const bool is_constant = std::ranges::all_of(
        *values, [](const GraphInteger& value) { return std::holds_alternative<std::int64_t>(value); });
    return list(is_constant ? "as_ints" : "as_sym_ints", *values, [&](const GraphInteger& value) {
      if (const auto* computed = std::get_if<ValueName>(&value)) return json{{"as_name", computed->name}};
      const std::int64_t constant = std::get<std::int64_t>(value);
      return is_constant ? json(constant) : json{{"as_int", constant}};
    });
  }
  if (const auto* values = std::get_if<std::vector<double>>(&argument)) {
    return list("as_floats", *values, number);
  }
  if (const auto* values = std::get_if<std::vector<bool>>(&argument)) {
    return list("as_bools", *values, [](bool value) { return json(value); });
  }
  if (const auto* values = std::get_if<std::vector<ValueName>>(&argument)) {
    return list("as_tensors", *values, name);
  }
  if (const auto* values = std::get_if<std::vector<std::optional<ValueName>>>(&argument)) {
    return list("as_optional_tensors", *values, [&](const std::optional<ValueName>& value) {
      return value ? json{{"as_tensor", name(*value)}} : json{{"as_none", true}};
    });
  }
  return {{"as_none", true}};
}

REFINE_INLINE ProgramWriter::json ProgramWriter::node(const GraphNode& node) const {
  constexpr int positional = 1, keyword = 2;
  json inputs = json::array(), outputs = json::array();
  for (std::size_t i = 0; i < node.inputs.size(); ++i) {
    const auto& [name, value] = node.inputs[i];
    inputs.push_back(
        {{"name", name}, {"arg", argument(value)}, {"kind", i < node.positional ? positional : keyword}});
  }
  for (const GraphArgument& each : node.outputs) outputs.push_back(argument(each));
  std::string target = node.target;
  if (const std::size_t colons = target.find("::"); colons != std::string::npos) {
    target = "torch.ops." + target.substr(0, colons) + "." + target.substr(colons + 2);
  }
  return {{"target", target},
          {"inputs", inputs},
          {"outputs", outputs},
          {"metadata", json::object()},
          {"is_hop_single_tensor_return", nullptr},
          {"name", node.name}};
}

REFINE_INLINE ProgramWriter::json ProgramWriter::graph() const {
  json inputs = json::array(), outputs = json::array(), nodes = json::array();
  json tensors = json::object(), integers = json::object();
  for (const GraphInput& input : program_.inputs) {
    inputs.push_back(tensor(input.name));
    if (input.kind == GraphInput::Kind::tensor) tensors[input.name] = meta(content_.tensors.at(input.stored));
  }
  for (const GraphNode& each : program_.nodes) nodes.push_back(node(each));
  for (const GraphOutput& each : program_.outputs) outputs.push_back(tensor(each.value));
  for (const auto& [name, value] : program_.tensors) {
    tensors[name] = meta(value.type, value.sizes, value.strides);
  }
  for (const auto& [name, value] : program_.integers) integers[name] = integer(value);
  return {{"inputs", inputs},
          {"outputs", outputs},
          {"nodes", nodes},
          {"tensor_values", tensors},
          {"sym_int_values", integers},
          {"sym_bool_values", json::object()},
          {"is_single_tensor_return", false},
          {"custom_obj_values", json::object()},
          {"sym_float_values", json::object()}};
}

REFINE_INLINE ProgramWriter::json ProgramWriter::signature() const {
  json inputs = json::array(), outputs = json::array();
  for (const GraphInput& input : program_.inputs) {
    if (input.kind != GraphInput::Kind::tensor) {
      inputs.push_back({{"user_input", {{"arg", tensor(input.name)}}}});
    } else if (content_.tensors.at(input.stored).is_parameter) {
      inputs.push_back({{"parameter", {{"arg", {{"name", input.name}}}, {"parameter_name", input.stored}}}});
    } else {
      inputs.push_back(
          {{"buffer",
            {{"arg", {{"name", input.name}}}, {"buffer_name", input.stored}, {"persistent", true}}}});
    }
  }
  for (const GraphOutput& output : program_.outputs) {
    outputs.push_back({{"user_output", {{"arg", tensor(output.value)}}}});
  }
  return {{"input_specs", inputs}, {"output_specs", outputs}};
}

/// Returns how Python nests the outputs: a tensor, or a dict of tensors.
REFINE_INLINE ProgramWriter::json ProgramWriter::tree(const std::vector<GraphOutput>& outputs) {
  const json leaf = {{"type", nullptr}, {"context", nullptr}, {"children_spec", json::array()}};
  if (outputs.size() == 1) return leaf;
  json keys = json::array(), leaves = json::array();
  for (const GraphOutput& output : outputs) {
    keys.push_back(output.name);
    leaves.push_back(leaf);
  }
  return {{"type", "builtins.dict"}, {"context", keys.dump()}, {"children_spec", leaves}};
}

REFINE_INLINE ProgramWriter::json ProgramWriter::module_call() const {
  const auto spec = [](const json& tree) { return json::array({1, tree}).dump(); };
  const json images = {{"type", "builtins.tuple"},
                       {"context", "null"},
                       {"children_spec", json::array({tree(std::vector<GraphOutput>(1))})}};
  const json keywords = {{"type", "builtins.dict"}, {"context", "[]"}, {"children_spec", json::array()}};
  const json arguments = {
      {"type", "builtins.tuple"}, {"context", "null"}, {"children_spec", json::array({images, keywords})}};
  return {{"fqn", ""},
          {"signature",
           {{"inputs", json::array()},
            {"outputs", json::array()},
            {"in_spec", spec(arguments)},
            {"out_spec", spec(tree(program_.outputs))},
            {"forward_arg_names", json::array({"images"})}}}};
}

REFINE_INLINE ProgramWriter::json ProgramWriter::model() const {
  constexpr int major = 8, minor = 14, opset = 10;
  return {{"graph_module",
           {{"graph", graph()},
            {"signature", signature()},
            {"module_call_graph", json::array({module_call()})},
            {"metadata", json::object()},
            {"treespec_namedtuple_fields", json::object()}}},
          {"opset_version", {{"aten", opset}}},
          {"range_constraints", {{symbol, {{"min_val", example}, {"max_val", nullptr}}}}},
          {"schema_version", {{"major", major}, {"minor", minor}}},
          {"verifiers", json::array({"TRAINING"})},
          {"torch_version", TORCH_VERSION},
          {"guards_code", json::array()}};
}

REFINE_INLINE ProgramWriter::json ProgramWriter::weights(
    const std::map<std::string, std::string>& entries) const {
  json config = json::object();
  for (const GraphInput& input : program_.inputs) {
    if (input.kind != GraphInput::Kind::tensor) continue;
    const WritableTensor& tensor = content_.tensors.at(input.stored);
    config[input.stored] = {{"path_name", entries.at(input.stored)},
                            {"is_param", tensor.is_parameter},
                            {"use_pickle", false},
                            {"tensor_meta", meta(tensor)}};
  }
  return {{"config", config}};
}

/// A ZIP archive as PyTorch writes it: entries are not compressed, and aligned.
class ArchiveWriter {
 public:
  explicit ArchiveWriter(const std::filesystem::path& path) : file_(path) {}

  /// Adds an entry.
  void add(const std::string& entry, std::string_view bytes) {
    writer_.writeRecord(entry, bytes.data(), bytes.size());
    rethrow();
  }

  /// Gives the file its final name.
  void commit() {
    writer_.writeEndOfFile();
    rethrow();
    file_.commit();
  }

 private:
  // LibTorch's writer is C code, through which no exception may pass, and its destructor must not
  // fail: after an error, it writes to nowhere.
  std::size_t write(const void* bytes, std::size_t count) {
    try {
      if (!error_) file_.write(bytes, count);
    } catch (...) {
      error_ = std::current_exception();
    }
    return count;
  }

  void rethrow() const {
    if (error_) std::rethrow_exception(error_);
  }

  AtomicFile file_;
  std::exception_ptr error_;
  caffe2::serialize::PyTorchStreamWriter writer_{
      [this](const void* bytes, std::size_t count) { return write(bytes, count); }};
};

}  // namespace refine::formats::detail::exported

namespace refine::formats {

REFINE_INLINE void write_exported_programs(const std::filesystem::path& path,
                                           const WritableArchive& content) {
  using namespace detail::exported;
  std::map<std::string, std::string> entries;  // tensor → file
  for (const auto& [name, tensor] : content.tensors) {
    entries[name] = "weight_" + std::to_string(entries.size());
  }
  ArchiveWriter archive(path);
  archive.add("archive_format", "pt2");
  archive.add("archive_version", "0");
  archive.add("byteorder", "little");
  for (const auto& [name, program] : content.programs) {
    const ProgramWriter writer(program, content);
    archive.add("models/" + name + ".json", writer.model().dump());
    archive.add("data/weights/" + name + "_weights_config.json", writer.weights(entries).dump());
    archive.add("data/constants/" + name + "_constants_config.json", R"({"config": {}})");
    archive.add("data/sample_inputs/" + name + ".pt", "");
  }
  for (const auto& [name, text] : content.extra) archive.add("extra/" + name, text);
  for (const auto& [name, tensor] : content.tensors) {
    archive.add("data/weights/" + entries.at(name), tensor.bytes);
  }
  archive.commit();
}

}  // namespace refine::formats
