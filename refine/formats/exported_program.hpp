#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include <refine/core/error.hpp>
#include <refine/formats/archive.hpp>
#include <refine/formats/detail/objection.hpp>

namespace refine::formats {

/// The element type of a tensor in an exported program, with the numbers of torch.export's schema.
enum class ElementType {
  uint8 = 1,
  int8 = 2,
  int16 = 3,
  int32 = 4,
  int64 = 5,
  float16 = 6,
  float32 = 7,
  float64 = 8,
  boolean = 12,
  bfloat16 = 13,
};

/// Returns the size of an element in bytes.
std::size_t element_bytes(ElementType type);

/// Returns PyTorch's name of an element type: "float32".
std::string_view element_name(ElementType type);

/// The name of a value of a graph: a tensor or an integer that a node computes, or an input.
struct ValueName {
  std::string name;  ///< unique in the graph

  /// True if the names are equal.
  bool operator==(const ValueName&) const = default;
};

/// An integer in a graph: a constant, or a value, such as the number of images.
using GraphInteger = std::variant<std::int64_t, ValueName>;

/// A memory format, with the numbers of torch.export's schema.
enum class GraphMemoryFormat { contiguous = 1, channels_last = 2, channels_last_3d = 3, preserve = 4 };

/// A device, as "cuda" and 0. A program of this library runs on the device of its images instead.
struct GraphDevice {
  std::string type;                         ///< "cpu", "cuda"
  std::optional<int> index = std::nullopt;  ///< which of them

  /// True if type and index are equal.
  bool operator==(const GraphDevice&) const = default;
};

/// The layout of a dense tensor, the only one that a program here may have.
struct GraphStrided {
  /// True: all are alike.
  bool operator==(const GraphStrided&) const = default;
};

/// An argument of a node. Nothing is `std::monostate`; a tensor or an integer that another node
/// computes is a `ValueName`.
using GraphArgument =
    std::variant<std::monostate, bool, std::int64_t, double, std::string, ValueName, ElementType,
                 GraphMemoryFormat, GraphStrided, GraphDevice, std::vector<GraphInteger>, std::vector<double>,
                 std::vector<bool>, std::vector<ValueName>, std::vector<std::optional<ValueName>>>;

/// Returns the kind of an argument in a few words, for messages.
std::string_view describe(const GraphArgument& argument);

/// A call of an operator.
struct GraphNode {
  std::string name = {};    ///< of the node, for messages
  std::string target = {};  ///< "aten::conv2d.default", "_operator.mul"
  std::vector<std::pair<std::string, GraphArgument>> inputs = {};  ///< by the names of the operator's schema
  /// Names of what it returns. A list of tensors is one entry with several names; nothing is
  /// `std::monostate`.
  std::vector<GraphArgument> outputs = {};
  std::size_t positional = 0;  ///< how many of the inputs, from the first, are passed by position
};

/// The shape of a tensor while the program runs.
struct GraphShape {
  ElementType type = ElementType::float32;  ///< its element type
  /// Extents. An open extent is empty.
  std::vector<std::optional<std::int64_t>> sizes = {};
  /// The extents with which the program was exported, if the file has them; 0: unknown.
  std::vector<std::int64_t> example = {};
};

/// A tensor in the file.
struct StoredTensor {
  ElementType type = ElementType::float32;  ///< its element type
  std::vector<std::int64_t> sizes = {};     ///< extent of each dimension
  std::vector<std::int64_t> strides = {};   ///< stride of each dimension, in elements
  std::int64_t offset = 0;                  ///< of the first element, in elements
  std::string entry = {};                   ///< entry of the archive that has its bytes
  bool is_parameter = false;                ///< a parameter, otherwise a buffer or a constant

  /// Returns the number of elements.
  std::int64_t count() const;
};

/// An input of a graph.
struct GraphInput {
  /// What the input is.
  enum class Kind {
    tensor,    ///< a tensor of the file, `stored`
    images,    ///< a tensor that the caller passes
    constant,  ///< a number or text that the program was exported with; the graph does not use it
  };

