#pragma once

#include <nlohmann/json_fwd.hpp>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include <refine/data/resize.hpp>
#include <refine/defend/images.hpp>
#include <refine/defend/load_classifier.hpp>
#include <refine/defend/measure.hpp>
#include <refine/defend/notice.hpp>
#include <refine/defend/sizing.hpp>
#include <refine/defend/trained_defense.hpp>
#include <refine/export/exported_classifier.hpp>
#include <refine/report/defense_report.hpp>

namespace refine {

/// What a saved defense does not say about itself.
struct SavedDefenseOptions {
  LoadOptions victim = {};                 ///< how the victim's file is read
  std::filesystem::path permutation = {};  ///< label_shuffle.pth, for files of the authors' code
  EncoderOptions encoder = {};  ///< of a defense that was trained behind one, whose weights do not hold it
  std::optional<PixelDomain> pixel_domain =
      std::nullopt;  ///< nothing: the file's; `reference` for the authors' files
  /// What the serving file's `forward` returns. Nothing: as the file says, else the defended answer.
  std::optional<Answer> answer = std::nullopt;
};

/// A defense read from its parts: the victim, and the weights of the transform or of the student.
struct SavedDefense {
  TrainedDefense defense;                            ///< float N×C×H×W in [0, 1] → logits, by `forward`
  LoadedClassifier victim;                           ///< as it was loaded
  std::map<std::string, std::string> metadata = {};  ///< of the file of weights
  Answer answer = Answer::defended;                  ///< what the serving file's `forward` returns

  /// Writes the defense as one file to serve (`export_defense`), with the alarm and the preprocessing
  /// of the file of weights. With an alarm, it has both answers.
  /// \throws Error if the file cannot be written, or the gated answer is requested and the file of
  ///   weights has no alarm
  void save(const std::filesystem::path& serving) const;
};

/// Reads a defense from the weights that `Defended::save` wrote, or from the files of the authors'
/// code (https://github.com/WhitolfChen/REFINE): `unet_epochN.pth` and `label_shuffle.pth`.
///
///     load_saved_defense("victim.pt", "defended.safetensors").save("defended.pt");
///
/// \param model the victim's file, as `load_classifier` reads it
/// \param weights the file of the transform's or the student's weights; its metadata has which
/// \param options what the files do not say
/// \throws Error if a file cannot be read, the parts do not fit together, the permutation or the
///   encoder is missing, or a permutation is specified for a file that holds one, or options of a
///   transform for a student
SavedDefense load_saved_defense(const std::filesystem::path& model, const std::filesystem::path& weights,
                                const SavedDefenseOptions& options = {});

/// True if a file is a defended classifier that refine exported, by the description inside. False
/// if it is another kind of file, or cannot be read.
bool is_defended_file(const std::filesystem::path& file);

/// Writes a classifier alone as one file to serve, .pt2 or TorchScript by its name, with its class
/// names and its preprocessing.
/// \param model the classifier's file, as `load_classifier` reads it
/// \param serving the file to write
/// \param options what the file does not say. `options.notify` receives a note if the image size was
///   found out.
/// \throws Error as `load_classifier`, if it is a defended file, whose alarm would be lost, if the file cannot be
///   written, or if the image size is neither specified nor in the file and the classifier does not accept exactly one
///   usual size
void export_classifier(const std::filesystem::path& model, const std::filesystem::path& serving,
                       const LoadOptions& options = {});

/// What an exported file says about itself, as far as it is needed to use it.
struct ExportedInfo {
  std::vector<std::string> class_names = {};  ///< in the order of the logits; empty if they are not known
  std::string model = {};                     ///< the victim, in a few words
  std::string defense = {};                   ///< "refine" or "student"; empty: the file does not have it
  std::optional<AlarmSetting> alarm = std::nullopt;       ///< nothing: the file has no alarm
  Answer answer = Answer::defended;                       ///< what the file's `forward` returns
  std::optional<data::ResizeMode> resize = std::nullopt;  ///< what happened to images of another size
};

/// Reads the description of an exported file.
/// \param about `ExportedClassifier::about()`
/// \param class_names replace those of the file; empty: those of the file
/// \throws Error if the description is not one that refine wrote, or there is not one name for each
///   class
ExportedInfo exported_info(const nlohmann::ordered_json& about,
                           const std::vector<std::string>& class_names = {});

/// The prediction for one image file.
struct FilePrediction {
  std::filesystem::path file;  ///< the image file
  int cls;                     ///< the class with the largest probability
  double probability;          ///< of that class
  double alarm;                ///< alarm score in [0, 1], or infinity (`alarm_score`)
};

/// Classifies image files in chunks, so that memory stays bounded for any number of files.
///
///     const std::size_t skipped = predict_files(model, data::image_files("photos/"), data::ResizeMode::crop,
///                                               [](const FilePrediction& p) { std::cout << p.file << ' ' << p.cls; });
///
/// Files that cannot be used are left out, and reported on standard error.
/// \param model is used on the device where it is
/// \param files image files
/// \param resize what happens to images of another size; `ExportedInfo::resize` has what the
///   defense was fitted with
/// \param receive is called for each image, in the order of `files`
/// \return the number of files that were left out
/// \throws Error if none of the files can be used
std::size_t predict_files(const ExportedClassifier& model, const std::vector<std::filesystem::path>& files,
                          data::ResizeMode resize, const std::function<void(const FilePrediction&)>& receive);

/// What an exported file is measured with.
struct FolderEvaluation {
  FolderOptions images = {};             ///< how images are read
  std::filesystem::path triggered = {};  ///< folder with the same images with the trigger; empty: none
  std::string attack = {};               ///< attack whose trigger is put on the images; empty: none
  std::optional<int> target =
      std::nullopt;  ///< class that the attacker wants; nothing: the attack's, if one is named
  std::optional<int> source =
      std::nullopt;  ///< class whose images SourceSpecific moves; nothing: its default
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
/// \param model the exported file, with the defended answer (`Answer::defended`)
/// \param info of the file; its class names, alarm and answer are used. The verdict judges the answer.
/// \param folder clean images; class folders (`CLASS/IMAGE`) give accuracy. If a trigger is known
///   and there are no labels, the victim's own answers to the clean images are used as labels, also
///   as the true classes of pair lifts.
/// \param options what it is measured with
/// \throws Error if images cannot be read, paired or labelled, or the target is not a class
EvaluatedFolder evaluate_folder(const ExportedClassifier& model, const ExportedInfo& info,
                                const std::filesystem::path& folder, const FolderEvaluation& options = {});

namespace detail {

/// Checks that the image size of a classifier is clear: it was specified, the file has it, or the
/// classifier accepts one usual size only, which a note reports.
/// \param file its name, for messages
/// \throws Error if it accepts several, or weights do not have it
void check_image_size(const LoadedClassifier& victim, const std::string& file, const Notify& notify);

}  // namespace detail

}  // namespace refine

#if !defined(REFINE_COMPILED_LIB)
#include <refine/defend/impl/saved_defense.ipp>
#endif
