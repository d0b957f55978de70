#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include <refine/attacks/by_name.hpp>
#include <refine/core/random.hpp>
#include <refine/core/task.hpp>

namespace refine {

/// The files that `Defended::save` writes.
struct DefendedFiles {
  std::filesystem::path serving;  ///< "defended.pt" or "defended.pt2": serves without refine
  std::filesystem::path weights;  ///< "defended.safetensors": the transform alone, for `load_saved_defense`
  std::filesystem::path report;   ///< "defended.report": folder of report.html, metrics.json and images.png

  /// Returns the files that belong to a serving file: beside it, with its name and other
  /// extensions. "v1.2" has none: its weights are "v1.2.safetensors".
  static DefendedFiles beside(const std::filesystem::path& serving);

  /// \throws Error if the serving file cannot be written, as when its name is that of the weights; or if a file with
  ///   the name of the weights is not one of a defense's weights
  void check_writable() const;

  /// Checks before a new defense is trained that the weights and the report of an earlier one are kept: "a.onnx" has
  /// the weights and the report of "a.pt".
  /// \throws Error if weights and report belong to another serving file, which exists
  void check_separate() const;
};

namespace detail {

/// The fact of a report that names its serving file.
inline constexpr const char* serving_file_fact = "serving file";

}  // namespace detail

/// Returns the folder of one attack's results, `<root>/<dataset>/<network>/<attack>`, as in the
/// authors' code.
/// \param root the folder of all results
/// \param dataset a name, or a folder, whose own name is taken
/// \param network,attack names
std::filesystem::path result_folder(const std::filesystem::path& root, const std::string& dataset,
                                    const std::string& network, const std::string& attack);

/// Returns the metrics files that a path means: itself, or every `metrics.json` below a folder,
/// sorted by path. `report::read_metrics` reads them.
/// \throws Error if a folder contains none, or it or one below it cannot be listed
std::vector<std::filesystem::path> find_metrics(const std::filesystem::path& path);

/// An attack with its numbers, as it is stored beside its victim, so that it can be made again.
struct AttackSpec {
  std::string name;  ///< as in `attacks::names`
  int target = 0;    ///< the class that the attacker wants; not stored for AllToAll, which has none
  std::optional<int> source = std::nullopt;  ///< class that SourceSpecific moves; nothing: its default
  std::optional<double> rate =
      std::nullopt;                   ///< share of poisoned images; nothing: the attack's published rate
  std::uint64_t seed = default_seed;  ///< of the choice of images
  /// The data set: "CIFAR10", or the path of a folder without links, in UTF-8 (`text::to_utf8`); empty: unknown.
  std::string dataset = {};

  /// Returns the options of `attacks::by_name`.
  attacks::AttackOptions options(const ImageShape& image) const;

  /// Makes the attack for images of one shape.
  attacks::AnyAttack make(const ImageShape& image) const;
};

/// Writes an attack as JSON. \throws Error if the file cannot be written
void write_attack(const AttackSpec& spec, const std::filesystem::path& path);

/// Reads what `write_attack` wrote. \throws Error if the file cannot be read or lacks a field
AttackSpec read_attack(const std::filesystem::path& path);

}  // namespace refine

#if !defined(REFINE_COMPILED_LIB)
#include <refine/defend/impl/results.ipp>
#endif
