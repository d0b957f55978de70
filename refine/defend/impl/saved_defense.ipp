#pragma once

#include <refine/defend/saved_defense.hpp>

#include <ATen/ops/softmax.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include <refine/attacks/by_name.hpp>
#include <refine/backbones/freeze.hpp>
#include <refine/baselines/student_networks.hpp>
#include <refine/baselines/substitutes.hpp>
#include <refine/core/config.hpp>
#include <refine/core/error.hpp>
#include <refine/data/image_files.hpp>
#include <refine/defend/detail/prepared_defense.hpp>
#include <refine/defend/detail/result_json.hpp>
#include <refine/defend/detail/stored_network.hpp>
#include <refine/defend/detail/transform_kinds.hpp>
#include <refine/defend/measure.hpp>
#include <refine/defend/probe.hpp>
#include <refine/defend/results.hpp>
#include <refine/evaluation/classify.hpp>
#include <refine/export/export_defense.hpp>
#include <refine/export/torchscript.hpp>
#include <refine/export/weights.hpp>
#include <refine/formats/archive.hpp>
#include <refine/formats/checkpoint.hpp>
#include <refine/formats/onnx.hpp>
#include <refine/nn/device.hpp>
#include <refine/nn/module.hpp>
#include <refine/programs/detail/program_checks.hpp>
#include <refine/programs/encoder.hpp>
#include <refine/remaps/permutations.hpp>
#include <refine/transforms/encoded.hpp>
#include <refine/transforms/resized.hpp>

