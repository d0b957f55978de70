#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include <refine/defend/class_folders.hpp>
#include <refine/defend/folder_images.hpp>
#include <refine/defend/notice.hpp>
#include <refine/defend/saved_defense.hpp>
#include <refine/export/exported_classifier.hpp>
#include <refine/report/defense_report.hpp>

namespace refine {

/// What an exported file is measured with.
struct FolderEvaluation {
  FolderOptions images = {};             ///< how images are read
  std::filesystem::path triggered = {};  ///< folder with the same images with the trigger; empty: none
  std::string attack = {};               ///< attack whose trigger is put on the images; empty: none
  std::optional<int> target =
      std::nullopt;  ///< class that the attacker wants; nothing: the attack's, if one is named
  FolderLabels labels = FolderLabels::automatic;  ///< how class folders become labels
  std::int64_t scanned = 1000;  ///< images that the scan takes, if no trigger is given; 0: no scan
  bool show = false;            ///< show progress on standard error
  Notify notify = {};           ///< receives notes about the labels
};

/// An exported file, measured.
struct EvaluatedFolder {
  report::DefenseReport report;  ///< without a title
  std::size_t skipped = 0;       ///< number of files that could not be used
};

/// Measures an exported file on the images of a folder, with a trigger or without knowing one.
///
///     const EvaluatedFolder result = evaluate_folder(model, exported_info(model.about()), "test/");
///
/// \param model the exported file
/// \param info of the file; its class names and alarm are used
/// \param folder clean images; class folders (`CLASS/IMAGE`) give accuracy. If a trigger is known
///   and there are no labels, the victim's own answers to the clean images are used as labels.
/// \param options what it is measured with
/// \throws Error if images cannot be read, paired or labelled, or the target is not a class
EvaluatedFolder evaluate_folder(const ExportedClassifier& model, const ExportedInfo& info,
                                const std::filesystem::path& folder, const FolderEvaluation& options = {});

}  // namespace refine

#if !defined(REFINE_COMPILED_LIB)
#include <refine/defend/impl/evaluate_folder.ipp>
#endif
