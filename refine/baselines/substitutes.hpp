#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/argsort.h>
#include <ATen/ops/zeros.h>
#include <c10/core/Device.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <refine/backbones/backbone.hpp>
#include <refine/backbones/freeze.hpp>
#include <refine/baselines/student_networks.hpp>
#include <refine/core/check.hpp>
#include <refine/core/error.hpp>
#include <refine/core/task.hpp>
#include <refine/data/batches.hpp>
#include <refine/data/dataset.hpp>
#include <refine/data/training_set.hpp>
#include <refine/distributed/communicator.hpp>
#include <refine/evaluation/classify.hpp>
#include <refine/export/weights.hpp>
#include <refine/formats/safetensors.hpp>
#include <refine/metrics/gated.hpp>
#include <refine/metrics/proportion.hpp>
#include <refine/nn/autocast.hpp>
#include <refine/nn/conv.hpp>
#include <refine/nn/cuda_graph.hpp>
#include <refine/nn/device.hpp>
#include <refine/nn/module.hpp>
#include <refine/pipeline/pipeline.hpp>
#include <refine/training/detail/loop.hpp>
#include <refine/training/fit.hpp>
#include <refine/training/observers.hpp>
#include <refine/training/recipe.hpp>
#include <refine/training/recipe_json.hpp>
#include <refine/training/train_classifier.hpp>

/// \file
/// Defenses that put another classifier in place of the victim.

namespace refine::baselines {

/// A victim and the classifier that replaces it, as a `DefendedClassifier`.
///
///     auto student = baselines::distill(backbones::ResNet18<task>{.seed = 1}, freeze(victim), train.images);
///     Evaluation result = evaluate(baselines::Substitute{freeze(victim), freeze(student)}, test, attack);
///
/// \tparam V the victim
/// \tparam C the classifier in its place
template <backbones::Backbone V, backbones::Backbone C>
struct Substitute {
  V victim;      ///< answers `undefended`
  C classifier;  ///< answers `forward`; on the same device

  /// Returns the task of the classifier.
  Task task() const { return merged(classifier.task, victim.task); }

  /// Returns the device of the classifier.
  at::Device device() const { return nn::device_of(*classifier.module).value_or(at::kCPU); }

  /// Returns the classifier's logits, N×classes.
  /// \param images float N×C×H×W in [0, 1]
  at::Tensor forward(const at::Tensor& images) const { return classifier.forward(images); }

  /// Returns the victim's logits, N×classes.
  /// \param images float N×C×H×W in [0, 1]
  at::Tensor undefended(const at::Tensor& images) const { return victim.forward(images); }

  /// Returns the images unchanged.
  at::Tensor transformed(const at::Tensor& images) const { return images; }

  /// Moves both networks to a device. Copies share them.
  void to(at::Device device) {
    nn::move_to(*victim.module, device);
    nn::move_to(*classifier.module, device);
  }

  /// Returns how much the two classifiers disagree, N values (`alarm_score`).
  at::Tensor alarm(const at::Tensor& images) const {
    return alarm_score(undefended(images), forward(images));
  }

