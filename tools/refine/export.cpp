// refine export: a defense that was trained before, here or by the reference, as one file that serves.

#include <fmt/core.h>

#include <filesystem>
#include <memory>
#include <string>

#include <refine/export/torchscript.hpp>
#include <refine/export/weights.hpp>
#include <refine/formats/checkpoint.hpp>
#include <refine/pipeline/any_pipeline.hpp>
#include <refine/remaps/permutations.hpp>

#include "tools/refine/command.hpp"
#include "tools/refine/paths.hpp"
#include "tools/refine/results.hpp"
#include "tools/refine/transform.hpp"
#include "tools/refine/victim.hpp"

namespace refine::cli {
namespace {

namespace fs = std::filesystem;

struct Options {
  VictimOptions victim;
  std::string defense, permutation, out = "defended.pt", pixel_domain;
};

/// A defense as a file has it, ours or the reference's.
struct Saved {
  formats::Weights weights;
  bool ours;

  explicit Saved(const fs::path& path)
      : weights(formats::read_weights(path)), ours(weights.metadata.contains("permutation")) {}

  /// Empty where the file does not say it.
  std::string said(const std::string& key) const {
    const auto found = weights.metadata.find(key);
    return found == weights.metadata.end() ? std::string() : found->second;
  }

  /// null where it does not.
  nlohmann::ordered_json parsed(const std::string& key) const {
    auto json = nlohmann::ordered_json::parse(said(key), nullptr, /*allow_exceptions=*/false);
    return json.is_discarded() ? nlohmann::ordered_json(nullptr) : json;
  }
};

void export_defense(VictimOptions victim_options, const Options& options) {
  const fs::path path = options.defense;
  const Saved saved(path);
  if (const std::string image = saved.said("image"); !image.empty()) {
    if (!compatible(victim_options.image_shape(), parse_shape(image))) {
      throw Error("cannot export {} for images of {}: it was fitted to {}; leave --image out", path.string(),
                  victim_options.image, image);
    }
    victim_options.image = image;
  }
  const Victim victim = load_victim(victim_options, {});
  const Task task = victim.backbone.task;
  const bool clamps = !saved.ours || saved.said("transform").ends_with("clamp");
  if (!saved.ours && options.permutation.empty()) {
    throw Error(
        "cannot export {}: it does not hold the permutation of its classes; give --permutation, the "
        "reference's label_shuffle.pth",
        path.string());
  }
  const std::string domain = !options.pixel_domain.empty() ? options.pixel_domain
                             : saved.ours                  ? saved.said("pixel_domain")
                                                           : "reference";
  AnyPipeline defense{
      transform_of(saved.weights.tensors, saved.ours ? "transform." : "", task.image,
                   clamps ? transforms::OutputActivation::clamp : transforms::OutputActivation::sigmoid,
                   path),
      freeze(victim.backbone), remaps::None<>{.classes = task.classes},
      domain == "reference" ? PixelDomain::reference : PixelDomain::image};
  if (saved.ours) {
    load(defense, path);
  } else {
    nn::load_state_dict(*defense.transform().module, saved.weights.tensors, path.string());
    defense.rename_classes(formats::read_permutation(options.permutation));
  }
  nlohmann::ordered_json about = {{"victim", fs::path(victim_options.model).filename().string()},
                                  {"model", victim.what},
                                  {"transform", defense.transform().describe()},
                                  {"pixel_domain", domain},
                                  {"class_names", victim.class_names}};
  if (const auto names = saved.parsed("class_names"); victim.class_names.empty() && names.is_array()) {
    about["class_names"] = names;
  }
  for (const char* key : {"alarm", "preprocessing", "recipe", "seed"}) {
    if (!saved.said(key).empty()) about[key] = saved.parsed(key);
  }
  export_torchscript(defense, options.out, about);
}

int run(const Options& options, const Common& common) {
  begin(common, {.files = {{"--model", options.victim.model},
                           {"--defense", options.defense},
                           {"--permutation", options.permutation},
                           {"--class_names", options.victim.class_names_file}},
                 .outputs = {{"--out", options.out}}});
  if (options.defense.empty()) {
    const Victim victim = load_victim(options.victim, {});
    export_torchscript(freeze(victim.backbone), options.out, {{"class_names", victim.class_names}});
  } else {
    export_defense(options.victim, options);
  }
  if (common.json) {
    print({{"files", {{"to serve", options.out}}}});
  } else {
    std::cout << "to serve  " << options.out << std::endl;
  }
  return done;
}

}  // namespace

void add_export(CLI::App& app, Common& common) {
  auto* command =
      app.add_subcommand("export", "a trained defense, or a classifier alone, as one TorchScript file");
  const auto options = std::make_shared<Options>();
  command
      ->add_option("--model", options->victim.model, "the victim: a TorchScript file, or weights with --arch")
      ->required();
  options->victim.add_to(*command);
  command->add_option(
      "--defense", options->defense,
      "what refine defend saved (.safetensors), or the reference's unet_epochN.pth; left out: the "
      "classifier alone is exported");
  command->add_option("--permutation", options->permutation, "the reference's label_shuffle.pth");
  command
      ->add_option(
          "--pixel_domain", options->pixel_domain,
          "image: the victim normalises what the transform returns; reference: as the published code has it; "
          "left out: what the defense says, and reference for the reference's own files")
      ->check(CLI::IsMember({"image", "reference"}));
  command->add_option("--out", options->out, "the file to write")->capture_default_str();
  command->callback(
      [&common, options] { common.chosen = [&common, options] { return run(*options, common); }; });
}

}  // namespace refine::cli
