#include "tools/refine/options.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <iostream>
#include <map>
#include <system_error>

#include <refine/attacks/by_name.hpp>
#include <refine/core/error.hpp>
#include <refine/core/text.hpp>
#include <refine/data/download.hpp>
#include <refine/nn/device.hpp>
#include <refine/report/render.hpp>
#include <refine/report/verdict.hpp>

namespace refine::cli {

namespace fs = std::filesystem;

void VictimOptions::add_to(CLI::App& command) {
  command.add_option("--arch", arch, "network that a file of weights belongs to: " + network_names_text());
  command.add_option(
      "--stem", stem,
      "of a ResNet's weights: 3x3, 3x3-pool, 7x7 or 7x7-pool, the first convolution, and whether max "
      "pooling follows; left out: as published, where that leaves no doubt");
  command.add_option(
      "--key", key,
      "which weights of a checkpoint to use, as refine inspect lists them, such as state_dict_ema; left "
      "out: found by content");
  command
      .add_option(
          "--mean", mean,
          "mean of the images that the model expects, three numbers or one for all channels, for images in "
          "[0, 1]; left out: the model takes images in [0, 1]")
      ->delimiter(',');
  command.add_option("--std", deviation, "standard deviation of these images, likewise")->delimiter(',');
  command.add_option(
      "--image", image,
      "channels, height and width that the model takes, as 3x224x224 or 224; left out: as the file or the images say");
  command.add_flag("--bgr", bgr, "the model takes blue, green, red; --mean and --std are then in this order");
  command.add_option("--output", output,
                     "which output is the logits where a program returns several: its position, from 0, or "
                     "its key");
  command.add_option("--class_names", class_names,
                     "text file with one class name a line, in the model's order");
  command.add_flag("--trust", trust,
                   "run a program even if its code names operators other than tensor arithmetic");
}

LoadOptions VictimOptions::load_options() const {
  LoadOptions options{.arch = arch, .key = key};
  if (!stem.empty()) options.stem = parse_stem(stem);
  if (!image.empty()) options.image = parse_shape(image);
  options.normalization = parse_normalization(mean, deviation);
  options.bgr = bgr;
  options.output = output;
  if (!class_names.empty()) options.class_names = read_class_names(class_names);
  options.trust = trust;
  options.notify = print_notices();
  return options;
}

void ResizeOptions::add_to(CLI::App& command) {
  command
      .add_option(
          "--fit", fit,
          "what happens to images of another size: crop, stretch or exact; left out: as the model's file says, "
          "else crop")
      ->check(CLI::IsMember({"crop", "stretch", "exact"}));
  command
      .add_option(
          "--resize", resize,
          "shorter side that every image is resized to before its middle is taken, as torchvision's Resize(256) "
          "and CenterCrop(224) do; left out: just enough to cover it")
      ->check(CLI::Range(1, 1 << 14));
  command.add_option("--crop", crop, "height and width of that middle; left out: those that the model takes")
      ->check(CLI::Range(1, 1 << 14));
}

std::optional<data::ResizeMode> ResizeOptions::mode(const std::optional<data::ResizeMode>& stored) const {
  if ((resize > 0 || crop > 0) && !fit.empty() && fit != "crop") {
    throw Error("--fit {}: --resize and --crop crop images (got both); leave --fit out", fit);
  }
  if (resize > 0 && resize < crop) {
    throw Error("--resize: must be at least --crop (got {} and {})", resize, crop);
  }
  if (fit.empty() && resize == 0 && crop == 0) return stored;
  if (fit == "exact") return data::ResizeMode::exact;
  if (fit == "stretch") return data::ResizeMode::stretch;
  return resize > 0 ? data::ResizeMode::resize_crop(resize) : data::ResizeMode::crop;
}

ImageShape ResizeOptions::image(const ImageShape& other) const {
  return crop > 0 ? ImageShape{3, crop, crop} : other;
}

void ResizeOptions::check(const ImageShape& model) const {
  if (crop > 0 && (model.height != crop || model.width != crop)) {
    throw Error("--crop: must be the size that the model takes (got {}, expected {} x {})", crop,
                model.height, model.width);
  }
  if (resize > 0 && resize < std::max(model.height, model.width)) {
    throw Error("--resize: must be at least the size that the model takes (got {}, expected {} or more)",
                resize, std::max(model.height, model.width));
  }
}

void LabelOptions::add_to(CLI::App& command) {
  command
      .add_option(
          "--labels", order,
          "how class folders become labels: names (the model's class names), text or number (their place in "
          "text or number order, as 0, 1, 10, 2 or 0, 1, 2, 10), none; auto: names, or the order that fits the "
          "model's answers")
      ->check(CLI::IsMember({"auto", "names", "text", "number", "none"}))
      ->capture_default_str();
  command.add_flag("--no_labels", none, "folders are not classes; the same as --labels none");
}

FolderLabels LabelOptions::labels() const {
  if (none && order != "auto" && order != "none")
    throw Error("--labels {} and --no_labels contradict each other; leave one of the two out", order);
  if (none) return FolderLabels::none;
  for (const FolderLabels labels :
       {FolderLabels::names, FolderLabels::text, FolderLabels::number, FolderLabels::none}) {
    if (order == to_text(labels)) return labels;
  }
  return FolderLabels::automatic;
}

void TrainOptions::add_to(CLI::App& command, bool is_defense) {
  command
      .add_option(
          "--recipe", recipe,
          "fast; paper: as published, 150 epochs; auto: fast (on a GPU, for many small images: gpu), sized for "
          "this machine and these images")
      ->check(CLI::IsMember({"auto", "fast", "paper"}))
      ->capture_default_str();
  command.add_option("--epoch", epoch, "how often the images are seen")->check(CLI::Range(1, 1'000'000));
  if (is_defense) {
    command
        .add_option(
            "--minutes", minutes,
            "how long to train: sizes the epochs by the speed of the first steps, and prints them; --epoch with "
            "this number gives the same result. --epoch replaces it; left out: as many epochs as suffice for this "
            "number of images, in at most 15 minutes, on a GPU 5; --recipe fast and paper have no limit")
        ->check(number(0, /*above=*/true));
  }
  command.add_option("--batch_size", batch_size, "images a step, 2 or more")
      ->check(CLI::Range(1, 1'000'000))
      ->check([](const std::string& text) {
        return text == "1"
                   ? std::string(
                         "must be 2 or more, got 1: batch normalisation learns nothing from a batch of one image")
                   : std::string();
      });
  command.add_option("--lr", lr, "learning rate")->check(number(0, /*above=*/true));
  command.add_option("--optim", optim, "SGD, Adam or Muon")->check(CLI::IsMember({"SGD", "Adam", "Muon"}));
  command
      .add_option(
          "--precision", precision,
          "precision of convolutions and matrix products in training: float32, bfloat16, or automatic, which is "
          "bfloat16 where the device has instructions for it and the model suits it; left out: as the recipe has it")
      ->check(CLI::IsMember({"float32", "bfloat16", "automatic"}));
  command.add_option("--decay", decay, "factor of the learning rate at the recipe's milestones")
      ->check(number(0, /*above=*/true));
  command
      .add_option(
          "--flip", flip,
          is_defense
              ? "on or off: mirror images at random; left out: on, unless the victim gives mirrored images "
                "other classes, as of signs and text"
              : "on or off: mirror images at random, which is wrong for signs and text; left out: on")
      ->check(CLI::IsMember({"on", "off"}));
  if (is_defense) {
    command
        .add_option(
            "--sync_batch_norm", sync_batch_norm,
            "on or off: with several ranks, BatchNorm takes mean and variance of the whole batch, or of each rank's "
            "images, which synchronizes less; left out: on")
        ->check(CLI::IsMember({"on", "off"}));
    command.add_option("--sup", sup, "weight of the SupCon loss; 0 leaves it out")->check(number(0));
    command
        .add_option("--temperature", temperature,
                    "softens the answers of distillation; left out: 1, and 4 with --encoder")
        ->check(number(0, /*above=*/true));
    command
        .add_option(
            "--head", head,
            "weight of an auxiliary classifier on the transform's bottleneck, dropped after training; left out: 1 with "
            "--encoder, else 0")
        ->check(number(0));
  }
  command.add_option("--seed", seed, "of the weights, the permutation and the order of images")
      ->check([](const std::string& text) {
        return text.starts_with('-') ? "seed must be 0 or more, got " + text : std::string();
      })
      ->capture_default_str();
}

TrainingOptions TrainOptions::training() const {
  static const std::map<std::string, OptimizerKind> optimizers = {
      {"SGD", OptimizerKind::sgd}, {"Adam", OptimizerKind::adam}, {"Muon", OptimizerKind::muon}};
  static const std::map<std::string, Precision> precisions = {{"float32", Precision::float32},
                                                              {"bfloat16", Precision::bfloat16},
                                                              {"automatic", Precision::automatic}};
  TrainingOptions options{.recipe = recipe == "auto"   ? RecipeChoice::automatic
                                    : recipe == "fast" ? RecipeChoice::fast
                                                       : RecipeChoice::paper};
  if (epoch > 0) options.epochs = epoch;
  if (batch_size > 0) options.batch_size = batch_size;
  if (lr > 0) options.lr = lr;
  if (!optim.empty()) options.optimizer = optimizers.at(optim);
  if (!precision.empty()) options.precision = precisions.at(precision);
  if (!sync_batch_norm.empty()) options.sync_batch_norm = sync_batch_norm == "on";
  if (decay > 0) options.decay = decay;
  if (sup >= 0) options.supcon_weight = sup;
  if (temperature > 0) options.temperature = temperature;
  if (head >= 0) options.head_weight = head;
  if (!flip.empty()) options.flip = flip == "on";
  if (minutes > 0) options.minutes = minutes;
  return options;
}

CLI::Option* add_answer_to(CLI::App& command, std::string& answer, const std::string& left_out) {
  return command
      .add_option(
          "--answer", answer,
          "defended: the defense's answer to every image; gated: the victim's where the alarm is silent, and the "
          "defense's where it is raised; left out: " +
              left_out)
      ->check(CLI::IsMember({"defended", "gated"}));
}

void EncoderArguments::add_to(CLI::App& command) {
  constexpr const char* group = "Encoder";
  command
      .add_option(
          "--encoder", file,
          "a feature extractor that nobody tampered with, TorchScript or .pt2, such as the public network that the "
          "model was fine-tuned from, without its last layer")
      ->group(group);
  command.add_option("--encoder_mean", mean, "what the encoder's images are normalised with, in [0, 1]")
      ->delimiter(',')
      ->group(group);
  command.add_option("--encoder_std", deviation, "likewise, the deviation")->delimiter(',')->group(group);
}

EncoderOptions EncoderArguments::options() const {
  if (file.empty() && !(mean.empty() && deviation.empty()))
    throw Error("--encoder_mean and --encoder_std are for --encoder; specify its file, or leave them out");
  if (mean.empty() != deviation.empty())
    throw Error("--encoder_mean and --encoder_std: specify both, or neither");
  return {.file = file, .normalization = parse_normalization(mean, deviation, "--encoder_")};
}

void CheckpointOptions::add_to(CLI::App& command) {
  command
      .add_flag("--resume", resume,
                "continue an interrupted run of the same options, bit for bit; start if there is none")
      ->configurable(false);
  command
      .add_option("--checkpoint_every", every,
                  "seconds between two checkpoints of the training, which are removed at the end; 0: none")
      ->check(number(0))
      ->capture_default_str();
}

bool has_checkpoint(const fs::path& folder) {
  try {
    return !refine::detail::checkpoints_in(folder).empty();
  } catch (const Error&) {
    return false;
  }
}

OptionalCheckpoint CheckpointOptions::below(const fs::path& results) const {
  if (every == 0 && resume) {
    throw Error("--resume: checkpoints are off (--checkpoint_every 0); leave one of the two out");
  }
  if (every == 0) return {};
  constexpr double longest = 1e6;  // eleven days; the sum with a time must not overflow
  const auto interval = std::chrono::duration<double>(std::min(every, longest));
  return {Checkpoint{.path = results / "checkpoints",
                     .every = std::chrono::duration_cast<std::chrono::milliseconds>(interval),
                     .resume = resume}};
}

std::function<std::string(const std::string&)> number(double low, bool above, double high) {
  return [low, above, high](const std::string& text) -> std::string {
    double value = 0;
    if (!CLI::detail::lexical_cast(text, value) || !std::isfinite(value))
      return "must be a number, got " + text;
    if ((above ? value > low : value >= low) && value <= high) return "";
    const std::string most = std::isfinite(high) ? fmt::format(" and at most {}", high) : "";
    return fmt::format("must be {} {}{}, got {}", above ? "above" : "at least", low, most, text);
  };
}

void begin(const Common& common, files::Paths paths) {
  paths.files.push_back({"--config", common.config});
  paths.outputs.push_back({"--save_config", common.save_config});
  files::check_outputs(std::move(paths));
  if (common.write_config) common.write_config();
}

void warn_smaller_batch(int batch, TrainingOptions& options, const Common& common) {
  const auto option = [](int images) { return fmt::format(" --batch_size {}", images); };
  if (options.batch_size) {
    const std::string last = option(*options.batch_size);
    if (const auto found = common.resume_command.rfind(last); found != std::string::npos)
      common.resume_command.erase(found, last.size());
  }
  options.batch_size = batch;
  common.resume_command += option(batch);
  std::cerr << fmt::format(
      "warning: memory is short: training starts again with batches of {0} images, and the result differs from that "
      "of the recipe; specify --batch_size to end the run instead, and --batch_size {0} to resume it after a crash\n",
      batch);
}

namespace {

bool is_quiet = false;

}  // namespace

void set_quiet() {
  is_quiet = true;
}

void print_progress(const std::string& line) {
  if (!is_quiet) std::cerr << line << '\n';
}

Notify print_notices() {
  return [](const Notice& notice) {
    print_progress((notice.kind == Notice::Kind::warning ? "warning: " : "") + text::printable(notice.text));
  };
}

void print(const nlohmann::ordered_json& json) {
  const std::string shown = json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
  std::cout << text::escape_json_controls(shown) << std::endl;
}

Status show(const Common& common, const report::DefenseReport& page,
            const std::vector<std::pair<std::string, fs::path>>& files) {
  const Status status = report::verdict(page).decision == report::Verdict::Decision::serve ? done : look;
  if (common.json) {
    auto json = report::metrics_json(page);
    for (const auto& [name, path] : files) json["files"][name] = path.lexically_normal().string();
    std::cout << report::metrics_text(json) << std::flush;
    return status;
  }
  std::cout << page;
  std::size_t width = 0;
  for (const auto& [name, path] : files) width = std::max(width, name.size());
  if (!files.empty()) std::cout << '\n';
  for (const auto& [name, path] : files) {
    std::cout << name << std::string(width + 2 - name.size(), ' ') << path.lexically_normal().string()
              << '\n';
  }
  std::cout << std::flush;
  return status;
}

std::string attack_names() {
  return fmt::format("{}", fmt::join(attacks::names(), ", "));
}

void check_class_options(const std::string& attack, bool has_target, bool has_source) {
  const std::string_view name = attack.empty() ? std::string_view() : attacks::canonical_name(attack);
  if (has_target && name == "AllToAll") {
    throw Error("--tlabel: AllToAll sends each class to the next one and has no single target; leave it out");
  }
  if (has_target && name == "Benign")
    throw Error("--tlabel: Benign poisons no images and has no target; leave it out");
  if (has_source && name != "SourceSpecific") {
    throw Error("--source is for --attack SourceSpecific, which moves the images of one class; leave it out");
  }
}

std::vector<files::NamedPath> report_files(const std::string& option, const fs::path& folder) {
  std::vector<files::NamedPath> files;
  for (const char* name : {"report.html", "metrics.json", "images.png", "log.jsonl"}) {
    files.push_back({option, folder / name});
  }
  return files;
}

std::vector<files::NamedPath> dataset_folders(const std::string& dataset) {
  std::error_code unknown;
  if (!fs::is_directory(dataset, unknown)) return {};
  return {{"--dataset", fs::path(dataset) / "train"}, {"--dataset", fs::path(dataset) / "test"}};
}

std::string dataset_identity(const std::string& dataset) {
  if (is_named_dataset(dataset)) return dataset;
  std::error_code unknown;
  const fs::path path = fs::weakly_canonical(dataset, unknown);
  return text::to_utf8(unknown ? dataset : path.lexically_normal().string());
}

void check_dataset_options(const std::string& dataset, const std::string& root) {
  if (root.empty() || is_named_dataset(dataset)) return;
  throw Error("--data is where CIFAR10 or FashionMNIST is (got --dataset {}, a folder); leave it out",
              dataset);
}

NamedDataset read_data(const std::string& dataset, const std::string& root, const ImageShape& image,
                       data::ResizeMode resize, bool skip_damaged, const std::string& store) {
  return read_dataset(dataset,
                      {.root = root,
                       .image = image,
                       .resize = resize,
                       .on_error = skip_damaged ? data::OnDecodeError::skip : data::OnDecodeError::fail,
                       .store = store,
                       .download = [](const fs::path& folder) { data::download_cifar10(folder); }});
}

std::pair<ExportedClassifier, ExportedInfo> load_exported(const std::string& model,
                                                          const std::string& class_names, bool trust,
                                                          std::optional<Answer> answer) {
  if (files::lower_extension(model) == ".safetensors") {
    throw Error(
        "cannot load {}: it has weights without a program; refine export --model VICTIM --defense {} makes a file that serves",
        model, text::quote_for_shell(model));
  }
  ExportedClassifier loaded(model, trust ? formats::Trust::blind : formats::Trust::checked, answer);
  loaded.to(default_device());
  ExportedInfo info = exported_info(
      loaded.about(), class_names.empty() ? std::vector<std::string>{} : read_class_names(class_names));
  return {std::move(loaded), std::move(info)};
}

}  // namespace refine::cli
