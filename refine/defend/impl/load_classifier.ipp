#pragma once

#include <refine/defend/load_classifier.hpp>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <array>
#include <charconv>
#include <cstddef>
#include <map>
#include <nlohmann/json.hpp>
#include <string_view>
#include <system_error>
#include <utility>

#include <refine/backbones/zoo.hpp>
#include <refine/core/config.hpp>
#include <refine/core/error.hpp>
#include <refine/core/file.hpp>
#include <refine/core/text.hpp>
#include <refine/defend/detail/result_json.hpp>
#include <refine/defend/detail/stored_network.hpp>
#include <refine/formats/archive.hpp>
#include <refine/formats/checkpoint.hpp>
#include <refine/formats/exported_program.hpp>
#include <refine/formats/onnx.hpp>
#include <refine/formats/torchscript_check.hpp>
#include <refine/programs/exported_program.hpp>
#include <refine/programs/onnx.hpp>
#include <refine/programs/torchscript.hpp>

namespace refine::detail {

/// \param constants of the file: JSON with mean and deviation, or empty
inline std::optional<Normalization> normalization_of(const LoadOptions& options, const std::string& constants,
                                                     const std::string& file) {
  if (options.normalization) return options.normalization;
  const auto json = parse_json(constants);
  if (!json.is_object() || json.empty()) return std::nullopt;
  try {
    return parse_normalization(json.at("mean").get<std::vector<double>>(),
                               json.at("deviation").get<std::vector<double>>());
  } catch (const nlohmann::ordered_json::exception&) {
    throw Error("cannot use {}: its constants are not a mean and a deviation; specify --mean and --std",
                file);
  }
}

/// Puts the normalisation, if there is one, and the order of channels before `backbone`.
template <typename B>
backbones::AnyBackbone with_input_of(const std::optional<Normalization>& normalization, bool bgr,
                                     B backbone) {
  const backbones::AnyBackbone any =
      normalization ? backbones::AnyBackbone(backbones::Normalized{std::move(backbone), *normalization})
                    : backbones::AnyBackbone(std::move(backbone));
  return bgr ? backbones::AnyBackbone(backbones::Bgr{any}) : any;
}

inline std::vector<std::string> class_names_of(const LoadOptions& options,
                                               const nlohmann::ordered_json& in_file,
                                               const std::string& file) {
  if (!options.class_names.empty()) return options.class_names;
  std::vector<std::string> names;
  if (!in_file.is_array()) return names;
  for (const auto& name : in_file) {
    if (!name.is_string()) {
      throw Error("cannot use {}: its class_names are not all strings; specify --class_names", file);
    }
    names.push_back(name);
  }
  return names;
}

/// Returns the shape that the caller and the file specify together.
inline ImageShape merge_shapes(const LoadOptions& options, const ImageShape& in_file,
                               const std::string& file) {
  if (compatible(options.image, in_file)) return merged(options.image, in_file);
  throw Error("cannot use {} for images of {}: its own images are {}; leave --image out", file, options.image,
              in_file);
}

inline LoadedClassifier load_weights(const std::filesystem::path& path, const LoadOptions& options) {
  const std::string file = path.string();
  const formats::Weights weights = formats::read_weights(path, options.key);
  if (options.key.empty() && !weights.other_keys.empty()) {
    note(options.notify, fmt::format("{}: uses the weights {}; --key selects others: {}", file,
                                     weights.key.empty() ? "of the network itself" : "at " + weights.key,
                                     fmt::join(weights.other_keys, ", ")));
  }
  const auto metadata = [&](const char* key) { return text_under(weights.metadata, key); };
  std::string arch = options.arch.empty() ? metadata("network") : options.arch;
  // BackdoorBench's dictionary has the network's name.
  if (arch.empty() && backbones::is_network_name(metadata("model_name"))) arch = metadata("model_name");
  if (arch.empty()) {
    const std::string_view likely = network_of(strip_wrappers(weights.tensors));
    throw Error("cannot use {}: it holds weights and does not say of which network; specify --arch{}", file,
                likely.empty() ? ", one of " + network_names_text()
                               : fmt::format(" {}, which its tensors look like", likely));
  }
  if (!options.output.empty()) {
    throw Error("cannot use --output {} with {}: a network of weights has one output; leave --output out",
                options.output, file);
  }
  const std::string image = metadata("image");
  const ImageShape shape = merge_shapes(options, image.empty() ? ImageShape{} : parse_shape(image), file);
  auto [bare, width, stem] = stored_network(arch, weights.tensors, shape, options.images, file, options.stem);
  const std::string constants = metadata("constants");
  return {.backbone = with_input_of(normalization_of(options, constants, file), options.bgr, std::move(bare)),
          .name = path.filename().string(),
          .description = fmt::format("{}, width {}{}{}", backbones::canonical_network_name(arch), width,
                                     stem.empty() ? "" : ", ", stem),
          .class_names = class_names_of(options, json_under(weights.metadata, "class_names"), file),
          .is_image_known = shape.is_static(),
          .is_normalization_known = !options.normalization && !constants.empty(),
          .resize = resize_mode_of(json_under(weights.metadata, "preprocessing"))};
}

/// \throws Error if an option is specified that only files of weights have
/// \param kind of the file, with its article: "a TorchScript file"
inline void check_program_options(const LoadOptions& options, const std::string& file,
                                  std::string_view kind) {
  if (!options.key.empty()) {
    throw Error("cannot use --key {} with {}: it is {}, which has one network; leave --key out", options.key,
                file, kind);
  }
  if (!options.arch.empty()) {
    throw Error("cannot use {} as {}{}: it is {}, which contains its network; leave --arch out", file,
                text::article(options.arch), options.arch, kind);
  }
  if (options.stem) {
    throw Error("--stem: {} is {}, which contains its network; leave --stem out", file, kind);
  }
}

inline LoadedClassifier load_torchscript_program(const std::filesystem::path& path,
                                                 const LoadOptions& options) {
  const std::string name = path.string();
  check_program_options(options, name, "a TorchScript file");
  const auto file =
      formats::load_torchscript(path, options.trust ? formats::Trust::blind : formats::Trust::checked);
  // A file that refine wrote has a description.
  const nlohmann::ordered_json about = json_under(file.listing.extra, "refine.json");
  ImageShape shape;
  if (about.is_object() && about.contains("image") && about["image"].is_array() &&
      about["image"].size() == 3) {
    std::string text;
    for (const auto& extent : about["image"]) text += (text.empty() ? "" : "x") + extent.dump();
    shape = parse_shape(text);
  }
  const ImageShape known = merge_shapes(options, shape, name);
  backbones::ScriptedOptions scripted{.task = {known, dynamic}, .output = options.output};
  // A network that pools its last layer takes any size; then the size of the images at hand is the
  // likeliest.
  if (options.images.is_static()) {
    const ImageShape grey{1, options.images.height, options.images.width};
    scripted.candidates.insert(scripted.candidates.begin(), {options.images, grey});
  }
  const bool has_resize = about.is_object() && about.contains("preprocessing");
  const bool has_names = about.is_object() && about.contains("class_names");
  std::vector<std::string> class_names =
      class_names_of(options, has_names ? about["class_names"] : nlohmann::ordered_json(), name);
  if (!class_names.empty()) scripted.likely_classes = static_cast<int>(class_names.size());
  const backbones::Scripted<> network(file.module, name, scripted);
  const bool in_training_mode = file.module.hasattr("training") && file.module.is_training();
  return {.backbone = with_input_of(options.normalization, options.bgr, network),
          .name = path.filename().string(),
          .description = std::string("TorchScript") +
                         (network.probabilities() ? ", returns probabilities" : "") +
                         (in_training_mode ? ", saved in training mode, used in evaluation mode" : ""),
          .class_names = std::move(class_names),
          .is_image_known = known.is_static(),
          .is_normalization_known = about.is_object() && !options.normalization,
          .resize = has_resize ? resize_mode_of(about["preprocessing"]) : std::nullopt};
}

/// Returns a program that is a list of nodes, with what its file says about it.
/// \param about the description in a file that refine wrote
/// \param description of the program's format
template <typename Network, typename Program>
LoadedClassifier loaded_graph(Program program, const nlohmann::ordered_json& about,
                              const std::filesystem::path& path, const LoadOptions& options,
                              const std::string& description) {
  const std::string name = path.string();
  const bool has_resize = about.is_object() && about.contains("preprocessing");
  const bool has_names = about.is_object() && about.contains("class_names");
  std::vector<std::string> class_names =
      class_names_of(options, has_names ? about["class_names"] : nlohmann::ordered_json(), name);
  const Network network(
      std::move(program), name,
      {.task = {options.image, dynamic},
       .likely_image = options.images,
       .output = options.output,
       .likely_classes = class_names.empty() ? dynamic : static_cast<int>(class_names.size())});
  const auto& sizes = network.module->images().sizes;
  return {.backbone = with_input_of(options.normalization, options.bgr, network),
          .name = path.filename().string(),
          .description = description + (network.probabilities() ? ", returns probabilities" : ""),
          .class_names = std::move(class_names),
          .is_image_known = options.image.is_static() || (sizes[2].has_value() && sizes[3].has_value()),
          .is_normalization_known = about.is_object() && !options.normalization,
          .resize = has_resize ? resize_mode_of(about["preprocessing"]) : std::nullopt};
}

inline LoadedClassifier load_exported_program(const std::filesystem::path& path, const LoadOptions& options) {
  const std::string name = path.string();
  check_program_options(options, name, "an exported program (.pt2)");
  auto program =
      formats::read_exported_program(path, options.trust ? formats::Trust::blind : formats::Trust::checked);
  const std::string torch_version = program.torch_version;
  const nlohmann::ordered_json about = json_under(program.extra, "refine.json");
  return loaded_graph<backbones::ExportedProgram<>>(std::move(program), about, path, options,
                                                    "torch.export program of PyTorch " + torch_version);
}

inline LoadedClassifier load_onnx_model(const std::filesystem::path& path, const LoadOptions& options) {
  const std::string name = path.string();
  check_program_options(options, name, "an ONNX model");
  formats::OnnxModel model = formats::read_onnx(path);
  const std::int64_t opset = model.opset;
  const nlohmann::ordered_json about = json_under(model.metadata, "refine.json");
  return loaded_graph<backbones::OnnxModel<>>(std::move(model), about, path, options,
                                              fmt::format("ONNX model, opset {}", opset));
}

REFINE_INLINE ProgramKind program_kind(const std::filesystem::path& path) {
  const std::string first = read_beginning(path, 4);  // they decide for most files, which may be large
  if (first.size() < 4) return ProgramKind::none;
  if (!formats::is_archive(first)) {
    return formats::is_onnx_file(path) ? ProgramKind::onnx : ProgramKind::none;
  }
  const formats::Archive archive = formats::detail::list_archive(path);  // weights may be gigabytes
  if (formats::is_exported_program(archive)) return ProgramKind::exported;
  return formats::is_torchscript(archive) ? ProgramKind::torchscript : ProgramKind::none;
}

inline LoadedClassifier load_any(const std::filesystem::path& path, const LoadOptions& options) {
  switch (program_kind(path)) {
    case ProgramKind::torchscript:
      return load_torchscript_program(path, options);
    case ProgramKind::exported:
      return load_exported_program(path, options);
    case ProgramKind::onnx:
      return load_onnx_model(path, options);
    case ProgramKind::none:
      break;
  }
  return load_weights(path, options);
}

}  // namespace refine::detail

