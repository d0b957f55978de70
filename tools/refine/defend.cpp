// refine defend: any classifier and a folder of clean images in, one file that serves out.

#include <fmt/core.h>

#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <filesystem>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <system_error>
#include <utility>

#include <refine/attacks/by_name.hpp>
#include <refine/backbones/freeze.hpp>
#include <refine/backbones/zoo.hpp>
#include <refine/core/error.hpp>
#include <refine/core/file.hpp>
#include <refine/core/text.hpp>
#include <refine/defend/defend.hpp>
#include <refine/defend/images.hpp>
#include <refine/distributed/exchange.hpp>
#include <refine/export/export_defense.hpp>
#include <refine/nn/device.hpp>
#include <refine/training/stop_on_signal.hpp>

#include "tools/refine/options.hpp"

namespace refine::cli {
namespace {

namespace fs = std::filesystem;

/// How long a training takes at most, unless --minutes, --epoch or --recipe decides it.
constexpr double minutes_on_cpu = 15, minutes_on_gpu = 5;

struct DefendArguments {
  VictimOptions victim;
  TransformOptions transform;
  EncoderArguments encoder;
  TrainOptions training;
  ResizeOptions resize;
  CheckpointOptions checkpoints;
  std::string defense = "refine", transform_name, images, extra, dataset, attack = "BadNets", data,
              attack_root = "attack", refine_res = "refine_res", out, store, answer;
  std::int64_t limit = 0;
  double false_alarms = 0.05;
  bool no_scan = false, no_probe = false, skip_damaged = false;
};

/// What `defend` takes.
struct Inputs {
  LoadedClassifier victim;
  at::Tensor images = {};  ///< uint8, clean
  std::size_t skipped = 0;
  DefendOptions defend = {};
};

/// Returns the folder below `root` for the data set, the network and the attack that the options name.
fs::path named_folder(const DefendArguments& options, const std::string& root) {
  const std::string network(backbones::canonical_network_name(options.victim.model));
  return result_folder(root, options.dataset, network, std::string(attacks::canonical_name(options.attack)));
}

/// Returns the options of the student; nothing: a transform is trained.
/// \throws Error if an option is specified that applies to a transform only
std::optional<StudentOptions> student_options(const DefendArguments& options) {
  if (options.defense != "student") return std::nullopt;
  const std::pair<const char*, bool> of_transforms[] = {{"--transform", !options.transform_name.empty()},
                                                        {"--levels", options.transform.levels > 0},
                                                        {"--draw", options.transform.draw > 0},
                                                        {"--sup", options.training.sup >= 0},
                                                        {"--head", options.training.head >= 0}};
  for (const auto& [name, is_specified] : of_transforms) {
    if (is_specified)
      throw Error("{}: applies to a transform, and --defense student trains none; leave {} out", name, name);
  }
  return StudentOptions{
      .width = options.transform.width, .see = options.transform.see, .encoder = options.encoder.options()};
}

DefendOptions defend_options(const DefendArguments& options, const LoadedClassifier& victim) {
  const std::optional<StudentOptions> student = student_options(options);
  TransformOptions transform;
  if (!student) {
    transform = options.transform;
    if (!options.transform_name.empty()) transform.name = options.transform_name;
    transform.encoder = options.encoder.options();
  }
  TrainingOptions training = options.training.training();
  if (training.recipe == RecipeChoice::automatic)
    training.max_minutes = default_device().is_cpu() ? minutes_on_cpu : minutes_on_gpu;
  return {.training = std::move(training),
          .transform = std::move(transform),
          .student = student,
          .seed = options.training.seed,
          .false_alarm_rate = options.false_alarms,
          .answer = parse_answer(options.answer).value_or(Answer::defended),
          .scan = !options.no_scan,
          .probe = !options.no_probe,
          .resize = options.resize.mode(victim.resize).value_or(data::ResizeMode::crop),
          .show = true,
          .notify = print_notices()};
}

/// `JsonLines` of rank 0.
struct OptionalLines {
  std::optional<JsonLines>& lines;

  void on_begin(const RunInfo& info) { lines->on_begin(info); }
  void on_epoch(const EpochInfo& info) { lines->on_epoch(info); }
};

/// The epochs of a run that its time decided: kept beside its checkpoints, as the speed may differ
/// when it is resumed.
class PlannedEpochs {
 public:
  /// \param checkpoint of the run; without one, nothing is kept
  explicit PlannedEpochs(const OptionalCheckpoint& checkpoint) {
    if (checkpoint.checkpoint) file_ = checkpoint.checkpoint->path / "epochs";
  }