namespace refine::detail {

/// \throws Error if the answer to one image is not that to the same image among others
inline void check_evaluation_mode(const LoadedClassifier& victim, const std::string& file) {
  const c10::NoGradGuard no_grad;
  const auto frozen = freeze(victim.backbone);
  const at::Tensor images =
      backbones::detail::ramp(3, victim.task().image).to(nn::device_of(*frozen.module).value_or(at::kCPU));
  if (backbones::detail::have_same_rows(frozen.forward(images.narrow(0, 0, 1)), frozen.forward(images)))
    return;
  throw Error(
      "cannot export {}: its answer to an image depends on the batch or on chance, as in training mode; call model.eval() "
      "before exporting it to this file",
      file);
}

REFINE_INLINE void check_image_size(const LoadedClassifier& victim, const std::string& file,
                                    const Notify& notify) {
  if (victim.is_image_known) return;
  const ImageShape image = victim.task().image;
  if (!image.is_static()) {
    throw Error(
        "cannot use {}: its weights do not have the image size that it was made for; specify --image, as 32 or 224",
        file);
  }
  std::vector<ImageShape> sizes = usual_image_sizes(image);
  if (std::ranges::find(sizes, image) == sizes.end()) sizes.push_back(image);
  const auto blank = [](const ImageShape& shape) {
    return at::zeros({1, shape.channels, shape.height, shape.width}, at::kByte);
  };
  std::string accepted;
  const std::vector<ProbeSetting> settings = probe_sizes(victim.backbone, std::move(sizes), blank);
  for (const ProbeSetting& setting : settings) {
    accepted += fmt::format("{}{}", accepted.empty() ? "" : ", ", setting.image);
  }
  if (settings.size() > 1) {
    throw Error("cannot tell the image size that {} was made for: it accepts {}; specify --image", file,
                accepted);
  }
  note(notify, fmt::format("{}: accepts {} and no other usual image size, which is used", file, image));
}

/// Loads the encoder of a stored defense; nothing if it has none.
/// \throws Error if an encoder is missing or not needed
inline std::optional<transforms::ProgramEncoder> stored_encoder(const formats::Weights& stored,
                                                                const ImageShape& image,
                                                                const EncoderOptions& options,
                                                                const std::filesystem::path& file) {
  const bool has_encoder = !text_under(stored.metadata, "encoder").empty();
  if (has_encoder && options.file.empty()) {
    throw Error(
        "cannot use {}: it was trained behind an encoder, which it does not hold; specify --encoder, the encoder's "
        "file",
        file.string());
  }
  if (!has_encoder && !options.file.empty())
    throw Error("cannot use {}: it was trained without an encoder; leave --encoder out", file.string());
  if (!has_encoder) return std::nullopt;
  const std::string sees = text_under(stored.metadata, "sees");
  return load_encoder(options, image, sees.empty() ? std::nullopt : std::optional(parse_shape(sees)));
}

/// Returns an extent of a stored tensor.
/// \param what it is a part of, for messages
/// \throws Error if it is missing, or has another number of dimensions
inline int stored_extent(const formats::Weights& stored, const std::string& name, std::int64_t dimension,
                         std::int64_t dimensions, const char* what, const std::filesystem::path& file) {
  const auto found = stored.tensors.find(name);
  // A tensor without values may claim any extent.
  if (found == stored.tensors.end() || found->second.dim() != dimensions || found->second.numel() == 0) {
    throw Error("cannot use {}: it lacks '{}' of {}; the file is damaged, get it again", file.string(), name,
                what);
  }
  return static_cast<int>(found->second.size(dimension));
}

/// Builds the transform of a stored defense, with random weights.
/// \throws Error if an encoder is missing or not needed, or the tensors are of no transform
inline transforms::AnyTransform stored_transform(const formats::Weights& stored, const std::string& prefix,
                                                 const ImageShape& image,
                                                 transforms::OutputActivation activation,
                                                 const EncoderOptions& encoder_options,
                                                 const std::filesystem::path& file) {
  const std::string sees = text_under(stored.metadata, "sees"), draws = text_under(stored.metadata, "draws");
  const auto encoder = stored_encoder(stored, image, encoder_options, file);
  if (!encoder) {
    if (draws.empty()) return transform_of(stored.tensors, prefix, image, activation, file);
    const ImageShape seen = sees.empty() ? image : parse_shape(sees);
    return transforms::Resized<transforms::AnyTransform>{
        .image = image,
        .inner = transform_of(stored.tensors, prefix, seen, activation, file),
        .output_shape = parse_shape(draws)};
  }
  const auto extent = [&](const char* name, std::int64_t dimension, std::int64_t dimensions) {
    return stored_extent(stored, prefix + name, dimension, dimensions, "a decoder", file);
  };
  const ImageShape drawn = draws.empty() ? image : parse_shape(draws);
  const int width = extent("unit1.conv.weight", 1, 4), first = extent("start.weight", 0, 2);
  // Checked before memory is allocated for them.
  const std::int64_t places = std::int64_t{(drawn.height + 15) / 16} * ((drawn.width + 15) / 16);
  if (width % 4 != 0 || places * width != first) {
    throw Error(
        "cannot use {} as a transform: its decoder does not draw {}; the file is damaged, get it again",
        file.string(), drawn);
  }
  return transforms::Encoded<transforms::ProgramEncoder>{
      .image = image,
      .encoder = *encoder,
      .decoder = {.features = encoder->features,
                  .image = drawn,
                  .bottleneck = extent("reduce.weight", 0, 2),
                  .width = width}};
}

/// Builds the student of a stored defense, and loads its weights.
/// \throws Error if an encoder is missing or not needed, or the tensors do not fit
inline TrainedDefense stored_student(const formats::Weights& stored, const LoadedClassifier& victim,
                                     const EncoderOptions& encoder_options,
                                     const std::filesystem::path& file) {
  const Task task = victim.task();
  const std::string sees = text_under(stored.metadata, "sees");
  const ImageShape seen = sees.empty() ? task.image : parse_shape(sees);
  const auto student = [&](const backbones::AnyBackbone& network, std::string description) {
    AnyStudent loaded{freeze(victim.backbone), network};
    baselines::detail::load_student(loaded, stored.tensors, stored.metadata, file.string());
    return TrainedDefense(std::move(loaded), std::move(description));
  };
  if (const auto encoder = stored_encoder(stored, task.image, encoder_options, file)) {
    const auto extent = [&](const char* name, std::int64_t dimension) {
      return stored_extent(stored, name, dimension, 2, "a student", file);
    };
    const int width = extent("student.hidden.weight", 0), classes = extent("student.last.weight", 0);
    if (extent("student.hidden.weight", 1) != encoder->features ||
        extent("student.last.weight", 1) != width || classes != task.classes) {
      throw Error(
          "cannot use {}: the layers of its student do not fit each other, the encoder or the victim; load it with those "
          "that it was trained with",
          file.string());
    }
    return student(backbones::AnyBackbone(baselines::EncodedClassifier<transforms::ProgramEncoder>{
                       .task = {task.image, classes}, .encoder = *encoder, .width = width}),
                   describe_encoded_student(width, encoder->image));
  }
  Tensors tensors;
  for (const auto& [name, tensor] : stored.tensors) {
    if (name.starts_with("student.")) tensors.emplace(name.substr(std::strlen("student.")), tensor);
  }
  const StoredNetwork network =
      stored_network(student_network, std::move(tensors), seen, seen, file.string());
  if (network.backbone.task.classes != task.classes) {
    throw Error("cannot use {}: its student has {} classes, but the victim {}; load it with its own victim",
                file.string(), network.backbone.task.classes, task.classes);
  }
  return student(resized_student(task, network.backbone), describe_student(task, network.width, seen));
}

}  // namespace refine::detail

