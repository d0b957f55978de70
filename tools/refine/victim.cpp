#include "tools/refine/victim.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>
#include <string_view>
#include <utility>

#include <refine/artifacts/state_dict.hpp>
#include <refine/artifacts/victim.hpp>
#include <refine/backbones/normalized.hpp>
#include <refine/backbones/resnet18.hpp>
#include <refine/backbones/scripted.hpp>
#include <refine/core/file_bytes.hpp>
#include <refine/formats/torchscript.hpp>
#include <refine/formats/weights.hpp>

#include "tools/refine/served_about.hpp"

namespace refine::cli {
namespace {

namespace fs = std::filesystem;
using backbones::AnyBackbone;

std::string lower(std::string text) {
  for (char& c : text) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return text;
}

/// What the tensors of a network's weights tell of it.
struct Extent {
  int channels, classes, width;
};

std::optional<Extent> extent_of(const std::map<std::string, at::Tensor>& tensors) {
  const auto first = tensors.find("conv1.weight"), last = tensors.find("linear.weight");
  if (first == tensors.end() || last == tensors.end() || first->second.dim() != 4 ||
      last->second.dim() != 2) {
    return std::nullopt;
  }
  return Extent{static_cast<int>(first->second.size(1)), static_cast<int>(last->second.size(0)),
                static_cast<int>(first->second.size(0))};
}

std::optional<Normalization> normalization_of(const VictimOptions& options, const std::string& constants) {
  Normalization by;
  const auto copy = [](const std::vector<double>& from, std::array<double, 3>& to, const char* flag) {
    if (from.size() != 3) {
      throw Error("refine: {} was given {} number(s); give three, for red, green and blue, in [0, 1]", flag,
                  from.size());
    }
    std::ranges::copy(from, to.begin());
  };
  if (!options.mean.empty() || !options.deviation.empty()) {
    copy(options.mean, by.mean, "--mean");
    copy(options.deviation, by.deviation, "--std");
    return by;
  }
  const auto said = nlohmann::json::parse(constants, nullptr, /*allow_exceptions=*/false);
  if (!said.is_object() || !said.contains("mean") || !said.contains("deviation")) return std::nullopt;
  copy(said["mean"].get<std::vector<double>>(), by.mean, "the file's mean");
  copy(said["deviation"].get<std::vector<double>>(), by.deviation, "the file's deviation");
  return by;
}

/// Puts `backbone` behind its normalisation, if it has one.
template <typename B>
AnyBackbone behind(const std::optional<Normalization>& by, B backbone) {
  if (by) return AnyBackbone(backbones::Normalized{std::move(backbone), *by});
  return AnyBackbone(std::move(backbone));
}

std::vector<std::string> names_from(const VictimOptions& options, const std::string& in_file) {
  if (!options.class_names_file.empty()) return lines_of(options.class_names_file);
  const auto json = nlohmann::json::parse(in_file, nullptr, /*allow_exceptions=*/false);
  return json.is_array() ? json.get<std::vector<std::string>>() : std::vector<std::string>{};
}

Victim from_weights(const VictimOptions& options, const ImageShape& images) {
  const fs::path path = options.model;
  const formats::Weights weights = formats::read_weights(path);
  const auto said = [&](const char* key) {
    const auto found = weights.metadata.find(key);
    return found == weights.metadata.end() ? std::string() : found->second;
  };
  const std::string arch = options.arch.empty() ? said("network") : options.arch;
  if (arch.empty()) {
    throw Error("cannot use {}: it holds weights and does not say of which network; say --arch, one of {}",
                path.string(), network_names());
  }
  const auto extent = extent_of(weights.tensors);
  if (!extent) {
    throw Error(
        "cannot use {} as a {}: it has no 'conv1.weight' and 'linear.weight' of that network; say another "
        "--arch, or export the model as TorchScript",
        path.string(), arch);
  }
  ImageShape shape = options.image_shape();
  if (!said("image").empty()) shape = merged(shape, parse_shape(said("image")));
  if (!compatible(shape.channels, extent->channels)) {
    throw Error(
        "cannot use {} as a {} for images of {} channels: its weights are for {}; say another --image",
        path.string(), arch, shape.channels, extent->channels);
  }
  shape = merged({extent->channels, dynamic, dynamic}, merged(shape, images));
  AnyBackbone bare = make_network(arch, {shape, extent->classes}, extent->width, default_seed);
  artifacts::load_state_dict(*bare.module, weights.tensors, path.string());
  bare.module->eval();
  return {.backbone = behind(normalization_of(options, said("constants")), std::move(bare)),
          .what = fmt::format("{}, width {}", arch, extent->width),
          .class_names = names_from(options, said("class_names"))};
}

Victim from_torchscript(const VictimOptions& options, const ImageShape& images) {
  backbones::ScriptedOptions scripted{
      .task = {options.image_shape(), dynamic},
      .trust = options.trust ? formats::Trust::blind : formats::Trust::checked};
  // A network that pools its last layer takes any size: then the images' own is the likeliest.
  if (images.is_static()) scripted.candidates.insert(scripted.candidates.begin(), images);
  backbones::Scripted<> file(options.model, scripted);
  return {.backbone = behind(normalization_of(options, ""), file),
          .what = file.probabilities() ? "TorchScript, returns probabilities" : "TorchScript",
          .class_names = names_from(options, "")};
}

}  // namespace

void VictimOptions::add_to(CLI::App& command) {
  command.add_option("--arch", arch, "the network that a file of weights belongs to: " + network_names());
  command
      .add_option("--mean", mean,
                  "of the images the model wants, one number a channel, for images in [0, 1]; "
                  "left out: the model takes images in [0, 1]")
      ->delimiter(',');
  command.add_option("--std", deviation, "likewise")->delimiter(',');
  command.add_option("--image", image,
                     "channels, height and width the model takes, as 3x224x224 or 224; left out: "
                     "found out");
  command.add_option("--class_names", class_names_file,
                     "a text file with one class name a line, in the model's order");
  command.add_flag(
      "--trust", trust,
      "run a TorchScript file even where its code names operators that are no tensor arithmetic");
}

ImageShape VictimOptions::image_shape() const {
  return image.empty() ? ImageShape{} : parse_shape(image);
}

ImageShape parse_shape(const std::string& text) {
  std::vector<int> numbers;
  const char* at = text.data();
  const char* const end = at + text.size();
  for (;;) {
    int number = 0;
    const auto [rest, failed] = std::from_chars(at, end, number);
    if (failed != std::errc() || number < 1 || number > (1 << 14)) break;
    numbers.push_back(number);
    if (rest == end) {
      if (numbers.size() == 1) return {3, numbers[0], numbers[0]};
      if (numbers.size() == 3) return {numbers[0], numbers[1], numbers[2]};
      break;
    }
    if (*rest != 'x') break;
    at = rest + 1;
  }
  throw Error("refine: '{}' is no image shape; say channels, height and width as 3x224x224, or 224", text);
}

bool is_program(const fs::path& path) {
  return formats::is_archive(file_bytes(path)) && formats::is_torchscript(formats::read_archive(path));
}

std::string network_names() {
  return "ResNet18";
}

AnyBackbone make_network(const std::string& name, const Task& task, int width, std::uint64_t seed) {
  if (lower(name) == "resnet18") {
    return AnyBackbone(backbones::ResNet18<>{.task = task, .width = width, .seed = seed});
  }
  throw Error("refine: no network is called '{}'; say one of {}, or give a TorchScript file", name,
              network_names());
}

Victim load_victim(const VictimOptions& options, const ImageShape& images) {
  const fs::path path = options.model;
  if (!is_there(path)) {
    throw Error("cannot read {}: there is no such file; check the path of --model", path.string());
  }
  Victim victim = is_program(path) ? from_torchscript(options, images) : from_weights(options, images);
  const auto classes = static_cast<std::size_t>(victim.backbone.task.classes);
  if (!victim.class_names.empty() && victim.class_names.size() != classes) {
    throw Error("cannot use {} class names: {} predicts {} classes; give a name for each",
                victim.class_names.size(), path.string(), classes);
  }
  return victim;
}

}  // namespace refine::cli
