#pragma once

#include <refine/formats/onnx.hpp>

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <iterator>
#include <utility>

#include <refine/core/config.hpp>
#include <refine/core/error.hpp>
#include <refine/core/file.hpp>
#include <refine/formats/detail/onnx_operators.hpp>
#include <refine/formats/detail/protobuf.hpp>
#include <refine/formats/inspect.hpp>

namespace refine::formats::detail::onnx {

using protobuf::Field;
using protobuf::Malformed;
using protobuf::Reader;
using protobuf::WireType;

/// ONNX's number of each element type.
inline constexpr std::array element_types = {
    std::pair{1, ElementType::float32},  std::pair{2, ElementType::uint8},
    std::pair{3, ElementType::int8},     std::pair{5, ElementType::int16},
    std::pair{6, ElementType::int32},    std::pair{7, ElementType::int64},
    std::pair{9, ElementType::boolean},  std::pair{10, ElementType::float16},
    std::pair{11, ElementType::float64}, std::pair{16, ElementType::bfloat16}};

inline std::optional<ElementType> element_type(std::uint64_t number) {
  for (const auto& [known, type] : element_types) {
    if (static_cast<std::uint64_t>(known) == number) return type;
  }
  return std::nullopt;
}

REFINE_INLINE std::int64_t type_number(ElementType type) {
  for (const auto& [number, known] : element_types) {
    if (known == type) return number;
  }
  return 0;
}

/// Returns the number of elements.
/// \throws Malformed if it does not fit 63 bits, or an extent is negative
inline std::int64_t checked_count(const std::vector<std::int64_t>& sizes) {
  std::int64_t n = 1;
  for (const std::int64_t size : sizes) {
    if (size < 0 || __builtin_mul_overflow(n, std::max<std::int64_t>(size, 1), &n)) {
      throw Malformed("a tensor has an extent out of range");
    }
  }
  return std::ranges::find(sizes, 0) == sizes.end() ? n : 0;
}

/// Reads a model. Values are copied only up to a number of bytes that the size of the file sets.
class ModelReader {
 public:
  explicit ModelReader(std::string_view bytes)
      : bytes_(bytes), max_copied_((std::uint64_t{64} << 20) + std::uint64_t{16} * bytes.size()) {}

  OnnxListing read();

 private:
  /// Elements of a tensor beside raw_data, by the field that has them.
  enum ElementField : std::uint32_t {
    float_data = 4,
    int32_data = 5,
    int64_data = 7,
    double_data = 10,
    uint64_data = 11
  };

  /// Notes a field that a message has at most once. Of two, some readers take the first and some the
  /// last one.
  static void once(std::set<std::uint32_t>& seen, const Field& field, const char* message) {
    if (!seen.insert(field.number).second) {
      throw Malformed(fmt::format("a {} has its field {} twice", message, field.number));
    }
  }

  static void require(const Field& field, WireType type) {
    if (field.type != type) {
      throw Malformed(fmt::format("its field {} is encoded in another way than ONNX defines", field.number));
    }
  }

  void object(Objection::Kind kind, std::string text) {
    add_objection(listing_.objections, {kind, std::move(text)});
  }

  void charge(std::uint64_t bytes) {
    if (bytes > max_copied_ - copied_) {
      throw Malformed(fmt::format(
          "its content is too large for the size of the file: {} bytes in memory, more than the {} allowed",
          copied_ + bytes, max_copied_));
    }
    copied_ += bytes;
  }

  std::string text(const Field& field) {
    require(field, WireType::bytes);
    charge(field.bytes.size() + sizeof(std::string));
    return std::string(field.bytes);
  }

  /// Reads numbers that are packed or one field each.
  template <typename Number>
  void numbers(const Field& field, std::vector<Number>& to);

  void graph(std::string_view bytes);
  OnnxNode node(std::string_view bytes);
  std::pair<std::string, std::optional<OnnxAttribute>> attribute(std::string_view bytes,
                                                                 const std::string& owner);
  std::pair<std::string, std::optional<OnnxTensor>> tensor(std::string_view bytes, const std::string& owner);
  OnnxValue value(std::string_view bytes);
  void value_type(std::string_view bytes, OnnxValue& value);
  void dimension(std::string_view bytes, OnnxValue& value);
  void opset_import(std::string_view bytes);
  std::pair<std::string, std::string> entry(std::string_view bytes);
  void check_operator(const OnnxNode& node, const std::string& domain);
  void check_values();

