#include "tools/refine/victim.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>
#include <string_view>
#include <utility>

#include <refine/backbones/normalized.hpp>
#include <refine/backbones/zoo.hpp>
#include <refine/core/file.hpp>
#include <refine/core/text.hpp>
#include <refine/export/weights.hpp>
#include <refine/formats/checkpoint.hpp>
#include <refine/formats/torchscript_check.hpp>
#include <refine/programs/torchscript.hpp>

#include "tools/refine/class_names.hpp"
#include "tools/refine/stored_network.hpp"

namespace refine::cli {
namespace {

namespace fs = std::filesystem;
using backbones::AnyBackbone;

/// What the command line says, else what the file says.
std::optional<Normalization> normalization_of(const VictimOptions& options, const std::string& constants) {
  if (const auto said = parse_normalization(options.mean, options.deviation)) return said;
  const auto json = nlohmann::json::parse(constants, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || json.empty()) return std::nullopt;
  try {
    return parse_normalization(json.at("mean").get<std::vector<double>>(),
                               json.at("deviation").get<std::vector<double>>());
  } catch (const nlohmann::json::exception&) {
    throw Error("cannot use {}: its constants are no mean and deviation; say --mean and --std",
                options.model);
  }
}

/// Puts `backbone` behind its normalisation, if it has one, and that behind the order of its channels.
template <typename B>
AnyBackbone behind(const std::optional<Normalization>& by, bool bgr, B backbone) {
  const AnyBackbone any =
      by ? AnyBackbone(backbones::Normalized{std::move(backbone), *by}) : AnyBackbone(std::move(backbone));
  return bgr ? AnyBackbone(backbones::Bgr{any}) : any;
}

std::vector<std::string> names_from(const VictimOptions& options, const nlohmann::json& in_file) {
  if (!options.class_names_file.empty()) return read_class_names(options.class_names_file);
  std::vector<std::string> names;
  if (!in_file.is_array()) return names;
  for (const auto& name : in_file) {
    if (!name.is_string())
      throw Error("cannot use {}: its class_names are no texts; say --class_names", options.model);
    names.push_back(name);
  }
  return names;
}

nlohmann::json parsed(const std::string& text) {
  return nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
}

/// What the command line and the file say of the images, which must agree.
ImageShape agreed(const VictimOptions& options, const ImageShape& file) {
  const ImageShape said = options.image_shape();
  if (compatible(said, file)) return merged(said, file);
  Message text;
  text << file;
  throw Error("cannot use {} for images of {}: it says that it takes {}; leave --image out", options.model,
              options.image, text.view());
}

Victim from_weights(const VictimOptions& options, const ImageShape& images) {
  const fs::path path = options.model;
  const formats::Weights weights = formats::read_weights(path, options.key);
  if (options.key.empty() && !weights.other_keys.empty()) {
    std::cerr << fmt::format("{}: takes the weights {}; --key chooses others: {}\n", printable(path.string()),
                             weights.key.empty() ? "of the network itself" : "at " + printable(weights.key),
                             printable(fmt::format("{}", fmt::join(weights.other_keys, ", "))));
  }
  const auto said = [&](const char* key) {
    const auto found = weights.metadata.find(key);
    return found == weights.metadata.end() ? std::string() : found->second;
  };
  std::string arch = options.arch.empty() ? said("network") : options.arch;
  // BackdoorBench's dictionary has the network's name.
  if (arch.empty() && backbones::is_network_name(said("model_name"))) arch = said("model_name");
  if (arch.empty()) {
    Tensors inner = weights.tensors;
    while (network_of(inner).empty() && formats::strip_shared_prefix(inner)) continue;
    const std::string_view likely = network_of(inner);
    throw Error("cannot use {}: it holds weights and does not say of which network; say --arch{}",
                path.string(),
                likely.empty() ? ", one of " + network_names()
                               : fmt::format(" {}, which its tensors look like", likely));
  }
  const std::string image = said("image");
  if (!options.output.empty()) {
    throw Error("cannot use --output {} with {}: a network of weights has one output; leave --output out",
                options.output, path.string());
  }
  const ImageShape shape = agreed(options, image.empty() ? ImageShape{} : parse_shape(image));
  const auto asked_stem = options.stem.empty() ? std::nullopt : std::optional(parse_stem(options.stem));
  auto [bare, width, stem] = stored_network(arch, weights.tensors, shape, images, path.string(), asked_stem);
  return {.backbone = behind(normalization_of(options, said("constants")), options.bgr, std::move(bare)),
          .what = fmt::format("{}, width {}{}{}", network_name(arch), width, stem.empty() ? "" : ", ", stem),
          .class_names = names_from(options, parsed(said("class_names"))),
          .image_known = shape.is_static(),
          .normalization_known = options.mean.empty() && !said("constants").empty()};
}

Victim from_torchscript(const VictimOptions& options, const ImageShape& images) {
  if (!options.key.empty()) {
    throw Error(
        "cannot use --key {} with {}: it is a TorchScript file, which has one network; leave --key out",
        options.key, options.model);
  }
  if (!options.arch.empty()) {
    throw Error(
        "cannot use {} as a {}: it is a TorchScript file, which has its network inside; leave --arch out",
        options.model, options.arch);
  }
  if (!options.stem.empty()) {
    throw Error("--stem: {} is a TorchScript file, which has its network inside; leave --stem out",
                options.model);
  }
  const auto file = formats::load_torchscript(
      options.model, options.trust ? formats::Trust::blind : formats::Trust::checked);
  // One that refine wrote says what it is.
  const auto extra = file.listing.extra.find("refine.json");
  const auto about = extra == file.listing.extra.end() ? nlohmann::json() : parsed(extra->second);
  ImageShape shape;
  if (about.is_object() && about.contains("image") && about["image"].is_array() &&
      about["image"].size() == 3) {
    std::string text;
    for (const auto& extent : about["image"]) text += (text.empty() ? "" : "x") + extent.dump();
    shape = parse_shape(text);
  }
  const ImageShape known = agreed(options, shape);
  backbones::ScriptedOptions scripted{.task = {known, dynamic}, .output = options.output};
  // A network that pools its last layer takes any size: then the images' own is the likeliest.
  if (images.is_static()) {
    const ImageShape grey{1, images.height, images.width};
    scripted.candidates.insert(scripted.candidates.begin(), {images, grey});
  }
  const bool names = about.is_object() && about.contains("class_names");
  std::vector<std::string> class_names = names_from(options, names ? about["class_names"] : nlohmann::json());
  if (!class_names.empty()) scripted.likely_classes = static_cast<int>(class_names.size());
  const backbones::Scripted<> network(file.module, options.model, scripted);
  return {.backbone = behind(normalization_of(options, ""), options.bgr, network),
          .what = network.probabilities() ? "TorchScript, returns probabilities" : "TorchScript",
          .class_names = std::move(class_names),
          .image_known = known.is_static(),
          .normalization_known = about.is_object() && options.mean.empty()};
}

}  // namespace

void VictimOptions::add_to(CLI::App& command) {
  command.add_option("--arch", arch, "the network that a file of weights belongs to: " + network_names());
  command.add_option(
      "--stem", stem,
      "of a ResNet's weights: 3x3, 3x3-pool, 7x7 or 7x7-pool, the first convolution, and whether "
      "max pooling follows; left out: as published, where that leaves no doubt");
  command.add_option("--key", key,
                     "which weights of a checkpoint to take, as refine inspect lists them, such as "
                     "state_dict_ema; left out: found by content");
  command
      .add_option(
          "--mean", mean,
          "of the images the model wants, three numbers, or one for all channels, for images in [0, 1]; "
          "left out: the model takes images in [0, 1]")
      ->delimiter(',');
  command.add_option("--std", deviation, "likewise")->delimiter(',');
  command.add_option("--image", image,
                     "channels, height and width the model takes, as 3x224x224 or 224; left out: "
                     "found out");
  command.add_flag("--bgr", bgr, "the model takes blue, green, red; --mean and --std are then in this order");
  command.add_option(
      "--output", output,
      "which output is the logits where a TorchScript file returns several: its position, from 0, "
      "or its key");
  command.add_option("--class_names", class_names_file,
                     "a text file with one class name a line, in the model's order");
  command.add_flag(
      "--trust", trust,
      "run a TorchScript file even where its code names operators that are no tensor arithmetic");
}

std::vector<ImageShape> usual_sizes(const ImageShape& image) {
  std::vector<ImageShape> sizes;
  for (int side : {32, 28, 48, 64, 96, 128, 224, 256, 299, 384})
    sizes.push_back({image.channels, side, side});
  return sizes;
}

ImageShape VictimOptions::image_shape() const {
  return image.empty() ? ImageShape{} : parse_shape(image);
}

std::optional<Normalization> parse_normalization(const std::vector<double>& mean,
                                                 const std::vector<double>& deviation) {
  if (mean.empty() && deviation.empty()) return std::nullopt;
  Normalization by;
  const auto read = [](const std::vector<double>& from, std::array<double, 3>& to, const char* flag) {
    if (from.size() != 3 && from.size() != 1) {
      throw Error("{} was given {} number(s); give three, for red, green and blue, or one for all", flag,
                  from.size());
    }
    for (std::size_t c = 0; c < to.size(); ++c) {
      to[c] = from[from.size() == 1 ? 0 : c];
      if (to[c] >= 0 && to[c] <= 1) continue;
      throw Error("{} was given {}; images are in [0, 1], and so is this: divide it by 255", flag, to[c]);
    }
  };
  read(mean, by.mean, "--mean");
  read(deviation, by.deviation, "--std");
  return by;
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
  throw Error("'{}' is no image shape; say channels, height and width as 3x224x224, or 224", text);
}

bool is_program(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);  // a model may be large: its first bytes tell most files apart
  std::string first(4, '\0');
  return file.read(first.data(), 4) && formats::is_archive(first) &&
         formats::is_torchscript(formats::read_archive(path));
}

std::string network_names() {
  return fmt::format("{}", fmt::join(backbones::network_names(), ", "));
}

AnyBackbone make_network(const std::string& name, const Task& task, int width, std::uint64_t seed) {
  return backbones::network_by_name(name, {.task = task, .width = width, .seed = seed});
}

std::string network_name(const std::string& name) {
  return std::string(backbones::canonical_network_name(name));
}

Victim load_victim(const VictimOptions& options, const ImageShape& images) {
  const fs::path path = options.model;
  if (!file_exists(path)) {
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