  /// Returns the parts that exporters write, the networks in their frozen forms.
  /// \throws c10::Error if a module is not frozen and cannot be cloned
  ServedParts served_parts() const {
    const auto undefended = freeze(victim);
    const auto serving = freeze(classifier);
    std::map<std::string, at::Tensor> constants = backbones::constants_of(undefended);
    for (const auto& [name, constant] : backbones::constants_of(serving))
      constants["student_" + name] = constant;
    return {.task = task(),
            .modules = {{"student", serving.module}, {"backbone", undefended.module}},
            .constants = std::move(constants),
            .transform = [](const at::Tensor& images) { return images; },
            .classify = [serving](const at::Tensor& images) { return serving.forward(images); },
            .undefended = [undefended](const at::Tensor& images) { return undefended.forward(images); }};
  }
};

template <typename V, typename C>
Substitute(V, C) -> Substitute<V, C>;

namespace detail {

/// A student as its training sees it. The examples are images, or features if it has an encoder.
struct StudentNetwork {
  std::shared_ptr<torch::nn::Module> module;                 ///< that is trained
  std::function<at::Tensor(const at::Tensor&)> classify;     ///< examples → logits
  std::function<at::Tensor(const at::Tensor&)> encode = {};  ///< images → features; empty: no encoder
  std::function<void(const at::Tensor&)> standardize = {};   ///< receives the features of all images
  std::map<std::string, at::Tensor> encoder = {};            ///< what its encoder computes with
  bool cuda_graph_safe = false;                              ///< whether `classify` is
  std::string description = {};                              ///< what its weights do not show
  std::map<std::string, at::Tensor> constants = {};          ///< what it computes with beside its weights
};

/// A victim as a student's training sees it.
struct StudentTeacher {
  Task task;
  std::function<at::Tensor(const at::Tensor&)> answer;  ///< images → logits
  std::map<std::string, at::Tensor> state;              ///< tensors that it computes with
  bool cuda_graph_safe = false;                         ///< whether `answer` is
};

/// Trains a student; see `distill`. Both networks are on `device`.
template <typename... Observers>
void train_student(const StudentNetwork& student, const StudentTeacher& victim, at::Device device,
                   const at::Tensor& images, const Recipe& recipe, Observers&... observers) {
  const Precision precision = recipe.optimization.precision;
  const bool bfloat16 =
      student.encode  // its features and the victim's answers are computed before, in float32
          ? refine::detail::uses_bfloat16(precision, device)
          : refine::detail::computes_in_bfloat16(precision, device, images, /*needs_gradient=*/false,
                                                 victim.answer, observers...);
  const refine::detail::BatchAugmentation augmentation(recipe.augmentation);
  const refine::detail::RecipeObjective objective{recipe.objective, recipe.temperature};
  refine::detail::TeacherAnswers answers(recipe, images.size(0));
  at::Tensor examples = images;
  if (student.encode) {
    refine::detail::check_encoded_recipe(recipe);
    auto encoded =
        refine::detail::encode_images(student.encode, victim.answer, device, "student", images, observers...);
    answers.set(std::move(encoded.answers));
    student.standardize(encoded.features);
    examples = std::move(encoded.features);
  }
  const auto targets = [&](const refine::detail::Batch& batch) {
    const nn::Autocast autocast(device, bfloat16);
    return answers(batch, augmentation, victim.answer);
  };
  const auto classify = [&](const at::Tensor& batch) {
    const nn::Autocast autocast(device, bfloat16);
    return student.classify(batch).to(at::kFloat);
  };
  const auto learn = [&](const at::Tensor& batch, const at::Tensor& answer) -> refine::detail::BatchResult {
    const at::Tensor logits = classify(batch);
    const at::Tensor predicted = logits.detach().argmax(1);
    return {objective(logits, answer), predicted.eq(answer.argmax(1)).sum(), predicted};
  };
  refine::detail::TrainingRun run{
      .info = {.name = "student", .accuracy_of = "agreement"},
      .identity =
          [&] {
            std::map<std::string, at::Tensor> state = victim.state;
            state.insert(student.encoder.begin(), student.encoder.end());
            return refine::detail::RunIdentity{.run = "student",
                                               .network = student.description,
                                               .constants = student.constants,
                                               .recipe = (std::ostringstream() << recipe).str(),
                                               .objective = "recipe",
                                               .data = {{"images", images}},
                                               .victim = std::move(state)};
          },
      .chance = [&] { return 1 / static_cast<double>(std::max(victim.task.classes, 1)); },
      .forward = [&](const at::Tensor& batch) { classify(batch); },
      .after_warning = "check how the victim's images are normalised, or lower the learning rate"};
  if (recipe.teacher == TeacherInput::original && !student.encode) {
    run.recall = [&](const refine::detail::Batch& batch) {
      const nn::Autocast autocast(device, bfloat16);
      answers.remember(batch, victim.answer);
    };
  }
  refine::detail::train(run, *student.module, device, examples, recipe.optimization, augmentation,
                        recipe.seed, targets, learn, student.cuda_graph_safe && victim.cuda_graph_safe,
                        observers...);
}

}  // namespace detail

/// Trains a student: a fresh classifier that learns to answer clean images as the victim does
/// (Hinton et al., 2015, `hinton2015distilling`). It needs no labels, as `fit`, and takes the same
/// recipes. Training takes place on `default_device()`, to which both networks are moved. Of an
/// `EncodingBackbone`, the features and the victim's answers are computed once, before the first step;
/// the recipe must be one like `recipes::encoded`.
///
/// Give a student other initial weights than the victim had (another seed, if it may have the same
/// architecture): from the same ones, it can learn more of the victim than its answers to clean images.
///
/// \param student the network; its module is trained in place
/// \param victim its teacher, frozen
/// \param images uint8 N×C×H×W, two or more
/// \param recipe as for `fit`; `supcon_weight` and `head_weight`, which need a transform, are ignored
/// \param observers follow the run, taken by reference, see `Observer`
/// \return `student`, in evaluation mode
/// \throws Error if the images or the networks do not fit, a field of the recipe is out of range, or
///   the loss is not finite
/// \throws Stopped if an observer requests it
template <backbones::Backbone S, backbones::FrozenBackbone V, Observer... Observers>
S distill(S student, const V& victim, const at::Tensor& images, const Recipe& recipe = recipes::fast,
          Observers&&... observers) {
  refine::detail::refuse_inference_mode("distill");
  recipe.validate();
  if constexpr (requires { student.check(); }) student.check();
  data::check_images("images", victim.task.image, images);
  if (!compatible(student.task.image, victim.task.image) ||
      !compatible(student.task.classes, victim.task.classes)) {
    Message why;
    require_agreement(why << "distill: the networks differ (the student has " << student.task.image << " and "
                          << student.task.classes << " classes, the victim " << victim.task.image << " and "
                          << victim.task.classes << " classes); give both the same Task");
  }
  const at::Device device = default_device();
  student.module->to(device);
  victim.module->to(device);
  detail::StudentNetwork network{.module = detail::trained_part_of(student.module),
                                 .classify = [&](const at::Tensor& x) { return student.forward(x); },
                                 .cuda_graph_safe = nn::is_replayable(student),
                                 .description = nn::describe(student),
                                 .constants = backbones::constants_of(student)};
  if constexpr (EncodingBackbone<S>) {
    network.cuda_graph_safe = true;  // the head alone
    network.classify = [&](const at::Tensor& features) { return student.classify(features); };
    network.encode = [&](const at::Tensor& x) { return student.encode(x); };
    network.standardize = [&](const at::Tensor& features) { student.standardize(features); };
    network.encoder = refine::detail::state_and_code(*detail::encoder_of(student.module), "encoder.");
  }
  nn::to_channels_last(*network.module);
  const detail::StudentTeacher teacher{.task = victim.task,
                                       .answer = [&](const at::Tensor& x) { return victim.forward(x); },
                                       .state = refine::detail::teacher_state(victim),
                                       .cuda_graph_safe = nn::is_replayable(victim)};
  detail::train_student(network, teacher, device, images, recipe, observers...);
  student.module->eval();
  return student;
}

/// Saves the classifier of a substitute as safetensors, without the victim and without an encoder: the
/// tensors that were trained as `student.NAME`, and in the metadata `refine` = `student`, fingerprints of
/// victim and encoder, the recipe and its seed.
/// \param defense its classifier must not be frozen
/// \param path the file; it is complete or not there
/// \param recipe the recipe that it was trained with
/// \param metadata further entries
/// \throws Error if the file cannot be written
template <backbones::FrozenBackbone V, backbones::Backbone C>
requires(!backbones::FrozenBackbone<C>) void save(const Substitute<V, C>& defense,
                                                  const std::filesystem::path& path, const Recipe& recipe,
                                                  std::map<std::string, std::string> metadata = {}) {
  metadata["refine"] = "student";
  metadata["victim"] =
      refine::detail::fingerprint(*defense.victim.module, backbones::constants_of(defense.victim));
  if (const auto encoder = detail::encoder_of(defense.classifier.module))
    metadata["encoder"] = refine::detail::fingerprint(*encoder, {});
  metadata["recipe"] = nlohmann::json(recipe).dump();
  metadata["seed"] = std::to_string(recipe.seed);
  formats::write_safetensors(
      path,
      {nn::state_dict(*detail::trained_part_of(defense.classifier.module), "student."), std::move(metadata)});
}

namespace detail {

/// Loads what a file of a student holds into a substitute; see `load`.
/// \param tensors, metadata of the file
/// \param name of the file, for messages
template <typename V, typename C>
void load_student(Substitute<V, C>& defense, const std::map<std::string, at::Tensor>& tensors,
                  const std::map<std::string, std::string>& metadata, const std::string& name) {
  if (const auto kind = metadata.find("refine"); kind == metadata.end() || kind->second != "student")
    throw Error(
        "cannot load {} as a student: it holds another part of a defense, or none; give it a file of "
        "refine defend --defense student",
        name);
  refine::detail::check_victim(metadata, *defense.victim.module, backbones::constants_of(defense.victim),
                               name);
  const auto encoder = encoder_of(defense.classifier.module);
  refine::detail::check_encoder(metadata, encoder, name);
  nn::load_state_dict(*trained_part_of(defense.classifier.module), tensors, name, "student.");
  defense.classifier.module->eval();
}

}  // namespace detail

/// Loads a file that `save` wrote into a substitute. Its outputs are then bitwise those of the saved one.
/// \param defense with the same victim, and a classifier of the same architecture and encoder
/// \param path the file
/// \return the file's metadata
/// \throws Error if the file cannot be read, is not of a student, or is of another victim, encoder or
///   architecture; the substitute then stays unchanged
template <backbones::FrozenBackbone V, backbones::Backbone C>
requires(!backbones::FrozenBackbone<C>) std::map<std::string, std::string> load(
    Substitute<V, C>& defense, const std::filesystem::path& path) {
  auto content = formats::read_safetensors(path);
  detail::load_student(defense, content.tensors, content.metadata, path.string());
  return std::move(content.metadata);
}

/// The default recipe of `fine_tune` and `fine_prune`: small steps from the victim's weights, as in BackdoorBench
/// (Wu et al., 2022, `wu2022backdoorbench`).
inline constexpr ClassifierRecipe fine_tuning = {.optimization = {.lr = 0.01,
                                                                  .momentum = 0.9,
                                                                  .weight_decay = 5e-4,
                                                                  .schedule = Schedule::one_cycle,
                                                                  .warmup = 0,
                                                                  .batch_size = 256,
                                                                  .epochs = 100},
                                                 .augmentation = {.flip = true, .crop_padding = 4}};

/// The default recipe of `distill_attention`: two epochs of large steps, then small ones, as in its authors' code but
/// without Cutout.
inline constexpr ClassifierRecipe attention_distillation = {
    .optimization = {.lr = 0.1,
                     .momentum = 0.9,
                     .nesterov = true,
                     .weight_decay = 1e-4,
                     .schedule = Schedule::steps,
                     .milestones = {2, 0},
                     .batch_size = 64,
                     .epochs = 20},
    .augmentation = {.flip = true, .crop_padding = 4}};

/// Returns a copy of the victim that is trained further on clean, labelled images (Liu et al., 2018,
/// `liu2018finepruning`, who compare with it).
///
/// \param victim not frozen; it is left unchanged
/// \param labelled two or more images with labels that can be trusted
/// \param recipe how to train
/// \param observers follow the run, taken by reference, see `Observer`
/// \throws Error as `train_classifier`
/// \throws c10::Error if the victim's module cannot be cloned
template <backbones::Backbone V, Observer... Observers>
requires(!backbones::FrozenBackbone<V>) V
    fine_tune(const V& victim, const data::Dataset& labelled, const ClassifierRecipe& recipe = fine_tuning,
              Observers&&... observers) {
  labelled.validate();
  require_agreement(refine::detail::check_training_task("fine_tune", victim.task, labelled.task()));
  return train_classifier(nn::deep_copy(victim), labelled, recipe, std::forward<Observers>(observers)...);
}

/// The default recipe of the teacher of `distill_attention`: half as long.
inline constexpr ClassifierRecipe attention_teacher = [] {
  ClassifierRecipe recipe = attention_distillation;
  recipe.optimization.epochs = 10;
  return recipe;
}();

/// Options of `distill_attention`.
struct AttentionOptions {
  double power = 2;      ///< of the activations in an attention map, at least 1
  double weight = 1000;  ///< of the mean squared difference of two maps in the loss, 0 or more
  int stages = 3;        ///< how many stages are compared, the last with more than one position; at least 1
  ClassifierRecipe teacher = attention_teacher;      ///< how the teacher is fine-tuned
  ClassifierRecipe recipe = attention_distillation;  ///< how the copy is trained

