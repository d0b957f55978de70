#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include <refine/formats/exported_program.hpp>

namespace refine::formats {

/// An integer that may depend on the number of images n: `per_image`·n + `constant`.
struct BatchInteger {
  std::int64_t per_image = 0;  ///< 0: it does not depend on it
  std::int64_t constant = 0;   ///< the rest

  /// True if both members are equal.
  bool operator==(const BatchInteger&) const = default;
};

/// What a graph says about a tensor that it computes with.
struct GraphTensor {
  ElementType type = ElementType::float32;  ///< its element type
  std::vector<BatchInteger> sizes = {};     ///< extent of each dimension
  std::vector<BatchInteger> strides = {};   ///< stride of each dimension, in elements
};

/// A program to write. Its first dimension of the images is open.
struct WritableProgram {
  std::vector<GraphInput> inputs = {};                ///< in the order of the graph
  std::vector<GraphNode> nodes = {};                  ///< in the order in which they run
  std::vector<GraphOutput> outputs = {};              ///< one without a name, or several with names
  std::map<std::string, GraphTensor> tensors = {};    ///< images and results of nodes, by name of the value
  std::map<std::string, BatchInteger> integers = {};  ///< integers that nodes compute, by name of the value
};

/// A tensor to write: contiguous, on the CPU.
struct WritableTensor {
  ElementType type = ElementType::float32;  ///< its element type
  std::vector<std::int64_t> sizes = {};     ///< extent of each dimension
  bool is_parameter = false;                ///< a parameter, otherwise a buffer
  std::string_view bytes = {};              ///< elements; must stay valid while the file is written
};

/// The content of a .pt2 file.
struct WritableArchive {
  std::map<std::string, WritableProgram> programs = {};  ///< by name; `torch.export.load` returns "model"
  std::map<std::string, WritableTensor> tensors = {};    ///< by the names that `GraphInput::stored` has
  std::map<std::string, std::string> extra = {};         ///< files under extra/, by name
};

/// Writes programs as `torch.export.save` does, for `torch.export.load` and `read_exported_program`.
///
/// Each tensor is in the file once, also if several programs use it. The file has no sample inputs
/// and no code: nothing in it is a pickle.
/// \param path the file; it is complete or not there
/// \param content what to write
/// \throws Error if the file cannot be written
/// \pre each value that a node uses is an input or the result of a node before it, and has a type
void write_exported_programs(const std::filesystem::path& path, const WritableArchive& content);

}  // namespace refine::formats

#if !defined(REFINE_COMPILED_LIB)
#include <refine/formats/impl/exported_program_writer.ipp>
#endif