namespace refine {

REFINE_INLINE SavedDefense load_saved_defense(const std::filesystem::path& model,
                                              const std::filesystem::path& weights,
                                              const SavedDefenseOptions& options) {
  const formats::Weights stored = formats::read_weights(weights);
  const bool is_own = stored.metadata.contains("permutation");  // else of the authors' code
  LoadOptions load_options = options.victim;
  if (const std::string image = detail::text_under(stored.metadata, "image"); !image.empty()) {
    if (!compatible(load_options.image, parse_shape(image))) {
      throw Error("cannot use {} for images of {}: it was fitted to {}; leave --image out", weights.string(),
                  load_options.image, image);
    }
    load_options.image = parse_shape(image);
  }
  LoadedClassifier victim = load_classifier(model, load_options);
  const Task task = victim.task();
  const auto answer = [&] {
    const Answer served = options.answer.value_or(
        parse_answer(detail::text_under(stored.metadata, "answer")).value_or(Answer::defended));
    if (served == Answer::gated && !detail::alarm_of(detail::json_under(stored.metadata, "alarm"))) {
      throw Error(
          "cannot export {} with the gated answer: it does not hold the threshold of an alarm; leave --answer out, or "
          "run refine defend, which calibrates one",
          weights.string());
    }
    return served;
  };
  if (detail::text_under(stored.metadata, "refine") == "student") {
    if (!options.permutation.empty() || options.pixel_domain) {
      throw Error("{}: {} holds a student, which has neither permutation nor pixel domain; leave it out",
                  options.permutation.empty() ? "--pixel_domain" : "--permutation", weights.string());
    }
    TrainedDefense defense = detail::stored_student(stored, victim, options.encoder, weights);
    return {std::move(defense), std::move(victim), stored.metadata, answer()};
  }
  if (is_own && !options.permutation.empty()) {
    throw Error("--permutation: {} holds the permutation that it was trained with; leave it out",
                weights.string());
  }
  if (!is_own && options.permutation.empty()) {
    throw Error(
        "cannot use {}: it does not hold the permutation of its classes; specify --permutation, label_shuffle.pth of "
        "the authors' code",
        weights.string());
  }
  const bool clamps = !is_own || detail::text_under(stored.metadata, "transform").ends_with("clamp");
  const bool is_stored_reference = !is_own || detail::text_under(stored.metadata, "pixel_domain") ==
                                                  detail::domain_name(PixelDomain::reference);
  AnyPipeline pipeline{
      detail::stored_transform(
          stored, is_own ? "transform." : "", task.image,
          clamps ? transforms::OutputActivation::clamp : transforms::OutputActivation::sigmoid,
          options.encoder, weights),
      freeze(victim.backbone), remaps::None<>{.classes = task.classes},
      options.pixel_domain.value_or(is_stored_reference ? PixelDomain::reference : PixelDomain::image)};
  if (is_own) {
    load(pipeline, weights);
  } else {
    nn::load_state_dict(*pipeline.transform().module, stored.tensors, weights.string());
    pipeline.set_permutation(formats::read_permutation(options.permutation));
  }
  return {std::move(pipeline), std::move(victim), stored.metadata, answer()};
}

REFINE_INLINE void SavedDefense::save(const std::filesystem::path& serving) const {
  nlohmann::ordered_json about = {{"victim", victim.name},
                                  {"model", victim.description},
                                  {"defense", defense.kind()},
                                  {defense.student() ? "student" : "transform", defense.describe()},
                                  {"class_names", victim.class_names}};
  if (const AnyPipeline* pipeline = defense.pipeline())
    about["pixel_domain"] = detail::domain_name(pipeline->domain());
  if (const auto names = detail::json_under(metadata, "class_names");
      victim.class_names.empty() && names.is_array()) {
    about["class_names"] = names;
  }
  for (const char* key : {"alarm", "preprocessing", "recipe", "seed"}) {
    if (!detail::text_under(metadata, key).empty()) about[key] = detail::json_under(metadata, key);
  }
  const std::optional<AlarmSetting> alarm = detail::alarm_of(detail::json_under(metadata, "alarm"));
  export_defense(
      defense, serving, about,
      {.alarm_threshold = alarm ? std::optional(alarm->threshold) : std::nullopt, .answer = answer});
}

REFINE_INLINE bool is_defended_file(const std::filesystem::path& file) {
  std::map<std::string, std::string> extra;
  try {
    switch (detail::program_kind(file)) {
      case detail::ProgramKind::none:
        return false;
      case detail::ProgramKind::onnx:
        extra = formats::read_onnx(file).metadata;
        break;
      case detail::ProgramKind::torchscript:
      case detail::ProgramKind::exported:
        if (const auto archive = formats::read_archive(file); archive.entries.contains("extra/refine.json"))
          extra["refine.json"] = archive.entries.at("extra/refine.json");
        break;
    }
  } catch (const Error&) {  // opening it reports why
    return false;
  }
  const nlohmann::ordered_json about = detail::json_under(extra, "refine.json");
  return about.is_object() && about.contains("refine") && about["refine"] == "defended";
}

REFINE_INLINE void export_classifier(const std::filesystem::path& model, const std::filesystem::path& serving,
                                     const LoadOptions& options) {
  if (is_defended_file(model)) {
    throw Error(
        "cannot export {}: it is a defended file, whose alarm would be lost; export the defense from its parts, --model "
        "VICTIM --defense {}",
        model.string(), DefendedFiles::beside(model).weights.string());
  }
  const LoadedClassifier victim = load_classifier(model, options);
  detail::check_image_size(victim, model.string(), options.notify);
  detail::check_evaluation_mode(victim, model.string());
  nlohmann::ordered_json about = {{"class_names", victim.class_names}};
  if (victim.resize) about["preprocessing"] = detail::json_of(*victim.resize);
  export_victim(freeze(victim.backbone), serving, about);
}

REFINE_INLINE ExportedInfo exported_info(const nlohmann::ordered_json& about,
                                         const std::vector<std::string>& class_names) {
  ExportedInfo info;
  const auto refuse = [] {
    throw Error(
        "cannot use the file's refine.json: classes, class_names, model, defense, alarm or answer are not as refine writes them; export "
        "it again");
  };
  try {
    if (about.contains("class_names"))
      info.class_names = about["class_names"].get<std::vector<std::string>>();
    if (about.contains("model")) info.model = about["model"].get<std::string>();
    if (about.contains("defense")) info.defense = about["defense"].get<std::string>();
    if (about.contains("answer")) {
      const auto answer = parse_answer(about["answer"].get<std::string>());
      if (!answer) refuse();
      info.answer = *answer;
    }
  } catch (const nlohmann::ordered_json::exception&) {
    refuse();
  }
  if (about.contains("alarm") && !about["alarm"].is_null()) {
    info.alarm = detail::alarm_of(about["alarm"]);
    if (!info.alarm) refuse();
  }
  if (const auto stored = about.find("preprocessing"); stored != about.end()) {
    info.resize = detail::resize_mode_of(*stored);
  }
  if (!class_names.empty()) info.class_names = class_names;
  std::size_t classes = 0;
  if (!about.is_object() || !about.contains("classes") || !detail::read_integer(about["classes"], classes)) {
    refuse();
  }
  if (!info.class_names.empty() && info.class_names.size() != classes) {
    throw Error("cannot use {} class names: the model predicts {} classes; give one name for each",
                info.class_names.size(), classes);
  }
  return info;
}

REFINE_INLINE std::size_t predict_files(const ExportedClassifier& model,
                                        const std::vector<std::filesystem::path>& files,
                                        data::ResizeMode resize,
                                        const std::function<void(const FilePrediction&)>& receive) {
  constexpr std::size_t chunk = 256;
  std::size_t skipped = 0;
  for (std::size_t begin = 0; begin < files.size(); begin += chunk) {
    const std::vector<std::filesystem::path> some(
        files.begin() + static_cast<std::ptrdiff_t>(begin),
        files.begin() + static_cast<std::ptrdiff_t>(std::min(begin + chunk, files.size())));
    data::LoadedImages loaded;
    try {
      loaded = data::load_images(
          some, {.image = model.task().image, .resize_mode = resize, .on_error = data::OnDecodeError::skip});
    } catch (const Error& error) {  // none of them can be used
      skipped += some.size();
      if (skipped == files.size()) throw;
      data::warn_skipped({error.what()});
      continue;
    }
    data::warn_skipped(loaded.skipped);
    skipped += loaded.skipped.size();
    const auto run = [&](auto&& call) {
      return map_batches(call, loaded.images, model.device(), [](std::int64_t) {});
    };
    const at::Tensor probabilities =
        run([&](const at::Tensor& x) { return at::softmax(model.forward(x), 1); });
    const auto [p, c] = probabilities.max(1);
    const at::Tensor alarm = run([&](const at::Tensor& x) { return model.alarm(x); });
    for (std::size_t i = 0; i < loaded.files.size(); ++i) {
      const auto row = static_cast<std::int64_t>(i);
      receive({loaded.files[i], static_cast<int>(c[row].item<std::int64_t>()), p[row].item<double>(),
               alarm[row].item<double>()});
    }
  }
  return skipped;
}

REFINE_INLINE EvaluatedFolder evaluate_folder(const ExportedClassifier& model, const ExportedInfo& info,
                                              const std::filesystem::path& folder,
                                              const FolderEvaluation& options) {
  if (!options.triggered.empty() && !options.attack.empty()) {
    throw Error("specify either --triggered or --attack, not both");
  }
  if (info.answer == Answer::gated && !info.alarm) {
    throw Error(
        "cannot measure the gated answer: the file's refine.json has no alarm; specify --answer defended");
  }
  const Task task = model.task();
  Evidence evidence{.alarm = info.alarm, .scanned = options.scanned, .show = options.show};
  FolderImages images;
  if (options.triggered.empty()) {
    images = read_folder_images(folder, task.image, options.images);
  } else {
    auto [clean, triggered] = read_image_pairs(folder, options.triggered, task.image, options.images);
    images = std::move(clean);
    evidence.triggered = std::move(triggered);
  }
  evidence.clean = images.images;
  const auto predictions = [&] {
    return classify([&](const at::Tensor& x) { return model.undefended(x); }, images.images, model.device(),
                    [](std::int64_t) {});
  };
  evidence.test = label_by_folders(images, {.labels = options.labels,
                                            .class_names = info.class_names,
                                            .classes = task.classes,
                                            .predictions = predictions,
                                            .notify = options.notify});
  evidence.target = options.target;
  EvaluatedFolder result{.report = {.dataset = folder.string(),
                                    .model = info.model,
                                    .class_names = info.class_names,
                                    .answer = info.answer},
                         .skipped = images.skipped};
  if (!options.triggered.empty()) result.report.attack = "given images";
  if (!options.attack.empty()) {
    const auto attack = attacks::by_name(
        options.attack,
        {.image = task.image, .target = options.target.value_or(0), .source = options.source});
    result.report.attack = attack.name;
    evidence.target = attacks::target_map(attack, task.classes);
    if (!evidence.target) throw Error("{} has no trigger to put on images; leave --attack out", attack.name);
    evidence.triggered = attack.trigger_images(images.images);
  }
  const auto check_class = [&](const char* option, const std::optional<int>& cls) {
    if (!cls || *cls < task.classes) return;
    throw Error("{} must be less than the model's {} classes, got {}", option, task.classes, *cls);
  };
  check_class("--tlabel", options.target);
  check_class("--source", options.source);
  result.report.facts = {{"images", std::to_string(evidence.clean.size(0))},
                         {"device", default_device().str()}};
  if (!info.defense.empty()) result.report.facts.emplace_back("defense", info.defense);
  if (evidence.triggered && !evidence.test) {
    result.report.facts.emplace_back("labels",
                                     "none: the victim's own answers to the clean images stand for them");
  }
  measure_defense(model, evidence, result.report);
  return result;
}

}  // namespace refine