  /// \throws Error naming the first field that is out of range
  void validate() const {
    if (!(power >= 1 && std::isfinite(power)))
      throw Error("AttentionOptions.power must be at least 1 and finite, got {}", power);
    if (!(weight >= 0 && std::isfinite(weight)))
      throw Error("AttentionOptions.weight must be 0 or more and finite, got {}", weight);
    if (stages < 1) throw Error("AttentionOptions.stages must be at least 1, got {}", stages);
    teacher.validate();
    recipe.validate();
  }
};

/// Returns where the activations of each image are large: the sum over the channels of their powers, scaled to length 1.
/// \param activations float N×C×H×W
/// \param power at least 1
/// \return float N×(H·W)
inline at::Tensor attention_map(const at::Tensor& activations, double power) {
  const at::Tensor map = activations.to(at::kFloat).abs().pow(power).sum(1).flatten(1);
  return map / map.norm(2, 1, /*keepdim=*/true).clamp_min(1e-12);
}

namespace detail {

/// Returns the last stages whose outputs have more than one position: a map of a single one is always the same.
/// \param network in evaluation mode
/// \param count how many stages
/// \throws Error if there are fewer
template <backbones::Backbone B>
std::vector<int> mapped_stages(const B& network, const at::Tensor& image, int count) {
  std::vector<int> found;
  if (backbones::stages_of(network) > 0) {
    const c10::NoGradGuard no_grad;
    backbones::forward_stages(network, image, [&](int stage, const at::Tensor& output) {
      if (output.size(2) * output.size(3) > 1) found.push_back(stage);
      return output;
    });
  }
  const auto n = static_cast<int>(found.size());
  if (n < count) {
    throw Error(
        "distill_attention: too few stages with more than one position (got {}, expected {} or more); lower "
        "AttentionOptions.stages, or fine_tune the network instead",
        n, count);
  }
  found.erase(found.begin(), found.end() - count);
  return found;
}

}  // namespace detail

/// Returns a copy of the victim that is trained on clean, labelled images to have the attention of a teacher, which is
/// the victim after fine-tuning (neural attention distillation, NAD; Li et al., 2021, `li2021nad`). The loss is the
/// cross-entropy plus, for each of the last stages, the weighted mean squared difference of the two attention maps.
/// The authors give the first of three stages half of the weight.
///
/// The teacher is trained first, without observers.
///
/// \param victim not frozen, with stages (`backbones::Staged`); it is left unchanged
/// \param labelled two or more images with labels that can be trusted
/// \param options the attention, and both trainings
/// \param observers follow the training of the copy, taken by reference, see `Observer`
/// \throws Error as `train_classifier`, if an option is out of range, the network has fewer stages, or there are
///   several processes
/// \throws c10::Error if the victim's module cannot be cloned
template <backbones::Backbone V, Observer... Observers>
requires(!backbones::FrozenBackbone<V>) V
    distill_attention(const V& victim, const data::Dataset& labelled, const AttentionOptions& options = {},
                      Observers&&... observers) {
  options.validate();
  labelled.validate();
  distributed::detail::require_one_process("distill_attention", observers...);
  require_agreement(refine::detail::check_training_task("distill_attention", victim.task, labelled.task()));
  const at::Device device = default_device();
  V network = nn::deep_copy(victim);
  network.module->to(device);
  network.module->eval();
  nn::to_channels_last(*network.module);
  const at::Tensor blank =
      at::zeros(labelled.images.sizes().slice(1), at::TensorOptions(device)).unsqueeze(0);
  const std::vector<int> stages = detail::mapped_stages(network, blank, options.stages);
  const V teacher = fine_tune(victim, labelled, options.teacher);
  const auto maps_of = [&](const V& backbone, const at::Tensor& images, std::vector<at::Tensor>& maps) {
    maps.clear();
    return backbones::forward_stages(backbone, images, [&](int stage, const at::Tensor& output) {
      if (stage >= stages.front() && stage <= stages.back())
        maps.push_back(attention_map(output, options.power));
      return output;
    });
  };
  std::vector<at::Tensor> maps, wanted;  // of the current batch
  std::ostringstream settings;
  settings << "attention of " << options.stages << " stages, power " << options.power << ", weight "
           << options.weight << "; teacher: " << options.teacher;
  refine::detail::train_labelled(
      {.identity = {.run = "copy",
                    .network = settings.str(),
                    .constants = backbones::constants_of(network),
                    .victim = refine::detail::teacher_state(victim)}},
      *network.module, data::TrainingSet{labelled}, options.recipe,
      [&](const at::Tensor& images) { return maps_of(network, images, maps); },
      [&](const at::Tensor& logits, const at::Tensor& truth, const at::Tensor& images) {
        {
          const c10::NoGradGuard no_grad;
          maps_of(teacher, images, wanted);
        }
        at::Tensor loss = refine::detail::cross_entropy(logits, truth, options.recipe);
        for (std::size_t i = 0; i < maps.size(); ++i)
          loss = loss + options.weight * (maps[i] - wanted[i]).square().mean();
        return loss;
      },
      observers...);
  return network;
}

/// Options of `fine_prune`.
struct PruningOptions {
  double max_drop = 0.04;                 ///< of the accuracy on the labelled images, in [0, 1]
  int rounds = 32;                        ///< equal parts in which the features are pruned, at least 1
  ClassifierRecipe recipe = fine_tuning;  ///< how to train after pruning
};

namespace detail {

/// Returns the weights of the last fully connected layer, classes×features.
template <backbones::Backbone V>
at::Tensor last_linear(const V& network) {
  at::Tensor last;
  for (const auto& parameter : network.module->parameters()) {
    if (parameter.dim() == 2 && parameter.size(0) == network.task.classes) last = parameter;
  }
  if (!last.defined()) {
    throw Error("fine_prune: no fully connected layer with {} outputs; fine_tune the network instead",
                network.task.classes);
  }
  return last;
}

/// Returns the sum over the images of each feature that enters the last layer, float features.
///
/// The logit of class 0 is w·f + b, so its gradient in w is the feature vector f.
template <backbones::Backbone V>
at::Tensor feature_sums(const V& network, const at::Tensor& weights, const at::Tensor& images,
                        at::Device device) {
  const c10::AutoGradMode with_gradient(true);
  at::Tensor sums = at::zeros({weights.size(1)}, weights.options().requires_grad(false));
  for (const data::Batch& part : images | data::views::batches(256)) {
    const at::Tensor logits = network.forward(data::to_float(part.images, device));
    sums += torch::autograd::grad({logits.select(1, 0).sum()}, {weights})[0].select(0, 0);
  }
  return sums;
}

/// Returns the accuracy on labelled images.
template <backbones::Backbone V>
double accuracy_of(const V& network, const data::Dataset& set, at::Device device) {
  const auto classes = classify([&](const at::Tensor& x) { return network.forward(x); }, set.images, device,
                                [](std::int64_t) {});
  const metrics::Proportion equal = metrics::share_equal(classes, refine::detail::to_vector(set.labels));
  return equal.n == 0 ? 0 : equal.value();
}

/// Keeps columns of a matrix at 0 while it is trained. An `Observer`.
struct KeepPruned {
  at::Tensor weights;  ///< classes×features
  at::Tensor columns;  ///< int64

