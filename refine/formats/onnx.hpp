#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include <refine/formats/detail/objection.hpp>
#include <refine/formats/exported_program.hpp>

namespace refine::formats {

/// A tensor in an ONNX model, contiguous.
struct OnnxTensor {
  ElementType type = ElementType::float32;  ///< its element type
  std::vector<std::int64_t> sizes = {};     ///< extent of each dimension
  std::string bytes = {};                   ///< its elements, little endian

  /// Returns the number of elements.
  std::int64_t count() const;

  /// Returns the elements as integers.
  /// \return nothing if they are not integers or booleans
  std::optional<std::vector<std::int64_t>> integers() const;

  /// Returns the elements as floating-point numbers; integers are converted.
  /// \return nothing if they are float16 or bfloat16
  std::optional<std::vector<double>> reals() const;
};

/// The value of an attribute of a node.
using OnnxAttribute = std::variant<float, std::int64_t, std::string, OnnxTensor, std::vector<float>,
                                   std::vector<std::int64_t>, std::vector<std::string>>;

/// A call of an operator.
struct OnnxNode {
  std::string name = {};                                 ///< of the node; may be empty
  std::string op = {};                                   ///< "Conv"
  std::vector<std::string> inputs = {};                  ///< names of values; empty: left out
  std::vector<std::string> outputs = {};                 ///< names of values; empty: not used
  std::map<std::string, OnnxAttribute> attributes = {};  ///< by name
  /// The node as the file encodes it, unknown fields and documentation included. If not empty, a
  /// writer writes it unchanged.
  std::string encoded = {};
};

/// An input or output of a graph.
struct OnnxValue {
  std::string name = {};                                ///< of the value
  std::optional<ElementType> type = std::nullopt;       ///< element type, if the file states it
  bool has_shape = false;                               ///< whether the file states the rank
  std::vector<std::optional<std::int64_t>> sizes = {};  ///< extents; empty: open
};

/// An ONNX model.
struct OnnxModel {
  std::int64_t ir_version = 0;                       ///< version of the file format
  std::int64_t opset = 0;                            ///< version of the operators
  std::string producer = {};                         ///< program that wrote it
  std::vector<OnnxValue> inputs = {};                ///< without those that have an initializer
  std::vector<OnnxNode> nodes = {};                  ///< in the order in which they run
  std::vector<OnnxValue> outputs = {};               ///< what it returns
  std::map<std::string, OnnxTensor> tensors = {};    ///< initializers, by the name of the value
  std::map<std::string, std::string> metadata = {};  ///< texts of the file's author, by key
};

/// What an ONNX model computes, and what in its file is dangerous.
struct OnnxListing {
  OnnxModel model = {};                    ///< without what the objections are about
  std::set<std::string> operators = {};    ///< every operator, with its domain if it is not ONNX's
  std::vector<Objection> objections = {};  ///< why the file is refused; empty if it is accepted
};

/// Versions of ONNX's operators that are read and written.
inline constexpr std::int64_t min_onnx_opset = 13, max_onnx_opset = 20;

/// Returns true if a file looks like an ONNX model. Few of its bytes are read.
bool is_onnx_file(const std::filesystem::path& path);

/// Lists what an ONNX model computes. Nothing of the file is executed, and no other file is opened.
///
/// Each of these is an objection: tensors in other files (a path may name any file of the machine),
/// operators of other domains, control flow (subgraphs), functions that redefine operators, a tensor
/// with its elements in two places (each reader takes another one), a value that is defined twice or
/// used before it is defined, sparse or quantised tensors, and training information.
///
/// \code{.cpp}
/// const auto listing = formats::inspect_onnx(files::read("model.onnx"), "model.onnx");
/// for (const auto& objection : listing.objections) fmt::print("{}\n", objection.text);
/// \endcode
///
/// \param bytes content of the file
/// \param name of the file, for messages
/// \return the listing
/// \throws Error naming the file if it is damaged, or its operators have a version that refine does
///        not read
OnnxListing inspect_onnx(std::string_view bytes, const std::filesystem::path& name);

/// Reads an ONNX model and checks it.
///
/// \code{.cpp}
/// const auto model = formats::read_onnx("model.onnx");
/// for (const auto& node : model.nodes) fmt::print("{}\n", node.op);
/// \endcode
///
/// \param path the file
/// \return the model
/// \throws Error naming the file and the most serious objection, or if the file is damaged
OnnxModel read_onnx(const std::filesystem::path& path);

/// A tensor to write: contiguous, on the CPU.
struct WritableOnnxTensor {
  ElementType type = ElementType::float32;  ///< its element type
  std::vector<std::int64_t> sizes = {};     ///< extent of each dimension
  std::string_view bytes = {};              ///< elements; must stay valid while the file is written
};

/// The content of an ONNX file. The first dimension of inputs and outputs is open.
struct WritableOnnx {
  std::int64_t ir_version = 0;                             ///< version of the file format
  std::int64_t opset = 0;                                  ///< version of the operators
  std::vector<OnnxValue> inputs = {};                      ///< of the graph
  std::vector<OnnxNode> nodes = {};                        ///< in the order in which they run
  std::vector<OnnxValue> outputs = {};                     ///< of the graph
  std::map<std::string, WritableOnnxTensor> tensors = {};  ///< initializers, by the name of the value
  std::map<std::string, std::string> metadata = {};        ///< texts, by key
};

/// Writes an ONNX file. Elements of tensors are written as `raw_data`, in the file itself.
/// \param path the file; it is complete or not there
/// \param content what to write
/// \throws Error if the file would be larger than 2 GB, which protobuf does not permit, or cannot be
///        written
void write_onnx(const std::filesystem::path& path, const WritableOnnx& content);

/// Returns a node as a file encodes it, with other names.
/// \param encoded the node
/// \param rename returns the new name of a value; for the node's own name, it is not called
/// \param name of the node; empty: it keeps its name
/// \pre `encoded` was read by `read_onnx`
template <typename Rename>
std::string renamed_onnx_node(std::string_view encoded, const Rename& rename, const std::string& name);

namespace detail::onnx {

/// Numbers of the fields of a NodeProto.
namespace node_field {
inline constexpr std::uint32_t input = 1, output = 2, name = 3, op_type = 4, attribute = 5, domain = 7,
                               overload = 8;
}  // namespace node_field

/// Numbers of the fields of a GraphProto.
namespace graph_field {
inline constexpr std::uint32_t node = 1, name = 2, initializer = 5, input = 11, output = 12,
                               quantization = 14, sparse = 15;
}  // namespace graph_field

/// Numbers of the fields of a ModelProto.
namespace model_field {
inline constexpr std::uint32_t ir_version = 1, producer = 2, graph = 7, opset_import = 8, metadata = 14,
                               training = 20, functions = 25;
}  // namespace model_field

/// What `recognize` calls an ONNX file.
inline constexpr std::string_view recognized_as = "an ONNX model";

/// The largest file that protobuf permits.
inline constexpr std::uint64_t max_file_bytes = (std::uint64_t{1} << 31) - 1;

/// Returns ONNX's number of an element type.
std::int64_t type_number(ElementType type);

/// \throws Error if a file would be larger than protobuf permits
void check_file_size(const std::filesystem::path& path, std::uint64_t bytes);

/// \throws Error if a file is larger than protobuf permits
void check_size_to_read(const std::filesystem::path& path, std::uint64_t bytes);

/// Reads a file, unless it is larger than protobuf permits.
/// \throws Error if it is, or it cannot be read
std::string read_file(const std::filesystem::path& path);

/// Returns the hint of a refusal.
std::string advice(const OnnxListing& listing);

}  // namespace detail::onnx
}  // namespace refine::formats

#include <refine/formats/detail/protobuf.hpp>

namespace refine::formats {

template <typename Rename>
std::string renamed_onnx_node(std::string_view encoded, const Rename& rename, const std::string& name) {
  namespace fields = detail::onnx::node_field;
  detail::protobuf::Reader reader(encoded);
  detail::protobuf::Writer writer;
  while (const auto field = reader.next()) {
    if (field->number == fields::input || field->number == fields::output) {
      writer.bytes(field->number, field->bytes.empty() ? std::string() : rename(std::string(field->bytes)));
    } else if (field->number == fields::name && !name.empty()) {
      writer.bytes(field->number, name);
    } else {
      writer.encoded(field->encoded);
    }
  }
  return writer.message();
}

}  // namespace refine::formats

#if !defined(REFINE_COMPILED_LIB)
#include <refine/formats/impl/onnx.ipp>
#endif
