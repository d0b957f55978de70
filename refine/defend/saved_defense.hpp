#pragma once

#include <nlohmann/json_fwd.hpp>

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include <refine/data/resize.hpp>
#include <refine/defend/load_classifier.hpp>
#include <refine/defend/measure.hpp>
#include <refine/pipeline/any_pipeline.hpp>
#include <refine/pipeline/pipeline.hpp>

namespace refine {

/// What a saved defense does not say about itself.
struct SavedDefenseOptions {
  LoadOptions victim = {};                 ///< how the victim's file is read
  std::filesystem::path permutation = {};  ///< label_shuffle.pth, for files of the authors' code
  std::optional<PixelDomain> pixel_domain =
      std::nullopt;  ///< nothing: the file's; `reference` for the authors' files
};

/// A defense read from its parts: the victim and the weights of the transform.
struct SavedDefense {
  AnyPipeline pipeline;                              ///< float N×C×H×W in [0, 1] → logits
  LoadedClassifier victim;                           ///< as it was loaded
  std::map<std::string, std::string> metadata = {};  ///< of the transform's file

  /// Writes the defense as one TorchScript file, with the alarm and the preprocessing of the
  /// transform's file.
  /// \throws Error if the file cannot be written
  void save(const std::filesystem::path& serving) const;
};

/// Reads a defense from the weights that `Defended::save` wrote, or from the files of the authors'
/// code (https://github.com/WhitolfChen/REFINE): `unet_epochN.pth` and `label_shuffle.pth`.
///
///     load_saved_defense("victim.pt", "defended.safetensors").save("defended.pt");
///
/// \param model the victim's file, as `load_classifier` reads it
/// \param weights the transform's file
/// \param options what the files do not say
/// \throws Error if a file cannot be read, the parts do not fit together, or the permutation is
///   missing
SavedDefense load_saved_defense(const std::filesystem::path& model, const std::filesystem::path& weights,
                                const SavedDefenseOptions& options = {});

/// Writes a classifier alone as one TorchScript file, with its class names and its preprocessing.
/// \param model the classifier's file, as `load_classifier` reads it
/// \param serving the file to write
/// \param options what the file does not say. `options.notify` receives a note if the image size was
///   found out.
/// \throws Error as `load_classifier`, if the file cannot be written, or if the image size is neither
///   specified nor in the file and the classifier does not accept exactly one usual size
void export_classifier(const std::filesystem::path& model, const std::filesystem::path& serving,
                       const LoadOptions& options = {});

/// What an exported file says about itself, as far as it is needed to use it.
struct ExportedInfo {
  std::vector<std::string> class_names = {};  ///< in the order of the logits; empty if they are not known
  std::string model = {};                     ///< the victim, in a few words
  std::optional<AlarmSetting> alarm = std::nullopt;       ///< nothing: the file has no alarm
  std::optional<data::ResizeMode> resize = std::nullopt;  ///< what happened to images of another size
};

/// Reads the description of an exported file.
/// \param about `ExportedClassifier::about()`
/// \param class_names replace those of the file; empty: those of the file
/// \throws Error if the description is not one that refine wrote, or there is not one name for each
///   class
ExportedInfo exported_info(const nlohmann::ordered_json& about,
                           const std::vector<std::string>& class_names = {});

}  // namespace refine

#if !defined(REFINE_COMPILED_LIB)
#include <refine/defend/impl/saved_defense.ipp>
#endif
