// refine export: a defense that was trained before, by refine or by the authors' code, as one file
// that serves.

#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include <refine/core/error.hpp>
#include <refine/core/file.hpp>
#include <refine/defend/saved_defense.hpp>

#include "tools/refine/options.hpp"

namespace refine::cli {
namespace {

struct ExportArguments {
  VictimOptions victim;
  EncoderArguments encoder;
  std::string defense, permutation, out, pixel_domain, answer;
};

int run(const ExportArguments& options, const Common& common) {
  // A classifier alone must not replace a defense.
  const std::string out = !options.out.empty()      ? options.out
                          : options.defense.empty() ? "classifier.pt"
                                                    : "defended.pt";
  begin(common, {.files = {{"--model", options.victim.model},
                           {"--defense", options.defense},
                           {"--encoder", options.encoder.file},
                           {"--permutation", options.permutation},
                           {"--class_names", options.victim.class_names}},
                 .outputs = {{"--out", out}}});
  if (files::lower_extension(out) == ".safetensors") {
    throw Error(
        "cannot write {}: a file that serves is a program, and .safetensors files have weights alone; specify --out "
        "defended.pt",
        out);
  }
  const LoadOptions load = options.victim.load_options();
  const EncoderOptions encoder = options.encoder.options();
  if (options.defense.empty()) {
    if (!encoder.file.empty())
      throw Error("--encoder is for --defense, weights that were trained behind it; leave it out");
    if (!options.answer.empty())
      throw Error("--answer: a classifier alone has one answer; specify --defense");
    if (!options.permutation.empty() || !options.pixel_domain.empty()) {
      throw Error("{} is for --defense, which a classifier alone does not have; leave it out",
                  options.permutation.empty() ? "--pixel_domain" : "--permutation");
    }
    export_classifier(options.victim.model, out, load);
  } else {
    SavedDefenseOptions saved{.victim = load,
                              .permutation = options.permutation,
                              .encoder = encoder,
                              .answer = parse_answer(options.answer)};
    if (!options.pixel_domain.empty()) {
      saved.pixel_domain = options.pixel_domain == "reference" ? PixelDomain::reference : PixelDomain::image;
    }
    load_saved_defense(options.victim.model, options.defense, saved).save(out);
  }
  if (common.json) {
    print({{"files", {{"to serve", out}}}});
  } else {
    std::cout << "to serve  " << out << std::endl;
  }
  return done;
}

}  // namespace

void add_export(CLI::App& app, Common& common) {
  auto* command =
      app.add_subcommand("export", "a trained defense, or a classifier alone, as one file that serves");
  const auto options = std::make_shared<ExportArguments>();
  command
      ->add_option("--model", options->victim.model,
                   "the victim: a TorchScript file, a .pt2, an ONNX file, or weights with --arch")
      ->required();
  options->victim.add_to(*command);
  command->add_option(
      "--defense", options->defense,
      "weights that refine defend saved (.safetensors), of a transform or a student, or unet_epochN.pth of the authors' code; left "
      "out: the classifier alone is exported");
  options->encoder.add_to(*command);
  command->add_option("--permutation", options->permutation, "label_shuffle.pth of the authors' code");
  command
      ->add_option(
          "--pixel_domain", options->pixel_domain,
          "image: the victim normalises what the transform returns; reference: as in the authors' code; left "
          "out: as the defense says, and reference for files of the authors' code")
      ->check(CLI::IsMember({"image", "reference"}));
  add_answer_to(*command, options->answer, "as the defense says");
  command->add_option(
      "--out", options->out,
      "file to write: .pt2 of torch.export or ONNX if its name ends in .pt2 or .onnx, else TorchScript; left out: "
      "defended.pt, or classifier.pt without --defense");
  run_when_chosen(*command, common, options, run);
}

}  // namespace refine::cli
