#pragma once

#include <CLI/CLI.hpp>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <refine/core/random.hpp>
#include <refine/core/task.hpp>
#include <refine/data/resize.hpp>
#include <refine/defend/detail/check_outputs.hpp>
#include <refine/defend/images.hpp>
#include <refine/defend/load_classifier.hpp>
#include <refine/defend/notice.hpp>
#include <refine/defend/saved_defense.hpp>
#include <refine/defend/sizing.hpp>
#include <refine/distributed/c10d.hpp>
#include <refine/export/exported_classifier.hpp>
#include <refine/report/defense_report.hpp>
#include <refine/training/checkpoint.hpp>
#include <refine/training/observers.hpp>

namespace refine::cli {

/// Options of all commands.
struct Common {
  bool json = false;            ///< results as one JSON document on standard output
  std::function<int()> chosen;  ///< runs the command that the user named; returns its exit status
  std::filesystem::path config = {}, save_config = {};  ///< files of these options; empty: none
  mutable std::string resume_command = {};         ///< the command line, with --resume; `defend` adds to it
  mutable std::filesystem::path checkpoints = {};  ///< folder of the training that was begun; empty: none
  mutable bool is_trained = false;          ///< that training is complete, and its results are not saved
  std::function<void()> write_config = {};  ///< writes `save_config`, once; `begin` calls it
  distributed::C10d ranks = {};             ///< this process and the others that torchrun has started
};

/// An observer that notes the end of a training. An error that follows names the command that continues.
struct TrainingEnd {
  const Common& common;

  void on_end() const { common.is_trained = true; }
};

/// Exit statuses: done; done, with something to look at; refused (`Error::exit_status`). A signal
/// ends the program with 128 and its number.
enum Status { done = 0, look = 1, refused = 2 };

// Each adds its command to `app`; when the user names it, `common.chosen` runs it.
void add_attack(CLI::App& app, Common& common);
void add_bench(CLI::App& app, Common& common);
void add_completion(CLI::App& app, Common& common);
void add_defend(CLI::App& app, Common& common);
void add_evaluate(CLI::App& app, Common& common);
void add_export(CLI::App& app, Common& common);
void add_inspect(CLI::App& app, Common& common);
void add_predict(CLI::App& app, Common& common);
void add_report(CLI::App& app, Common& common);

/// Makes `run` what the program does if the user names the command.
template <typename Options>
void run_when_chosen(CLI::App& command, Common& common, const std::shared_ptr<Options>& options,
                     int (*run)(const Options&, const Common&)) {
  command.callback([=, &common] { common.chosen = [=, &common] { return run(*options, common); }; });
}

/// Options of a classifier that is not trusted.
struct VictimOptions {
  std::string model, arch, stem, image, class_names, output, key;
  std::vector<double> mean, deviation;
  bool bgr = false, trust = false;

  void add_to(CLI::App& command);

  /// \throws Error if an option cannot be parsed, or the file of class names cannot be read
  LoadOptions load_options() const;
};

/// Options of what happens to images of another size.
struct ResizeOptions {
  std::string fit = {};  ///< empty: as the model's file says, else crop
  int resize = 0, crop = 0;

  void add_to(CLI::App& command);

  /// Returns the mode of the options, else `stored`, the mode in a model's file.
  /// \throws Error if the options contradict each other
  std::optional<data::ResizeMode> mode(const std::optional<data::ResizeMode>& stored = std::nullopt) const;

  /// Returns 3×crop×crop; without --crop, `other`.
  ImageShape image(const ImageShape& other) const;

  /// \throws Error if --crop or --resize do not fit the size that the model takes
  void check(const ImageShape& model) const;
};

/// Options of how class folders become labels.
struct LabelOptions {
  std::string order = "auto";
  bool none = false;

  void add_to(CLI::App& command);

  /// \throws Error if the options contradict each other
  FolderLabels labels() const;
};

/// Options of a feature extractor that is trusted.
struct EncoderArguments {
  std::string file;
  std::vector<double> mean, deviation;

  void add_to(CLI::App& command);

  /// \throws Error if the normalisation cannot be parsed, or is specified without a file
  EncoderOptions options() const;
};

/// Options of how a network is trained. Each replaces a number of the recipe.
struct TrainOptions {
  std::string recipe = "auto", optim, precision, flip, sync_batch_norm;
  int epoch = 0, batch_size = 0;
  double minutes = 0;  ///< of a defense's training; 0: not specified
  double lr = 0, decay = 0, sup = -1, temperature = 0, head = -1;
  std::uint64_t seed = default_seed;

  /// \param is_defense true: the transform is trained, which has a SupCon loss
  void add_to(CLI::App& command, bool is_defense);
  TrainingOptions training() const;
};

/// Adds --answer to a command. \param left_out what happens without it, for the help
CLI::Option* add_answer_to(CLI::App& command, std::string& answer, const std::string& left_out);

/// True if a folder holds a checkpoint. Returns false if it cannot be listed; a run that uses it reports the reason.
bool has_checkpoint(const std::filesystem::path& folder);

/// A `Checkpoint` that may be off. An observer, like it.
struct OptionalCheckpoint {
  std::optional<Checkpoint> checkpoint = {};