  /// Returns those of the interrupted run; nothing if there are none, or if it has left no checkpoint: then nothing
  /// tells whether it was the same run.
  std::optional<int> read() const {
    if (file_.empty() || !files::exists(file_) || !has_checkpoint(file_.parent_path())) return std::nullopt;
    const std::string text = files::read(file_);
    int epochs = 0;
    const auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), epochs);
    if (failed != std::errc() || epochs < 1) return std::nullopt;
    return epochs;
  }

  void write(int epochs) const {
    if (!file_.empty()) files::write(file_, fmt::format("{}\n", epochs));
  }

  /// Deletes the file, and the folder if nothing else is in it, once the checkpoints are deleted.
  void remove() const {
    std::error_code ignored;
    if (file_.empty()) return;
    fs::remove(file_, ignored);
    ::rmdir(file_.parent_path().c_str());  // fails for a link, which stays
  }

 private:
  fs::path file_;
};

/// Decides the epochs of a run whose time is limited, and prints what it is expected to take. With several
/// ranks, rank 0 decides.
void plan_epochs(Inputs& inputs, bool is_resumed, const PlannedEpochs& planned, const Common& common) {
  TrainingOptions& training = inputs.defend.training;
  if (!is_timed(training)) return;
  distributed::on_first_rank(common.ranks, [&] {
    if (is_resumed) training.epochs = planned.read();
    if (training.epochs) {
      std::cerr << fmt::format("the interrupted run was planned with {} epoch{}, which it keeps\n",
                               *training.epochs, *training.epochs == 1 ? "" : "s");
      return;
    }
    const TrainingPlan plan = plan_defense(inputs.victim, inputs.images, inputs.defend);
    std::cerr << fmt::format("training is expected to take {}; --epoch {} gives the same result\n",
                             plan.describe(), plan.epochs);
    training.epochs = plan.epochs;
    inputs.defend.plan = plan;
    planned.write(plan.epochs);
  });
  training.epochs = static_cast<int>(distributed::copy_number(common.ranks, training.epochs.value_or(0)));
  common.resume_command += fmt::format(" --epoch {}", *training.epochs);
}

/// Returns the checkpoints of the run. A run that torchrun has started again is resumed.
OptionalCheckpoint checkpoints_below(const fs::path& results, const DefendArguments& options,
                                     const Common& common) {
  CheckpointOptions checkpoints = options.checkpoints;
  checkpoints.resume |= common.ranks.restarts() > 0 && checkpoints.every > 0;
  return checkpoints.below(results);
}

/// Reads images. With several ranks, rank 0 does so first if that makes files that all read: a store, or a data set
/// that is downloaded.
template <typename Read>
auto read_in_turn(bool makes_files, const Common& common, Read&& read) {
  if (!makes_files || common.ranks.size() == 1) return read();
  std::optional<decltype(read())> images;
  distributed::on_first_rank(common.ranks, [&] { images.emplace(read()); });
  return images ? std::move(*images) : read();
}

/// Checks paths, and reads the class names, before any image is read. Returns the file to write.
fs::path begin_defense(const DefendArguments& options, const Common& common) {
  files::Paths paths{.files = {{"--model", options.victim.model},
                               {"--encoder", options.encoder.file},
                               {"--class_names", options.victim.class_names}}};
  fs::path out = options.out;
  if (options.images.empty()) {
    const fs::path folder = named_folder(options, options.attack_root);
    paths.files[0].path = folder / "victim.safetensors";
    paths.files.push_back({"--attack", folder / "attack.json"});
    paths.images = dataset_folders(options.dataset);
    check_dataset_options(options.dataset, options.data);
    if (out.empty()) out = named_folder(options, options.refine_res) / "defended.pt";
  } else {
    const DefendArguments usual;
    const std::array<std::pair<const char*, bool>, 5> of_names = {
        {{"--attack", options.attack != usual.attack},
         {"--data", options.data != usual.data},
         {"--attack_root", options.attack_root != usual.attack_root},
         {"--refine_res", options.refine_res != usual.refine_res},
         {"--skip_damaged", options.skip_damaged}}};
    for (const auto& [option, is_given] : of_names) {
      if (is_given) throw Error("{} is for --dataset and has no effect with --images; leave it out", option);
    }
    paths.images = {{"--images", options.images}};
    if (out.empty()) out = "defended.pt";
  }
  if (!options.extra.empty()) paths.images.push_back({"--extra", options.extra});
  const DefendedFiles files = DefendedFiles::beside(out);
  paths.outputs = report_files("--out", files.report);
  paths.outputs.push_back({"--out", files.weights});
  paths.outputs.push_back({"--out", out});
  begin(common, std::move(paths));
  distributed::on_first_rank(common.ranks, [&] {
    files.check_writable();
    files.check_separate();
    checkpoints_below(files.report, options, common).check();
  });
  options.resize.mode();
  options.encoder.options();
  student_options(options);
  if (!options.extra.empty() && !files::exists(options.extra))
    throw Error("cannot read images from {}: no such file or folder; check the path and its permissions",
                options.extra);
  if (!options.extra.empty() && !options.store.empty())
    throw Error(
        "--extra: other pictures are kept in memory, and --store is for sets larger than memory; leave one of them out");
  if (!options.victim.class_names.empty()) read_class_names(options.victim.class_names);
  return out;
}