  std::string_view bytes_;
  std::uint64_t copied_ = 0;
  const std::uint64_t max_copied_;
  OnnxListing listing_;
  std::vector<OnnxValue> inputs_;  // with those that have an initializer
};

template <typename Number>
void ModelReader::numbers(const Field& field, std::vector<Number>& to) {
  constexpr bool is_real = std::is_floating_point_v<Number>;
  const auto add = [&](Number number) {
    charge(sizeof(Number));
    to.push_back(number);
  };
  if (field.type == WireType::bytes) {
    Reader packed(field.bytes);
    while (!packed.empty()) {
      if constexpr (is_real) {
        add(packed.fixed<Number>());
      } else {
        add(static_cast<Number>(packed.varint()));
      }
    }
    return;
  }
  if constexpr (is_real) {
    require(field, sizeof(Number) == 4 ? WireType::fixed32 : WireType::fixed64);
    using Bits = std::conditional_t<sizeof(Number) == 4, std::uint32_t, std::uint64_t>;
    add(std::bit_cast<Number>(static_cast<Bits>(field.value)));
  } else {
    require(field, WireType::varint);
    add(static_cast<Number>(field.value));
  }
}

REFINE_INLINE OnnxListing ModelReader::read() {
  namespace model = model_field;
  OnnxModel& read = listing_.model;
  std::set<std::uint32_t> seen;
  std::optional<std::string_view> graph_bytes;
  Reader reader(bytes_);
  while (const auto field = reader.next()) {
    switch (field->number) {
      case model::ir_version:
        once(seen, *field, "model");
        require(*field, WireType::varint);
        read.ir_version = static_cast<std::int64_t>(field->value);
        break;
      case model::producer:
        once(seen, *field, "model");
        read.producer = text(*field);
        break;
      case model::graph:
        once(seen, *field, "model");
        require(*field, WireType::bytes);
        graph_bytes = field->bytes;
        break;
      case model::opset_import:
        require(*field, WireType::bytes);
        opset_import(field->bytes);
        break;
      case model::metadata: {
        require(*field, WireType::bytes);
        auto [key, value] = entry(field->bytes);
        if (!read.metadata.emplace(key, std::move(value)).second) {
          throw Malformed(fmt::format("its metadata has the key '{}' twice", key));
        }
        break;
      }
      case model::training:
        object(Objection::Kind::unsupported, "it has training information");
        break;
      case model::functions:
        object(Objection::Kind::harmful,
               "it has functions, which can redefine operators that other programs know by their names");
        break;
      default:
        break;
    }
  }
  if (!graph_bytes) throw Malformed("it has no graph");
  if (read.opset == 0) throw Malformed("it does not state the version of its operators");
  graph(*graph_bytes);
  check_values();
  return std::move(listing_);
}

REFINE_INLINE void ModelReader::opset_import(std::string_view bytes) {
  std::string domain;
  std::uint64_t version = 0;
  std::set<std::uint32_t> seen;
  Reader reader(bytes);
  while (const auto field = reader.next()) {
    if (field->number > 2) continue;
    once(seen, *field, "version of operators");
    if (field->number == 1) {
      domain = text(*field);
    } else {
      require(*field, WireType::varint);
      version = field->value;
    }
  }
  // A domain that no node uses does no harm; exporters list ones that an optimiser has removed.
  if (!domain.empty() && domain != "ai.onnx") return;
  if (listing_.model.opset != 0) throw Malformed("it states the version of its operators twice");
  if (version == 0 || version > 1000) throw Malformed("it states an impossible version of its operators");
  listing_.model.opset = static_cast<std::int64_t>(version);
}

REFINE_INLINE std::pair<std::string, std::string> ModelReader::entry(std::string_view bytes) {
  std::pair<std::string, std::string> result;
  std::set<std::uint32_t> seen;
  Reader reader(bytes);
  while (const auto field = reader.next()) {
    if (field->number > 2) continue;
    once(seen, *field, "metadata entry");
    (field->number == 1 ? result.first : result.second) = text(*field);
  }
  return result;
}

REFINE_INLINE void ModelReader::graph(std::string_view bytes) {
  namespace fields = graph_field;
  OnnxModel& model = listing_.model;
  Reader reader(bytes);
  std::set<std::uint32_t> seen;
  while (const auto field = reader.next()) {
    switch (field->number) {
      case fields::node:
        require(*field, WireType::bytes);
        charge(sizeof(OnnxNode) + field->bytes.size());
        model.nodes.push_back(node(field->bytes));
        break;
      case fields::initializer: {
        require(*field, WireType::bytes);
        auto [name, content] = tensor(field->bytes, "its tensor");
        if (!content) break;
        if (!model.tensors.emplace(name, std::move(*content)).second) {
          object(Objection::Kind::harmful,
                 fmt::format("it has the tensor '{}' twice, of which each program takes another one", name));
        }
        break;
      }
      case fields::input:
        require(*field, WireType::bytes);
        inputs_.push_back(value(field->bytes));
        break;
      case fields::output:
        require(*field, WireType::bytes);
        model.outputs.push_back(value(field->bytes));
        break;
      case fields::quantization:
        object(Objection::Kind::quantized, "it has tensors of quantised numbers");
        break;
      case fields::sparse:
        object(Objection::Kind::unsupported, "it has sparse tensors");
        break;
      case fields::name:
        once(seen, *field, "graph");
        break;
      default:
        break;
    }
  }
}

REFINE_INLINE OnnxNode ModelReader::node(std::string_view bytes) {
  namespace fields = node_field;
  OnnxNode result{.encoded = std::string(bytes)};
  std::string domain;
  std::set<std::uint32_t> seen;
  std::vector<std::string_view> attributes;
  Reader reader(bytes);
  while (const auto field = reader.next()) {
    switch (field->number) {
      case fields::input:
        result.inputs.push_back(text(*field));
        break;
      case fields::output:
        result.outputs.push_back(text(*field));
        break;
      case fields::name:
        once(seen, *field, "node");
        result.name = text(*field);
        break;
      case fields::op_type:
        once(seen, *field, "node");
        result.op = text(*field);
        break;
      case fields::attribute:
        require(*field, WireType::bytes);
        attributes.push_back(field->bytes);
        break;
      case fields::domain:
        once(seen, *field, "node");
        domain = text(*field);
        break;
      case fields::overload:
        if (!text(*field).empty()) {
          object(Objection::Kind::harmful,
                 fmt::format("its node '{}' calls a function of the file", result.name));
        }
        break;
      default:
        break;
    }
  }
  if (domain == "ai.onnx") domain.clear();
  const std::string owner = fmt::format("its node '{}' ({})", result.name, result.op);
  check_operator(result, domain);
  for (const std::string_view each : attributes) {
    auto [name, content] = attribute(each, owner);
    if (!content) continue;
    if (!result.attributes.emplace(name, std::move(*content)).second) {
      object(Objection::Kind::harmful, fmt::format("{} has the attribute '{}' twice", owner, name));
    }
  }
  return result;
}

REFINE_INLINE void ModelReader::check_operator(const OnnxNode& node, const std::string& domain) {
  if (node.op.empty()) throw Malformed("a node does not name its operator");
  if (!domain.empty()) {
    listing_.operators.insert(domain + "." + node.op);
    return object(
        Objection::Kind::library,
        fmt::format("it uses the operator {}.{}, which belongs to another library", domain, node.op));
  }
  listing_.operators.insert(node.op);
  if (onnx_operators::has(onnx_operators::control_flow, node.op)) {
    object(Objection::Kind::unsupported, fmt::format("it has control flow ({})", node.op));
  } else if (onnx_operators::has(onnx_operators::quantized, node.op)) {
    object(Objection::Kind::quantized,
           fmt::format("it uses the operator {}, which computes with quantised numbers", node.op));
  } else if (!onnx_operators::has(onnx_operators::permitted, node.op)) {
    object(Objection::Kind::unknown,
           fmt::format("it uses the operator {}, which refine does not know", node.op));
  }
}

REFINE_INLINE std::pair<std::string, std::optional<OnnxAttribute>> ModelReader::attribute(
    std::string_view bytes, const std::string& owner) {
  enum : std::uint32_t {
    name = 1,
    f,
    i,
    s,
    t,
    g,
    floats,
    ints,
    strings,
    tensors,
    graphs,
    type = 20,
    reference
  };
  constexpr std::uint32_t type_proto = 14, type_protos = 15, sparse = 22, sparses = 23;
  std::string attribute_name;
  std::optional<OnnxAttribute> result;
  std::set<std::uint32_t> seen, kinds;  // kinds: fields with a value
  std::uint64_t stated = 0;
  std::vector<float> reals;
  std::vector<std::int64_t> integers;
  std::vector<std::string> texts;
  const auto refuse = [&](Objection::Kind kind, std::string_view what) {
    object(kind, fmt::format("{} {}", owner, what));
  };
  Reader reader(bytes);
  while (const auto field = reader.next()) {
    switch (field->number) {
      case name:
        once(seen, *field, "attribute");
        attribute_name = text(*field);
        break;
      case f:
        once(seen, *field, "attribute");
        require(*field, WireType::fixed32);
        result = std::bit_cast<float>(static_cast<std::uint32_t>(field->value));
        break;
      case i:
        once(seen, *field, "attribute");
        require(*field, WireType::varint);
        result = static_cast<std::int64_t>(field->value);
        break;
      case s:
        once(seen, *field, "attribute");
        result = text(*field);
        break;
      case t: {
        once(seen, *field, "attribute");
        require(*field, WireType::bytes);
        auto content = tensor(field->bytes, owner).second;
        if (content) result = std::move(*content);
        break;
      }
      case floats:
        numbers(*field, reals);
        break;
      case ints:
        numbers(*field, integers);
        break;
      case strings:
        texts.push_back(text(*field));
        break;
      case g:
      case graphs:
        refuse(Objection::Kind::unsupported, "has control flow: a graph as an attribute");
        break;
      case reference:
        if (!text(*field).empty())
          refuse(Objection::Kind::harmful, "has an attribute of a function, outside of one");
        break;
      case tensors:
      case type_proto:
      case type_protos:
      case sparse:
      case sparses:
        refuse(Objection::Kind::unsupported, "has an attribute of a kind that refine does not read");
        break;
      case type:
        once(seen, *field, "attribute");
        require(*field, WireType::varint);
        stated = field->value;
        break;
      default:
        break;
    }
    if (field->number >= f && field->number <= graphs) kinds.insert(field->number);
  }
  if (attribute_name.empty()) throw Malformed("an attribute has no name");
  if (kinds.size() > 1) {
    refuse(Objection::Kind::harmful,
           fmt::format("has several values of the attribute '{}', of which each program takes another one",
                       attribute_name));
  }
  // The numbers of AttributeProto.AttributeType, in the order of the fields.
  constexpr std::array<std::uint32_t, 9> field_of_type = {0, f, i, s, t, g, floats, ints, strings};
  if (!kinds.empty() && stated != 0 &&
      (stated >= field_of_type.size() ? stated != 9 && stated != 10
                                      : field_of_type[stated] != *kinds.begin())) {
    refuse(Objection::Kind::harmful,
           fmt::format("has the attribute '{}' of another type than it states", attribute_name));
  }
  if (kinds.contains(floats) || stated == 6) result = std::move(reals);
  if (kinds.contains(ints) || stated == 7) result = std::move(integers);
  if (kinds.contains(strings) || stated == 8) result = std::move(texts);
  if (kinds.empty() && stated == 1) result = 0.0F;
  if (kinds.empty() && stated == 2) result = std::int64_t{0};
  if (kinds.empty() && stated == 3) result = std::string();
  return {attribute_name, std::move(result)};
}

REFINE_INLINE std::pair<std::string, std::optional<OnnxTensor>> ModelReader::tensor(
    std::string_view bytes, const std::string& owner) {
  enum : std::uint32_t { dims = 1, data_type, segment, string_data = 6, name = 8, raw = 9 };
  constexpr std::uint32_t external = 13, location = 14;
  OnnxTensor result;
  std::string tensor_name;
  std::uint64_t type = 0;
  std::optional<std::string_view> raw_bytes;
  std::set<std::uint32_t> seen, elements;
  std::vector<float> floats;
  std::vector<double> doubles;
  std::vector<std::int64_t> integers;
  bool is_external = false, is_whole = true;
  Reader reader(bytes);
  while (const auto field = reader.next()) {
    switch (field->number) {
      case dims:
        numbers(*field, result.sizes);
        break;
      case data_type:
        once(seen, *field, "tensor");
        require(*field, WireType::varint);
        type = field->value;
        break;
      case name:
        once(seen, *field, "tensor");
        tensor_name = text(*field);
        break;
      case raw:
        once(seen, *field, "tensor");
        require(*field, WireType::bytes);
        raw_bytes = field->bytes;
        break;
      case float_data:
        elements.insert(field->number);
        numbers(*field, floats);
        break;
      case double_data:
        elements.insert(field->number);
        numbers(*field, doubles);
        break;
      case int32_data:
      case int64_data:
      case uint64_data:
        elements.insert(field->number);
        numbers(*field, integers);
        break;
      case segment:
      case string_data:
        is_whole = false;
        break;
      case external:
        is_external = true;
        break;
      case location:
        is_external = is_external || field->value != 0 || field->type != WireType::varint;
        break;
      default:
        break;
    }
  }
  const std::string called = tensor_name.empty() ? owner : fmt::format("{} '{}'", owner, tensor_name);
  const auto refuse = [&](Objection::Kind kind, std::string_view what) {
    object(kind, fmt::format("{} {}", called, what));
    return std::pair{tensor_name, std::optional<OnnxTensor>()};
  };
  if (is_external) {
    return refuse(
        Objection::Kind::harmful,
        "has external data: its elements are in another file, and it may name any file of this machine");
  }
  if (elements.size() + (raw_bytes ? 1 : 0) > 1) {
    return refuse(
        Objection::Kind::harmful,
        "has its elements twice (raw_data beside another field), of which each program takes another one");
  }
  const auto known = element_type(type);
  if (!known || !is_whole) {
    return refuse(Objection::Kind::unsupported, "is of a type that refine does not read");
  }
  constexpr std::size_t max_rank = 16;
  if (result.sizes.size() > max_rank) {
    throw Malformed(
        fmt::format("{} has {} dimensions, more than the {} allowed", called, result.sizes.size(), max_rank));
  }
  result.type = *known;
  const auto count = static_cast<std::uint64_t>(checked_count(result.sizes));
  const std::size_t size = element_bytes(*known);
  if (raw_bytes) {
    if (raw_bytes->size() / size != count || raw_bytes->size() % size != 0) {
      throw Malformed(fmt::format("{} has {} bytes for {} elements", called, raw_bytes->size(), count));
    }
    charge(raw_bytes->size());
    result.bytes = *raw_bytes;
  } else {
    const std::size_t found = floats.size() + doubles.size() + integers.size();
    const std::uint32_t expected = *known == ElementType::float32   ? float_data
                                   : *known == ElementType::float64 ? double_data
                                   : *known == ElementType::int64   ? int64_data
                                                                    : int32_data;
    if (found != count || (found > 0 && *elements.begin() != expected)) {
      throw Malformed(fmt::format("{} has {} numbers for {} elements", called, found, count));
    }
    charge(count * size);
    result.bytes.resize(static_cast<std::size_t>(count) * size);
    char* to = result.bytes.data();
    const auto copy = [&](const auto& from) {
      if (!from.empty()) std::memcpy(to, from.data(), result.bytes.size());
    };
    if (*known == ElementType::float32) {
      copy(floats);
    } else if (*known == ElementType::float64) {
      copy(doubles);
    } else {
      // Smaller types are in int32_data, float16 as its bits: the low bytes of each number.
      for (const std::int64_t number : integers) {
        std::memcpy(to, &number, size);
        to += size;
      }
    }
  }
  if (*known == ElementType::boolean &&
      std::ranges::any_of(result.bytes, [](char byte) { return byte != 0 && byte != 1; })) {
    throw Malformed(fmt::format("{} has a boolean that is neither 0 nor 1", called));
  }
  return {tensor_name, std::move(result)};
}

REFINE_INLINE OnnxValue ModelReader::value(std::string_view bytes) {
  OnnxValue result;
  std::set<std::uint32_t> seen;
  Reader reader(bytes);
  while (const auto field = reader.next()) {
    if (field->number > 2) continue;
    once(seen, *field, "value");
    if (field->number == 1) {
      result.name = text(*field);
    } else {
      require(*field, WireType::bytes);
      value_type(field->bytes, result);
    }
  }
  return result;
}

REFINE_INLINE void ModelReader::value_type(std::string_view bytes, OnnxValue& value) {
  std::set<std::uint32_t> seen;
  Reader type(bytes);
  while (const auto kind = type.next()) {
    if (kind->number != 1) continue;  // a sequence, a map, …
    once(seen, *kind, "type");
    require(*kind, WireType::bytes);
    std::set<std::uint32_t> seen_inside;
    Reader tensor(kind->bytes);
    while (const auto field = tensor.next()) {
      if (field->number > 2) continue;
      once(seen_inside, *field, "type");
      if (field->number == 1) {
        require(*field, WireType::varint);
        value.type = element_type(field->value);
        continue;
      }
      require(*field, WireType::bytes);
      value.has_shape = true;
      Reader shape(field->bytes);
      while (const auto extent = shape.next()) {
        if (extent->number != 1) continue;
        require(*extent, WireType::bytes);
        dimension(extent->bytes, value);
      }
    }
  }
}

REFINE_INLINE void ModelReader::dimension(std::string_view bytes, OnnxValue& value) {
  charge(sizeof(std::optional<std::int64_t>));
  std::optional<std::int64_t> size;
  Reader reader(bytes);
  while (const auto field = reader.next()) {
    if (field->number != 1) continue;
    require(*field, WireType::varint);
    const auto number = static_cast<std::int64_t>(field->value);
    // Some exporters write 0 or -1 for an open extent.
    if (number > 0) size = number;
  }
  value.sizes.push_back(size);
}

REFINE_INLINE void ModelReader::check_values() {
  OnnxModel& model = listing_.model;
  std::set<std::string_view> defined;
  for (const auto& [name, content] : model.tensors) defined.insert(name);
  for (OnnxValue& input : inputs_) {
    if (model.tensors.contains(input.name)) continue;
    if (input.name.empty()) throw Malformed("an input has no name");
    model.inputs.push_back(std::move(input));
  }
  for (const OnnxValue& input : model.inputs) {
    if (!defined.insert(input.name).second) {
      object(Objection::Kind::harmful, fmt::format("it has the input '{}' twice", input.name));
    }
  }
  const bool is_complete = listing_.objections.empty();  // else tensors that were refused are missing
  for (const OnnxNode& node : model.nodes) {
    for (const std::string& input : node.inputs) {
      if (!input.empty() && is_complete && !defined.contains(input)) {
        throw Malformed(
            fmt::format("its node '{}' ({}) uses '{}' before it is defined", node.name, node.op, input));
      }
    }
    for (const std::string& output : node.outputs) {
      if (!output.empty() && !defined.insert(output).second) {
        object(
            Objection::Kind::harmful,
            fmt::format("it defines the value '{}' twice, of which each program takes another one", output));
      }
    }
  }
  for (const OnnxValue& output : model.outputs) {
    if (is_complete && !defined.contains(output.name)) {
      throw Malformed(fmt::format("its output '{}' is not computed", output.name));
    }
  }
}

REFINE_INLINE std::string advice(const OnnxListing& listing) {
  const auto has = [&](Objection::Kind kind) { return has_objection(listing.objections, kind); };
  const bool is_external = std::ranges::any_of(listing.objections, [](const Objection& each) {
    return each.text.find("external data") != std::string::npos;
  });
  if (has(Objection::Kind::harmful) && !is_external)
    return "do not use it before its author has explained that, and ask for the PyTorch model";
  if (is_external) {
    return "ask its author for one file with all weights inside: onnx.save(model, path, "
           "save_as_external_data=False)";
  }
  if (has(Objection::Kind::quantized)) return "use the float model, before it is quantised";
  return "export the PyTorch module itself: torch.export.save(torch.export.export(model.eval(), (images,)), "
         "\"model.pt2\")";
}

REFINE_INLINE void check_file_size(const std::filesystem::path& path, std::uint64_t bytes) {
  if (bytes <= max_file_bytes) return;
  throw Error("cannot write {}: it would have {} bytes, and an ONNX file has at most 2 GB; write a .pt2",
              path.string(), bytes);
}

REFINE_INLINE void check_size_to_read(const std::filesystem::path& path, std::uint64_t bytes) {
  if (bytes <= max_file_bytes) return;
  throw Error("cannot read {}: it has {} bytes, more than the {} that an ONNX file may have; use a .pt2",
              path.string(), bytes, max_file_bytes);
}

REFINE_INLINE std::string read_file(const std::filesystem::path& path) {
  std::error_code unknown;
  if (const std::uint64_t size = std::filesystem::file_size(path, unknown); !unknown) {
    check_size_to_read(path, size);
  }
  return files::read(path);
}

/// Returns the encoded attribute of a node.
inline std::string encoded_attribute(const std::string& name, const OnnxAttribute& attribute) {
  constexpr std::uint32_t name_field = 1, f = 2, i = 3, s = 4, t = 5, floats = 7, ints = 8, strings = 9,
                          type_field = 20;
  enum : std::int64_t { is_float = 1, is_int, is_text, is_tensor, is_floats = 6, is_ints, is_texts };
  protobuf::Writer writer;
  writer.bytes(name_field, name);
  std::int64_t type = 0;
  if (const auto* real = std::get_if<float>(&attribute)) {
    writer.real(f, *real);
    type = is_float;
  } else if (const auto* integer = std::get_if<std::int64_t>(&attribute)) {
    writer.integer(i, *integer);
    type = is_int;
  } else if (const auto* text = std::get_if<std::string>(&attribute)) {
    writer.bytes(s, *text);
    type = is_text;
  } else if (const auto* tensor = std::get_if<OnnxTensor>(&attribute)) {
    protobuf::Writer content;
    for (const std::int64_t size : tensor->sizes) content.integer(1, size);
    content.integer(2, type_number(tensor->type));
    content.bytes(9, tensor->bytes);
    writer.bytes(t, content.message());
    type = is_tensor;
  } else if (const auto* reals = std::get_if<std::vector<float>>(&attribute)) {
    for (const float each : *reals) writer.real(floats, each);
    type = is_floats;
  } else if (const auto* integers = std::get_if<std::vector<std::int64_t>>(&attribute)) {
    for (const std::int64_t each : *integers) writer.integer(ints, each);
    type = is_ints;
  } else if (const auto* texts = std::get_if<std::vector<std::string>>(&attribute)) {
    for (const std::string& each : *texts) writer.bytes(strings, each);
    type = is_texts;
  }
  writer.integer(type_field, type);
  return writer.message();
}

inline std::string encoded_node(const OnnxNode& node) {
  if (!node.encoded.empty()) return node.encoded;
  namespace fields = node_field;
  protobuf::Writer writer;
  for (const std::string& input : node.inputs) writer.bytes(fields::input, input);
  for (const std::string& output : node.outputs) writer.bytes(fields::output, output);
  if (!node.name.empty()) writer.bytes(fields::name, node.name);
  writer.bytes(fields::op_type, node.op);
  for (const auto& [name, attribute] : node.attributes) {
    writer.bytes(fields::attribute, encoded_attribute(name, attribute));
  }
  return writer.message();
}

inline std::string encoded_value(const OnnxValue& value) {
  protobuf::Writer shape, tensor, type, result;
  for (const auto& size : value.sizes) {
    protobuf::Writer dimension;
    size ? dimension.integer(1, *size) : dimension.bytes(2, "batch");
    shape.bytes(1, dimension.message());
  }
  tensor.integer(1, type_number(value.type.value_or(ElementType::float32)));
  tensor.bytes(2, shape.message());
  type.bytes(1, tensor.message());
  result.bytes(1, value.name);
  result.bytes(2, type.message());
  return result.message();
}

}  // namespace refine::formats::detail::onnx