  std::unique_ptr<refine::detail::RunStore> open() const { return checkpoint ? checkpoint->open() : nullptr; }

  /// \throws Error as `Checkpoint::check`
  void check() const {
    if (checkpoint) checkpoint->check();
  }

  /// Locks the folder, as `Checkpoint::hold`. Returns nothing if checkpoints are off.
  [[nodiscard]] std::shared_ptr<const void> hold() const { return checkpoint ? checkpoint->hold() : nullptr; }

  /// Deletes the checkpoints, once the results are saved.
  void remove() const {
    if (checkpoint) checkpoint->remove();
  }
};

/// Options of the checkpoints of a training.
struct CheckpointOptions {
  double every = 60;  ///< seconds; 0: none
  bool resume = false;

  void add_to(CLI::App& command);

  /// \param results the folder of the results
  /// \throws Error if the options contradict each other
  OptionalCheckpoint below(const std::filesystem::path& results) const;
};

/// Halves the batch of a training, and says so; the command that resumes the run gets the batch size.
void warn_smaller_batch(int batch, TrainingOptions& options, const Common& common);

/// Runs a training. If the memory does not suffice for its first step, it is run again with half the
/// batch, and a warning says so: the result differs, and the recipe in its files has the smaller batch. Not
/// with several ranks.
/// \param options of the training; a batch size that the user has specified is not changed
/// \param train called again with the changed options
/// \throws OutOfMemory if that is not possible either
template <typename Train>
auto with_smaller_batches(TrainingOptions& options, const Common& common, Train&& train) {
  if (common.ranks.size() > 1) return train();  // the other ranks may have enough memory
  const bool is_specified = options.batch_size.has_value();
  for (;;) {
    int smaller = 0;
    try {
      return train();
    } catch (const OutOfMemory& error) {
      if (is_specified || error.step() > 0 || error.batch() < 4) throw;
      smaller = error.batch() / 2;
    }
    warn_smaller_batch(smaller, options, common);
  }
}

/// A check that a number is finite, at least `low` (or above it), and at most `high`. CLI::Range accepts NaN.
std::function<std::string(const std::string&)> number(double low, bool above = false,
                                                      double high = std::numeric_limits<double>::infinity());

/// Checks the outputs, then writes --save_config. Commands with inputs call it before their work;
/// only folders may have been listed before.
/// \throws Error if an output is an input
void begin(const Common& common, files::Paths paths);

/// Prints notices on standard error: notes as they are, warnings as `warning: …`.
Notify print_notices();

/// Makes `print_notices` and `print_progress` print nothing, as another rank does.
void set_quiet();

/// Prints a line on standard error.
void print_progress(const std::string& line);

/// Prints one JSON document.
void print(const nlohmann::ordered_json& json);

/// Prints a report, as a table or, with --json, in full; `files` are listed below it.
/// \return `done` if the verdict's decision is to serve, else `look`
Status show(const Common& common, const report::DefenseReport& page,
            const std::vector<std::pair<std::string, std::filesystem::path>>& files);

/// Returns the names of the attacks, in one line.
std::string attack_names();

/// Checks that the options of an attack's classes are ones that it has.
/// \throws Error if `--tlabel` or `--source` was specified for an attack without it
void check_class_options(const std::string& attack, bool has_target, bool has_source);

/// Returns the files that a report is written to.
/// \param option that names the folder, or that it is derived from
std::vector<files::NamedPath> report_files(const std::string& option, const std::filesystem::path& folder);

/// Returns `train` and `test` of a data set that is a folder; nothing for one that has a name.
std::vector<files::NamedPath> dataset_folders(const std::string& dataset);

/// Returns what `AttackSpec::dataset` has for a data set: its name, or the folder's path without links.
std::string dataset_identity(const std::string& dataset);

/// Refuses --data for a folder.
void check_dataset_options(const std::string& dataset, const std::string& root);

/// Reads a data set by name, or a folder. CIFAR-10 is downloaded if it is not there.
NamedDataset read_data(const std::string& dataset, const std::string& root, const ImageShape& image,
                       data::ResizeMode resize, bool skip_damaged, const std::string& store);

/// Loads an exported file onto the default device, with its description.
/// \param class_names file of class names that replace the file's; empty: none
/// \param trust true: use it even if its code contains more than tensor arithmetic
/// \param answer what `forward` returns; nothing: as the file has it
std::pair<ExportedClassifier, ExportedInfo> load_exported(const std::string& model,
                                                          const std::string& class_names, bool trust,
                                                          std::optional<Answer> answer);

}  // namespace refine::cli
