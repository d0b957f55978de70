#pragma once

#include <CLI/CLI.hpp>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include <refine/data/dataset.hpp>

#include "tools/refine/source.hpp"

namespace refine::cli {

/// How class folders become labels.
struct LabelOptions {
  std::string order = "auto";  ///< auto, names, text, number or none
  bool none = false;

  void add_to(CLI::App& command);
};

/// True if numbers in names are compared by their value: "c2" comes before "c10".
bool number_order(const std::string& a, const std::string& b);

/// Labels images by the folders that they lie in: the first one below the root, or, if those are no classes,
/// the innermost. Folders are found by the model's class names; without names, or if the folders are numbers,
/// by their place in text or number order. If several orders are possible, the one that fits the victim's own
/// answers is taken. Returns nothing where folders are no classes; a line on standard error says so.
/// \param names   the model's class names, in its order; empty if they are not known
/// \param answers returns the class that the victim gives each image; called only if it is needed
/// \throws Error if some folders are classes and others are not, if the victim's answers fit no order clearly,
///   or if the order that was asked for is not possible
std::optional<data::Dataset> labelled(const Images& images, const std::vector<std::string>& names,
                                      int classes, const LabelOptions& options,
                                      const std::function<std::vector<std::int64_t>()>& answers);

}  // namespace refine::cli