namespace refine::formats {

REFINE_INLINE std::int64_t OnnxTensor::count() const {
  std::int64_t n = 1;
  for (const std::int64_t size : sizes) n *= size;
  return n;
}

namespace detail::onnx {

/// Calls `add` with each element of a tensor whose elements are of the type `Stored`.
template <typename Stored, typename Add>
void each_element(const OnnxTensor& tensor, const Add& add) {
  for (std::size_t at = 0; at + sizeof(Stored) <= tensor.bytes.size(); at += sizeof(Stored)) {
    Stored value;
    std::memcpy(&value, tensor.bytes.data() + at, sizeof(Stored));
    add(value);
  }
}

/// Calls `add` with each element of a tensor of integers or booleans.
/// \return false if its elements are others
template <typename Add>
bool each_integer(const OnnxTensor& tensor, const Add& add) {
  switch (tensor.type) {
    case ElementType::int64:
      each_element<std::int64_t>(tensor, add);
      return true;
    case ElementType::int32:
      each_element<std::int32_t>(tensor, add);
      return true;
    case ElementType::int16:
      each_element<std::int16_t>(tensor, add);
      return true;
    case ElementType::int8:
      each_element<std::int8_t>(tensor, add);
      return true;
    case ElementType::uint8:
    case ElementType::boolean:
      each_element<std::uint8_t>(tensor, add);
      return true;
    default:
      return false;
  }
}

}  // namespace detail::onnx

REFINE_INLINE std::optional<std::vector<std::int64_t>> OnnxTensor::integers() const {
  std::vector<std::int64_t> values;
  if (!detail::onnx::each_integer(*this, [&](auto value) { values.push_back(value); })) return std::nullopt;
  return values;
}

REFINE_INLINE std::optional<std::vector<double>> OnnxTensor::reals() const {
  std::vector<double> values;
  const auto add = [&](auto value) { values.push_back(static_cast<double>(value)); };
  if (type == ElementType::float32) {
    detail::onnx::each_element<float>(*this, add);
  } else if (type == ElementType::float64) {
    detail::onnx::each_element<double>(*this, add);
  } else if (!detail::onnx::each_integer(*this, add)) {
    return std::nullopt;
  }
  return values;
}

REFINE_INLINE bool is_onnx_file(const std::filesystem::path& path) {
  constexpr std::size_t enough = 4096;
  std::uint64_t size = 0;
  const std::string beginning = refine::detail::read_beginning(path, enough, size);
  if (beginning.empty()) return false;
  const auto foreign = recognize(beginning, size);
  return foreign && foreign->what == detail::onnx::recognized_as;
}

REFINE_INLINE OnnxListing inspect_onnx(std::string_view bytes, const std::filesystem::path& name) {
  detail::onnx::check_size_to_read(name, bytes.size());
  OnnxListing listing;
  try {
    listing = detail::onnx::ModelReader(bytes).read();
  } catch (const detail::onnx::Malformed& error) {
    throw Error("cannot read {}: it is not a valid ONNX model: {}; copy or export it again", name.string(),
                error.what());
  }
  const std::int64_t opset = listing.model.opset;
  if (opset < min_onnx_opset || opset > max_onnx_opset) {
    throw Error(
        "cannot read {}: its operators have a version that refine does not read (got opset {}, expected {} to "
        "{}); convert it: onnx.version_converter.convert_version(model, 17)",
        name.string(), opset, min_onnx_opset, max_onnx_opset);
  }
  return listing;
}

REFINE_INLINE OnnxModel read_onnx(const std::filesystem::path& path) {
  OnnxListing listing = inspect_onnx(detail::onnx::read_file(path), path);
  using Kind = Objection::Kind;
  for (const Kind kind : {Kind::harmful, Kind::library, Kind::quantized, Kind::unsupported, Kind::unknown}) {
    if (!detail::has_objection(listing.objections, kind)) continue;
    detail::refuse_program(path, listing.objections, kind, detail::onnx::advice(listing));
  }
  return std::move(listing.model);
}

REFINE_INLINE void write_onnx(const std::filesystem::path& path, const WritableOnnx& content) {
  using namespace detail::onnx;
  using detail::protobuf::Writer;
  Writer nodes, values;
  for (const OnnxNode& node : content.nodes) nodes.bytes(graph_field::node, encoded_node(node));
  nodes.bytes(graph_field::name, "refine");
  for (const OnnxValue& input : content.inputs) values.bytes(graph_field::input, encoded_value(input));
  for (const OnnxValue& output : content.outputs) values.bytes(graph_field::output, encoded_value(output));
  constexpr std::uint32_t dims = 1, data_type = 2, name_field = 8, raw = 9;
  std::vector<std::string> headers;  // of the tensors, before their elements
  std::uint64_t graph_size = nodes.message().size() + values.message().size();
  for (const auto& [name, tensor] : content.tensors) {
    Writer inner;
    for (const std::int64_t size : tensor.sizes) inner.integer(dims, size);
    inner.integer(data_type, type_number(tensor.type));
    inner.bytes(name_field, name);
    inner.begin(raw, tensor.bytes.size());
    Writer header;
    header.begin(graph_field::initializer, inner.message().size() + tensor.bytes.size());
    headers.push_back(header.message() + inner.message());
    graph_size += headers.back().size() + tensor.bytes.size();
  }
  Writer before, after;
  before.integer(model_field::ir_version, content.ir_version);
  before.bytes(model_field::producer, "refine");
  before.begin(model_field::graph, graph_size);
  Writer opset;
  opset.bytes(1, "");
  opset.integer(2, content.opset);
  after.bytes(model_field::opset_import, opset.message());
  for (const auto& [key, value] : content.metadata) {
    Writer entry;
    entry.bytes(1, key);
    entry.bytes(2, value);
    after.bytes(model_field::metadata, entry.message());
  }
  const std::uint64_t total = before.message().size() + graph_size + after.message().size();
  check_file_size(path, total);
  AtomicFile file(path);
  file.write(before.message());
  file.write(nodes.message());
  std::size_t position = 0;
  for (const auto& [name, tensor] : content.tensors) {
    file.write(headers[position++]);
    file.write(tensor.bytes);
  }
  file.write(values.message());
  file.write(after.message());
  file.commit();
}

}  // namespace refine::formats
