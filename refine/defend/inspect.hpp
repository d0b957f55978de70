#pragma once

#include <array>
#include <cstddef>
#include <exception>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace refine {

/// A rule of the inspection, as code scanning lists it.
struct InspectionRule {
  const char* id;     ///< "harmful-program"
  const char* level;  ///< "error", "warning" or "note"
  const char* text;   ///< one sentence
};

/// The rules, in the order of their numbers.
inline constexpr std::array inspection_rules = {
    InspectionRule{"harmful-program", "error", "A program asks for more than arithmetic on tensors."},
    InspectionRule{"unknown-operator", "warning", "A program names an operator that refine does not know."},
    InspectionRule{"library-operator", "warning", "A program names an operator of another library."},
    InspectionRule{"quantized-program", "warning", "A program is quantised: no gradient passes it."},
    InspectionRule{"unsupported-program", "warning", "A program is in a form that refine does not read."},
    InspectionRule{"pickle-runs-program", "error",
                   "A pickle names a function that runs programs while Python loads it."},
    InspectionRule{"unknown-class", "note",
                   "A pickle names classes other than tensors; refine never calls them."},
    InspectionRule{"refused-file", "error",
                   "A file cannot be read as a model: it is damaged, hostile or not supported."},
    InspectionRule{"other-format", "note", "A file is a model of another format."},
    InspectionRule{"no-weights", "warning", "A file contains plain values and no weights."},
};

/// Something that was found in a file.
struct InspectionFinding {
  std::size_t rule;  ///< index into `inspection_rules`
  std::string text;  ///< one clause; may contain bytes of the file

  /// Returns the rule that the finding belongs to.
  const InspectionRule& rule_of() const { return inspection_rules[rule]; }
};

/// What was found in one file.
struct Inspection {
  std::string file;                              ///< its path
  std::string summary = {};                      ///< one line
  std::string details = {};                      ///< further lines, safe to print
  std::vector<InspectionFinding> findings = {};  ///< empty: nothing to object to
  nlohmann::ordered_json json = {};              ///< all of it, for programs
  std::exception_ptr error = {};  ///< the error, if the file cannot be read; `summary` is its text

  /// True if there are no findings but notes. A file of another format, or an incomplete download, has none either.
  bool has_only_notes() const;

  /// True if the file could be read and has only notes.
  bool is_fine() const { return !error && has_only_notes(); }
};

/// How files are inspected.
struct InspectOptions {
  std::string key = {};  ///< of a checkpoint: which weights to list; empty: found by content
  bool code = false;     ///< include a program's source
};

/// Lists what a model file contains, without running any of it. A file that cannot be read gives a
/// finding, not an exception.
Inspection inspect_file(const std::string& file, const InspectOptions& options = {});

/// The files to inspect.
struct ModelFiles {
  std::vector<std::string> files = {};  ///< in text order within each folder
  std::size_t ignored = 0;              ///< other files of the folders
  std::size_t linked_folders = 0;       ///< links to folders, which are not followed
  std::size_t unreadable_folders = 0;   ///< folders that may not be listed
};

/// Replaces folders by the model files below them, which are recognized by extension or content. Links to files are
/// followed; a file with several names is listed once, by the first name with a model's extension.
/// \throws Error if a folder contains no model file
ModelFiles find_model_files(const std::vector<std::string>& files_and_folders);

/// Returns the findings as SARIF 2.1.0 (OASIS), which code scanning reads.
nlohmann::ordered_json sarif(const std::vector<Inspection>& inspections);

}  // namespace refine

#if !defined(REFINE_COMPILED_LIB)
#include <refine/defend/impl/inspect.ipp>
#endif