namespace refine {

REFINE_INLINE LoadedClassifier load_classifier(const std::filesystem::path& path,
                                               const LoadOptions& options) {
  if (!files::exists(path))
    throw Error("cannot read {}: the file does not exist; check the path", path.string());
  LoadedClassifier loaded = detail::load_any(path, options);
  const auto classes = static_cast<std::size_t>(loaded.task().classes);
  if (!loaded.class_names.empty() && loaded.class_names.size() != classes) {
    throw Error("cannot use {} class names: {} predicts {} classes; give one name for each",
                loaded.class_names.size(), path.string(), classes);
  }
  return loaded;
}

REFINE_INLINE bool is_program(const std::filesystem::path& path) {
  return detail::program_kind(path) != detail::ProgramKind::none;
}

REFINE_INLINE ImageShape parse_shape(const std::string& text) {
  std::vector<int> numbers;
  const char* begin = text.data();
  const char* const end = begin + text.size();
  for (;;) {
    int number = 0;
    const auto [rest, failed] = std::from_chars(begin, end, number);
    if (failed != std::errc() || number < 1 || number > (1 << 14)) break;
    numbers.push_back(number);
    if (rest == end) {
      if (numbers.size() == 1) return {3, numbers[0], numbers[0]};
      if (numbers.size() == 3) return {numbers[0], numbers[1], numbers[2]};
      break;
    }
    if (*rest != 'x') break;
    begin = rest + 1;
  }
  throw Error("'{}' is not an image shape; give channels, height and width as 3x224x224, or 224", text);
}

REFINE_INLINE backbones::Stem parse_stem(const std::string& text) {
  for (const int kernel : {3, 7}) {
    for (const bool pooling : {false, true}) {
      if (text == fmt::format("{0}x{0}{1}", kernel, pooling ? "-pool" : "")) return {kernel, pooling};
    }
  }
  throw Error("--stem must be 3x3, 3x3-pool, 7x7 or 7x7-pool, got '{}'", text);
}

REFINE_INLINE std::optional<Normalization> parse_normalization(const std::vector<double>& mean,
                                                               const std::vector<double>& deviation,
                                                               std::string_view prefix) {
  if (mean.empty() && deviation.empty()) return std::nullopt;
  Normalization normalization;
  const auto read = [&](const std::vector<double>& from, std::array<double, 3>& to, const char* name) {
    const std::string option = std::string(prefix) + name;
    if (from.size() != 3 && from.size() != 1) {
      throw Error("{} must be three numbers, one a channel, or one for all (got {})", option, from.size());
    }
    for (std::size_t c = 0; c < to.size(); ++c) {
      to[c] = from[from.size() == 1 ? 0 : c];
      if (to[c] >= 0 && to[c] <= 1) continue;
      if (!std::isfinite(to[c]) || to[c] < 0) throw Error("{} must be in [0, 1], got {}", option, to[c]);
      throw Error("{} must be in [0, 1], as images are, got {}; divide it by 255", option, to[c]);
    }
  };
  read(mean, normalization.mean, "mean");
  read(deviation, normalization.deviation, "std");
  for (const double d : normalization.deviation) {
    if (static_cast<float>(d) == 0) throw Error("{}std must be positive, got {}", prefix, d);
  }
  return normalization;
}

REFINE_INLINE std::string network_names_text() {
  return fmt::format("{}", fmt::join(backbones::network_names(), ", "));
}

}  // namespace refine