  /// Sets the columns to 0.
  void on_step(const StepInfo&) {
    c10::NoGradGuard no_grad;
    weights.index_fill_(1, columns, 0);
  }
};

}  // namespace detail

/// Returns a copy of the victim without the features that clean images activate least, trained
/// further on them (fine-pruning; Liu et al., 2018, `liu2018finepruning`).
///
/// The features are those that enter the last fully connected layer. They are pruned in the order of
/// their mean value until the accuracy would drop by more than `max_drop`; the weights of pruned
/// features stay 0.
///
/// \param victim not frozen, with a fully connected last layer behind a ReLU; left unchanged
/// \param labelled two or more images with labels that can be trusted
/// \param options when to stop pruning, and how to train
/// \param observers follow the training, taken by reference, see `Observer`
/// \throws Error as `train_classifier`, if an option is out of range, or if the network has no such
///   layer
/// \throws c10::Error if the victim's module cannot be cloned
template <backbones::Backbone V, Observer... Observers>
requires(!backbones::FrozenBackbone<V>) V
    fine_prune(const V& victim, const data::Dataset& labelled, const PruningOptions& options = {},
               Observers&&... observers) {
  refine::detail::refuse_inference_mode("fine_prune");
  if (!(options.max_drop >= 0 && options.max_drop <= 1))
    throw Error("PruningOptions.max_drop must be in [0, 1], got {}", options.max_drop);
  if (options.rounds < 1) throw Error("PruningOptions.rounds must be at least 1, got {}", options.rounds);
  labelled.validate();
  require_agreement(refine::detail::check_training_task("fine_prune", victim.task, labelled.task()));
  V network = nn::deep_copy(victim);
  const at::Device device = default_device();
  network.module->to(device);
  network.module->eval();
  at::Tensor weights = detail::last_linear(network);
  const at::Tensor order = at::argsort(detail::feature_sums(network, weights, labelled.images, device));
  const double before = detail::accuracy_of(network, labelled, device);
  const std::int64_t features = weights.size(1);
  const at::Tensor unpruned = weights.detach().clone();
  detail::KeepPruned pruned{weights.detach(), order.narrow(0, 0, 0)};
  for (int round = 1; round <= options.rounds; ++round) {
    const std::int64_t count = features * round / options.rounds;
    if (count == features) break;  // without any feature, there is nothing to classify by
    detail::KeepPruned more{pruned.weights, order.narrow(0, 0, count)};
    more.on_step({});
    if (before - detail::accuracy_of(network, labelled, device) > options.max_drop) break;
    pruned = more;
  }
  {
    c10::NoGradGuard no_grad;
    weights.copy_(unpruned);
  }
  pruned.on_step({});
  return train_classifier(network, labelled, options.recipe, pruned, std::forward<Observers>(observers)...);
}

}  // namespace refine::baselines