/// A model's file, and a folder of images.
Inputs inputs_of_files(const DefendArguments& options, const Common& common) {
  FolderOptions folder{.resize = options.resize.mode(),
                       .max_images = options.limit,
                       .seed = options.training.seed,
                       .store = options.store};
  LoadOptions load = options.victim.load_options();
  load.images = options.resize.image({});
  auto [victim, probe] =
      load_and_probe(options.victim.model, options.images, load, folder, !options.no_probe);
  Inputs inputs{.victim = std::move(victim)};
  inputs.defend = defend_options(options, inputs.victim);
  const ImageShape shape = inputs.victim.task().image;
  options.resize.check(shape);
  folder.resize = inputs.defend.resize;
  FolderImages images = read_in_turn(!options.store.empty(), common,
                                     [&] { return read_folder_images(options.images, shape, folder); });
  if (probe && probe->blank_not_finite) remove_images_without_finite_logits(inputs.victim, images);
  inputs.images = std::move(images.images);
  inputs.skipped = images.skipped;
  inputs.defend.probed = std::move(probe);
  inputs.defend.dataset = options.images;
  return inputs;
}

/// Returns the command that trains the victim of these names.
std::string attack_command(const DefendArguments& options) {
  const DefendArguments usual;
  std::string command = "refine attack";
  const auto add = [&](const char* option, const std::string& value) {
    command += fmt::format(" {} {}", option, text::quote_for_shell(value));
  };
  add("--dataset", options.dataset);
  if (!options.data.empty()) add("--data", options.data);
  add("--model", std::string(backbones::canonical_network_name(options.victim.model)));
  add("--attack", std::string(attacks::canonical_name(options.attack)));
  if (options.attack_root != usual.attack_root) add("--attack_root", options.attack_root);
  return command;
}

/// Refuses a victim of another data set, whose folder has the same name.
/// \param classes of the data set
void check_classes(const LoadedClassifier& victim, const std::vector<std::string>& classes,
                   const fs::path& folder, const DefendArguments& options) {
  if (victim.class_names.empty() || victim.class_names == classes) return;
  const auto differing = std::ranges::mismatch(victim.class_names, classes);
  const auto described = [](const std::vector<std::string>& names, auto place) {
    return place == names.end()
               ? fmt::format("{} classes", names.size())
               : fmt::format("'{}' as class {} of {}", *place, place - names.begin(), names.size());
  };
  throw Error(
      "the victim in {} was trained on other classes than those of --dataset {} (got {}, expected {}); specify "
      "the --attack_root of its victim, or train one with refine attack",
      folder.string(), options.dataset, described(victim.class_names, differing.in1),
      described(classes, differing.in2));
}