  Kind kind = Kind::images;  ///< the kind
  std::string name = {};     ///< of the value in the graph
  std::string stored = {};   ///< name of the tensor in `ExportedProgram::tensors`
};

/// An output of a graph.
struct GraphOutput {
  std::string name = {};   ///< position, key or field in what `forward` returns: "logits", "1"
  std::string value = {};  ///< name of the value in the graph; empty: None or a plain number
};

struct OnnxModel;

/// A program that `torch.export.save` wrote, or one that was translated from ONNX: a list of calls of
/// operators, and tensors.
struct ExportedProgram {
  std::string torch_version = {};                    ///< the release of PyTorch that wrote it
  std::pair<int, int> schema = {0, 0};               ///< version of the file's schema: major, minor
  std::vector<GraphInput> inputs = {};               ///< in the order of the graph
  std::vector<GraphNode> nodes = {};                 ///< in the order in which they run
  std::vector<GraphOutput> outputs = {};             ///< what `forward` returns, flattened
  std::map<std::string, GraphShape> shapes = {};     ///< of the images and the outputs, by name of the value
  std::map<std::string, StoredTensor> tensors = {};  ///< parameters, buffers and constants, by name
  std::map<std::string, std::string> bytes = {};     ///< entries of the archive with tensors
  std::map<std::string, std::string> extra = {};     ///< content of the files under extra/, by name
  /// The model that the program was translated from (`refine/programs/onnx.hpp`); null: none. The
  /// names of the program's outputs are those of the model's.
  std::shared_ptr<const OnnxModel> onnx = nullptr;
};

/// What an exported program would run, and what in its file is dangerous.
struct ExportedProgramListing {
  ExportedProgram program = {};            ///< without what the objections are about
  std::set<std::string> operators = {};    ///< every operator, as "aten::conv2d.default"
  std::vector<Objection> objections = {};  ///< why the file is refused; empty if it is accepted

  /// Returns true if one of the objections is of that kind.
  bool has(Objection::Kind kind) const;
};

/// Returns true if an archive is an exported program (.pt2), in the layout of PyTorch 2.9 and newer.
bool is_exported_program(const Archive& archive);

/// Returns true if a file is such an archive, false if it cannot be read. Its tensors are not read.
/// \throws Error if it is a damaged ZIP archive
bool is_exported_program_file(const std::filesystem::path& path);

/// Lists what an exported program would run. Nothing of the file is executed.
///
/// `torch.export.load` runs code from several places in a file: pickled sample inputs, weights and
/// constants, symbolic expressions, which it evaluates as Python, and names of functions. Each is an
/// objection here, unless it is what torch.export writes for plain tensors and sizes.
///
/// \code{.cpp}
/// const auto listing = formats::inspect_exported_program(formats::read_archive("model.pt2"));
/// for (const auto& objection : listing.objections) fmt::print("{}\n", objection.text);
/// \endcode
///
/// \param archive the content of the file; taken by value, because tensors are large
/// \param name of the file, for messages
/// \param program which program of a file with several is listed; the others are checked only
/// \return the listing
/// \throws Error naming the file if it is malformed, has several programs but not this one, or has a
///        version that refine does not read
ExportedProgramListing inspect_exported_program(Archive archive,
                                                const std::filesystem::path& name = "the archive",
                                                const std::string& program = "model");

/// Reads an exported program and checks it.
///
/// With `Trust::checked`, every node must be arithmetic on tensors (the list in
/// `detail/operators.hpp`) or on sizes, and nothing in the file may be code for Python. With
/// `Trust::blind`, what is meant for Python is ignored, since nothing here runs it, and every
/// operator of LibTorch is permitted. A quantised program, and one with operators of other
/// libraries, is refused at either level.
///
/// \code{.cpp}
/// const auto program = formats::read_exported_program("model.pt2");
/// for (const auto& node : program.nodes) fmt::print("{}\n", node.target);
/// \endcode
///
/// \param path the file
/// \param trust whether an unchecked program may be used
/// \param program which program of a file with several is read; the others are checked only
/// \return the program
/// \throws Error naming the file and the most serious objection, or if the file is damaged
ExportedProgram read_exported_program(const std::filesystem::path& path, Trust trust = Trust::checked,
                                      const std::string& program = "model");

namespace detail::exported {

/// Largest size of the file's JSON documents together.
inline constexpr std::size_t max_json_bytes = std::size_t{128} << 20;

/// Largest number of words (names, numbers, texts and signs) in an expression or a guard.
inline constexpr std::size_t max_words = 10'000;

/// Returns the hint of a refusal: what the user can do about the objections.
std::string advice(const ExportedProgramListing& listing);

/// Returns true if `torch.export.load` may evaluate the text as Python without running anything but
/// arithmetic: numbers and symbols, in infix form or as sympy prints them (`Mul(Integer(2),
/// Symbol('s77', integer=True))`).
bool is_plain_expression(std::string_view text);

/// Returns true if the text is a plain guard: a comparison of sizes of inputs and numbers.
bool is_plain_guard(std::string_view text);

}  // namespace detail::exported
}  // namespace refine::formats

#if !defined(REFINE_COMPILED_LIB)
#include <refine/formats/impl/exported_program.ipp>
#endif