/// What `refine attack` left under these names, and the data set that the victim was trained on.
Inputs inputs_of_names(const DefendArguments& options, const Common& common) {
  const std::string attack_name(attacks::canonical_name(options.attack));
  const fs::path folder = named_folder(options, options.attack_root);
  const fs::path file = folder / "victim.safetensors";
  if (!files::exists(file)) {
    throw Error("cannot find a victim in {}: run {}, or give --model a file and --images a folder",
                folder.string(), attack_command(options));
  }
  Inputs inputs{.victim = load_classifier(file, options.victim.load_options())};
  inputs.defend = defend_options(options, inputs.victim);
  const AttackSpec spec = read_attack(folder / "attack.json");
  if (const std::string data = dataset_identity(options.dataset);
      !spec.dataset.empty() && spec.dataset != data) {
    print_notices()(
        {Notice::Kind::note, fmt::format("the victim in {} was trained on {}, and is defended with {}",
                                         folder.string(), spec.dataset, data)});
  }
  const ImageShape shape = inputs.victim.task().image;
  const std::uint64_t seed = options.training.seed;
  NamedDataset named = read_in_turn(/*makes_files=*/true, common, [&] {
    return read_data(options.dataset, options.data, shape, inputs.defend.resize, options.skip_damaged,
                     options.store);
  });
  inputs.skipped = named.skipped;
  auto& [train, test] = named.split;
  if (options.victim.class_names.empty()) check_classes(inputs.victim, test.classes, folder, options);
  if (options.limit > 0 && options.limit < train.size()) train = train.sample(options.limit, seed);
  inputs.defend.title = attack_name + " on " + dataset_name(options.dataset);
  inputs.defend.dataset = dataset_name(options.dataset);
  inputs.defend.attack = spec.name;
  const auto attack = spec.make(shape);
  Evidence evidence{.clean = test.images};
  const metrics::Target target = attacks::target_map(attack, static_cast<int>(test.classes.size()));
  if (target) {
    evidence.triggered = attack.trigger_images(test.images);
    evidence.target = target;
  }
  evidence.test = std::move(test);
  inputs.defend.evidence = std::move(evidence);
  inputs.images = std::move(train.images);
  return inputs;
}

/// Reads other pictures.
void read_extra(Inputs& inputs, const DefendArguments& options) {
  FolderImages pictures = read_folder_images(options.extra, inputs.victim.task().image,
                                             {.resize = inputs.defend.resize, .seed = options.training.seed});
  inputs.skipped += pictures.skipped;
  inputs.defend.extra = std::move(pictures.images);
}

int run(const DefendArguments& options, const Common& common) {
  if (options.images.empty() == options.dataset.empty()) {
    throw Error(
        "clean images: specify either --images, a folder, or --dataset, whose victim refine attack has trained");
  }
  const fs::path out = begin_defense(options, common);
  Inputs inputs =
      options.images.empty() ? inputs_of_names(options, common) : inputs_of_files(options, common);
  if (!options.extra.empty()) read_extra(inputs, options);
  const DefendedFiles files = DefendedFiles::beside(out);
  auto ranks = common.ranks;
  check_export(freeze(inputs.victim.backbone), out);  // before training
  if (!options.images.empty()) {
    print_progress(fmt::format("{} ({}): {} images, {} classes", inputs.victim.name,
                               inputs.victim.description, inputs.victim.task().image,
                               inputs.victim.task().classes));
  }
  const OptionalCheckpoint checkpoint = checkpoints_below(files.report, options, common);
  const fs::path log = files.report / "log.jsonl";
  std::optional<JsonLines> lines;
  std::shared_ptr<const void> hold;
  distributed::on_first_rank(ranks, [&] {
    hold = checkpoint.hold();
    files::write(log, "");  // that the folder cannot be written is found before training
    lines.emplace(log);
  });
  if (checkpoint.checkpoint) common.checkpoints = checkpoint.checkpoint->path;
  const PlannedEpochs planned(checkpoint);
  const bool is_resumed = checkpoint.checkpoint && checkpoint.checkpoint->resume;
  const Defended defended = with_smaller_batches(inputs.defend.training, common, [&] {
    plan_epochs(inputs, is_resumed, planned, common);
    StopOnSignal signals(checkpoint.checkpoint && ranks.rank() == 0 ? common.resume_command : "");
    return defend(inputs.victim, inputs.images, inputs.defend, ranks, ProgressBar{}, OptionalLines{lines},
                  checkpoint, signals, TrainingEnd{common});
  });
  distributed::on_first_rank(ranks, [&] {
    defended.save(out);
    checkpoint.remove();
    planned.remove();
  });
  if (ranks.rank() > 0) return done;
  const Status status = show(
      common, defended.report,
      {{"to serve", files.serving}, {"report", files.report / "report.html"}, {"weights", files.weights}});
  if (ranks.size() > 1) return done;  // for a launcher, any other status is a failure
  return inputs.skipped > 0 ? look : status;
}

}  // namespace

void add_defend(CLI::App& app, Common& common) {
  auto* command = app.add_subcommand("defend", "model and clean images in, one file that serves out");
  const auto options = std::make_shared<DefendArguments>();
  command
      ->add_option(
          "--model", options->victim.model,
          "a TorchScript file, a .pt2 of torch.export, an ONNX file, a file of weights (with --arch), or, with --dataset, a network's name")
      ->required();
  command->add_option("--images", options->images,
                      "folder of clean images, in any layout; labels are not needed");
  command->add_option(
      "--extra", options->extra,
      "folder of other pictures, of anything, that nobody tampered with: where clean images are few, the "
      "defense also learns from the model's answers to them");
  options->victim.add_to(*command);
  command->add_option(
      "--out", options->out,
      "file to write, as .pt2 of torch.export or as ONNX if its name ends in .pt2 or .onnx, else as TorchScript; left "
      "out: defended.pt, or below --refine_res");
  command->add_option("--limit", options->limit, "use at most this many clean images; 0: all")
      ->check(number(0));
  options->resize.add_to(*command);
  command->add_option("--store", options->store,
                      "folder that keeps a folder's decoded images, for sets larger than memory");
  command
      ->add_option(
          "--defense", options->defense,
          "what defends: refine, a transform before the model, which stays in service; student, a fresh network that learns "
          "the model's answers to the clean images and answers in its place")
      ->check(CLI::IsMember({"refine", "student"}))
      ->capture_default_str();
  options->training.add_to(*command, /*is_defense=*/true);
  options->checkpoints.add_to(*command);
  command
      ->add_option(
          "--transform", options->transform_name,
          "UNet, as published; EncoderDecoder, which has no skip connections and costs a quarter; left out: "
          "UNet")
      ->check(CLI::IsMember({"UNet", "EncoderDecoder"}));
  command
      ->add_option("--levels", options->transform.levels,
                   "how often the transform halves its images; left out: UNet 4, EncoderDecoder 3")
      ->check(CLI::Range(1, 8));
  command
      ->add_option(
          "--width", options->transform.width,
          "channels of the transform's first convolutions; left out: UNet 64 and EncoderDecoder 112 with CUDA, "
          "a quarter of it without, half of that for images above 64 pixels. Of a student: of its ResNet-18; left out: 64 "
          "with CUDA, 16 without; with --encoder, numbers between its two layers; left out: 256. Of a decoder behind --encoder, a multiple of 4; left out: 96")
      ->check(CLI::Range(2, 4096));
  command
      ->add_option(
          "--see", options->transform.see,
          "longer side of the images that the transform or the student sees; left out: 64 for images above 96 pixels, "
          "else theirs")
      ->check(CLI::Range(8, 16384));
  command
      ->add_option(
          "--draw", options->transform.draw,
          "longer side of the images that it draws, at which the model is asked; left out: 96 for images above 96 "
          "pixels if the model takes it, else theirs")
      ->check(CLI::Range(8, 16384));
  options->encoder.add_to(*command);
  command
      ->add_option("--false_alarms", options->false_alarms, "share of clean images that may raise the alarm")
      ->check(number(0, /*above=*/false, 0.999))
      ->capture_default_str();
  add_answer_to(*command, options->answer, "defended; the file has both");
  command->add_flag(
      "--no_probe", options->no_probe,
      "do not ask the victim about some of the images before training; images are then mirrored unless --flip off");
  command->add_flag("--no_scan", options->no_scan, "do not try the catalogue of common triggers");
  constexpr const char* by_names = "As in the authors' code";
  command
      ->add_option(
          "--dataset", options->dataset,
          "instead of --images: CIFAR10, FashionMNIST or a folder, whose victim refine attack has trained")
      ->group(by_names);
  command
      ->add_flag("--skip_damaged", options->skip_damaged,
                 "leave damaged files of a folder out, and report them; without it they end the run")
      ->group(by_names);
  command->add_option("--attack", options->attack, "attack that the victim was trained with")
      ->capture_default_str()
      ->group(by_names);
  command->add_option("--data", options->data, "where the data set is; left out: data/<name>")
      ->group(by_names);
  command->add_option("--attack_root", options->attack_root, "where refine attack put its results")
      ->capture_default_str()
      ->group(by_names);
  command->add_option("--refine_res", options->refine_res, "where results go")
      ->capture_default_str()
      ->group(by_names);
  run_when_chosen(*command, common, options, run);
}

}  // namespace refine::cli
