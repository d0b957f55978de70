#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros_like.h>
#include <c10/core/GradMode.h>
#include <c10/core/ScalarType.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/nn/modules/linear.h>

#include <algorithm>
#include <chrono>
#include <concepts>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include <refine/backbones/backbone.hpp>
#include <refine/core/check.hpp>
#include <refine/core/error.hpp>
#include <refine/core/task.hpp>
#include <refine/data/batches.hpp>
#include <refine/data/dataset.hpp>
#include <refine/distributed/communicator.hpp>
#include <refine/distributed/exchange.hpp>
#include <refine/nn/autocast.hpp>
#include <refine/nn/cuda_graph.hpp>
#include <refine/nn/device.hpp>
#include <refine/nn/module.hpp>
#include <refine/objectives/objectives.hpp>
#include <refine/pipeline/pipeline.hpp>
#include <refine/training/detail/loop.hpp>
#include <refine/training/detail/ranks.hpp>
#include <refine/training/observers.hpp>
#include <refine/training/recipe.hpp>
#include <refine/training/recipe_json.hpp>

namespace refine {

namespace detail {

/// The built-in objective that a recipe names.
struct RecipeObjective {
  static constexpr bool cuda_graph_safe = true;

  ObjectiveKind kind;
  double temperature;

  at::Tensor operator()(const at::Tensor& remapped, const at::Tensor& teacher) const {
    switch (kind) {
      case ObjectiveKind::nll:
        return objectives::Nll{}(remapped, teacher);
      case ObjectiveKind::distillation:
        return objectives::Distillation{temperature}(remapped, teacher);
      case ObjectiveKind::bce:
        break;
    }
    return objectives::Bce{}(remapped, teacher);
  }
};

/// Checks what a user's objective returned.
inline void check_loss(const at::Tensor& loss) {
  if (!loss.defined()) throw Error("objective: must return a loss (got an undefined tensor)");
  if (loss.dim() != 0) {
    throw Error("objective: the loss must have no dimensions (got {}); reduce it to one number with .mean()",
                loss.dim());
  }
  if (!loss.is_floating_point()) {
    throw Error(
        "objective: the loss must be a real floating-point number, got {}; take .abs() or .to(at::kFloat)",
        c10::toString(loss.scalar_type()));
  }
  if (!loss.requires_grad())
    throw Error(
        "objective: the loss has no gradient; compute it from the remapped logits, the first argument");
}

/// Checks what a user's transform returned for a batch.
/// \param drawn what it returned
/// \param count number of images of the batch
/// \param shape of the images that it promises to return; a `dynamic` extent fits any
/// \param has_range whether they must be in [0, 1]; not where it draws in normalised units (`PixelDomain::reference`)
inline void check_drawn_images(const at::Tensor& drawn, std::int64_t count, const ImageShape& shape,
                               bool has_range) {
  if (!drawn.defined()) throw Error("fit: the transform must return images (got an undefined tensor)");
  const auto extent = [&](std::int64_t dimension) { return static_cast<int>(drawn.size(dimension)); };
  if (drawn.dim() != 4 || drawn.size(0) != count ||
      !compatible(shape, ImageShape{extent(1), extent(2), extent(3)})) {
    throw Error(
        "fit: the transform must return {} images of {} for {} images, got {}; return one for each, and set its "
        "output_shape if it is not its image",
        count, shape, count, fmt::join(drawn.sizes(), "x"));
  }
  if (!has_range) return;
  // An untrained one without activation leaves [0, 1] by a little.
  const double lowest = drawn.min().item<double>(), highest = drawn.max().item<double>();
  if (lowest < -1 || highest > 2) {
    throw Error(
        "fit: the transform must return images in [0, 1], got {:.3g} to {:.3g}; end its forward with .sigmoid() or "
        ".clamp(0, 1)",
        lowest, highest);
  }
}

/// Returns an objective's type and what it describes of itself, for the identity of a run.
template <objectives::Objective O>
std::string describe_objective(const O& objective) {
  if constexpr (std::same_as<O, RecipeObjective>) return "the recipe's";
  const std::string settings = nn::describe(objective);
  return c10::demangle_type<O>() + (settings.empty() ? "" : " (" + settings + ")");
}

/// Returns the tensors that a module computes with and, as bytes, the programs in it.
/// \param prefix of the names
inline std::map<std::string, at::Tensor> state_and_code(const torch::nn::Module& module,
                                                        const std::string& prefix) {
  std::map<std::string, at::Tensor> state = nn::state_dict(module, prefix);
  std::string code = nn::code_of(module);
  if (!code.empty()) {
    state[prefix + "code"] =
        at::from_blob(code.data(), static_cast<std::int64_t>(code.size()), at::kByte).clone();
  }
  return state;
}

/// Returns what a teacher computes with, for the identity of a run.
template <typename B>
std::map<std::string, at::Tensor> teacher_state(const B& backbone) {
  std::map<std::string, at::Tensor> state = state_and_code(*backbone.module, "module.");
  for (const auto& [name, constant] : backbones::constants_of(backbone)) state["constant." + name] = constant;
  return state;
}

/// Checks that a recipe suits a transform or a student whose features are computed once.
inline void check_encoded_recipe(const Recipe& recipe) {
  data::Augmentation others = recipe.augmentation;
  others.mix = 0;
  if (recipe.teacher != TeacherInput::original || others != data::Augmentation{}) {
    throw Error(
        "recipe: the features of an encoder are computed once, so recipe.teacher must be original and "
        "recipe.augmentation can only mix; use recipes::encoded");
  }
}

/// What is computed once of each image, for a transform or a student with an encoder.
struct EncodedImages {
  at::Tensor features;  ///< float N×F
  at::Tensor answers;   ///< the victim's logits, float N×classes
};

/// Computes the features and the victim's answers of all images.
/// \param encode float images in [0, 1] → features N×F
/// \param answer float images in [0, 1] → the victim's logits
/// \param device where both compute
/// \param name of the run, for messages
/// \throws Stopped if an observer requests it
template <typename Encode, typename Answer, typename... Observers>
EncodedImages encode_images(const Encode& encode, const Answer& answer, at::Device device,
                            const std::string& name, const at::Tensor& images, Observers&... observers) {
  const c10::NoGradGuard no_grad;
  const auto begin = std::chrono::steady_clock::now();
  constexpr std::int64_t max_images = 256, max_pixels = 1 << 21;
  const std::int64_t batch =
      std::clamp<std::int64_t>(max_pixels / (images.size(2) * images.size(3)), 1, max_images);
  EncodedImages all;  // allocated once: small tensors in between would keep freed images from being reused
  const auto store = [&](at::Tensor& rows, std::int64_t first, const at::Tensor& part) {
    if (!rows.defined()) rows = at::empty({images.size(0), part.size(1)}, part.options());
    rows.narrow(0, first, part.size(0)).copy_(part);
  };
  auto& ranks = distributed::detail::find_communicator(observers...);
  distributed::check_equal(ranks, "images", describe_sample({{"images", images}}));
  std::int64_t done = 0;
  for (const data::Batch& part : images | data::views::batches(batch)) {
    if (distributed::holds_on_any(ranks, stop_requested(observers...))) throw Stopped(name, 0, 0, {});
    // Each rank computes a share of a batch that has enough images.
    const bool is_shared = ranks.size() > 1 && part.size() >= ranks.size();
    const auto own = is_shared ? distributed::rows_of_rank(part.size(), ranks.rank(), ranks.size())
                               : distributed::RowRange{0, part.size()};
    const at::Tensor x = data::to_float(part.images.narrow(0, own.first, own.count), device)
                             .contiguous(at::MemoryFormat::ChannelsLast);
    const auto gather = [&](const at::Tensor& rows) {
      return is_shared ? distributed::gather_rows(ranks, rows, own, part.size()) : rows;
    };
    store(all.features, done, gather(encode(x).to(at::kFloat)));
    store(all.answers, done, gather(answer(x).to(at::kFloat)));
    done += part.size();
  }
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
  notify_note(fmt::format("features and the victim's answers of {} images: {:.0f} s", images.size(0),
                          seconds.count()),
              observers...);
  return all;
}

/// A transform's trained part and the auxiliary classifier on its bottleneck, as one module.
struct WithHead : torch::nn::Module {
  torch::nn::Linear head{nullptr};

  WithHead(const std::shared_ptr<torch::nn::Module>& trained, std::int64_t bottleneck, std::int64_t classes,
           std::uint64_t seed) {
    register_module("transform", trained);
    head = nn::with_torch_seed(seed, [&] { return torch::nn::Linear(bottleneck, classes); });
    register_module("head", head);
  }
};

/// Makes the head of a recipe for the bottleneck that the transform has for `input`.
template <typename T, typename B, typename R>
std::shared_ptr<WithHead> make_head(const Pipeline<T, B, R>& defense, const at::Tensor& input,
                                    const Recipe& recipe) {
  at::Tensor bottleneck;
  {
    const c10::NoGradGuard no_grad;
    bottleneck = defense.draw(input).bottleneck;
  }
  if (!bottleneck.defined()) {
    throw Error(
        "recipe.head_weight: the transform has no bottleneck for a head (got {}, expected 0); set it to 0, or give the "
        "transform a member draw",
        recipe.head_weight);
  }
  auto module =
      std::make_shared<WithHead>(transforms::trained_module_of(defense.transform()), bottleneck.size(1),
                                 defense.task().classes, derived_seed(recipe.seed, "head"));
  module->head->to(defense.device());
  return module;
}

/// What a transform makes of a batch.
struct Rewritten {
  at::Tensor images;      ///< float N×C×H×W
  at::Tensor guess = {};  ///< the head's logits, float N×classes; undefined: there is no head
};

/// Computes a step of `fit` without holding the activations of the transform and of the victim at
/// once: first the rewritten images and their gradients, for the victim in four parts of the batch, then
/// the transform again with these. The victim is frozen, so the parts do not affect each other; the
/// transform, whose BatchNorm needs the whole batch, gets it whole.
/// \param draw images → `Rewritten`
/// \param classify rewritten images → remapped logits
/// \param judge (`Rewritten`, remapped logits, answer) → `BatchResult`
/// \param again called before the transform draws for the second time
template <typename Draw, typename Classify, typename Judge>
BatchResult learn_in_parts(const at::Tensor& batch, const at::Tensor& answer, const Draw& draw,
                           const Classify& classify, const Judge& judge, const std::function<void()>& again) {
  const std::int64_t images = batch.size(0), part = (images + 3) / 4;
  const auto for_each_part = [&](auto&& use) {
    for (std::int64_t first = 0; first < images; first += part) use(first, std::min(part, images - first));
  };
  Rewritten rewritten;
  at::Tensor remapped;
  {
    const c10::NoGradGuard no_grad;
    rewritten = draw(batch);
    std::vector<at::Tensor> logits;
    for_each_part([&](std::int64_t first, std::int64_t count) {
      logits.push_back(classify(rewritten.images.narrow(0, first, count)));
    });
    remapped = at::cat(logits);
  }
  rewritten.images.requires_grad_();
  remapped.requires_grad_();
  if (rewritten.guess.defined()) rewritten.guess.requires_grad_();
  BatchResult result = judge(rewritten, remapped, answer);
  result.loss.backward();
  result.loss = result.loss.detach();
  at::Tensor gradient =
      rewritten.images.grad().defined() ? rewritten.images.grad() : at::zeros_like(rewritten.images);
  if (remapped.grad().defined()) {
    for_each_part([&](std::int64_t first, std::int64_t count) {
      const at::Tensor x = rewritten.images.detach().narrow(0, first, count).requires_grad_();
      classify(x).backward(remapped.grad().narrow(0, first, count));
      gradient.narrow(0, first, count).add_(x.grad());
    });
  }
  const at::Tensor guess_gradient = rewritten.guess.defined() ? rewritten.guess.grad() : at::Tensor();
  rewritten = {};
  again();
  const Rewritten second = draw(batch);
  if (guess_gradient.defined()) {
    torch::autograd::backward({second.images, second.guess}, {gradient, guess_gradient});
  } else {
    second.images.backward(gradient);
  }
  return result;
}

/// Returns the rows of a whole batch, with gradient for those of this rank.
inline at::Tensor gather_with_gradient(const at::Tensor& part, const BatchShare& share) {
  const at::Tensor all = share.gather(part.detach());
  const std::int64_t end = share.first + share.count;
  return at::cat({all.narrow(0, 0, share.first), part, all.narrow(0, end, share.total - end)});
}

/// Trains the transform of a pipeline towards an objective; see `fit`.
template <typename T, typename B, typename R, objectives::Objective O, typename... Observers>
void fit_transform(Pipeline<T, B, R>& defense, const at::Tensor& images, const O& objective,
                   const Recipe& recipe, Observers&... observers) {
  refuse_inference_mode("fit");
  recipe.validate();
  if (images.dim() != 4 || images.scalar_type() != at::kByte)
    throw Error("fit: images must be uint8 N×C×H×W; convert float images with data::to_bytes");
  const ImageShape data_shape = data::image_shape_of(images), pipeline_shape = defense.task().image;
  if (!compatible(pipeline_shape, data_shape)) {
    Message why;
    require_agreement(why << "fit: the image shapes differ (the pipeline takes " << pipeline_shape
                          << ", the data has " << data_shape
                          << "); resize the data, or give the pipeline its task");
  }
  if (images.size(0) < 2)
    throw Error("cannot train the defense: too few images (got {}, expected 2 or more)", images.size(0));
  refuse_inference_tensors("fit", "transform", nn::state_dict(*defense.transform().module));
  refuse_inference_tensors("fit", "victim", nn::state_dict(*defense.backbone().module));
  refuse_inference_tensors("fit", "victim", backbones::constants_of(defense.backbone()));
  refuse_inference_tensors("fit", "pipeline", defense.named_constants());
  const at::Device device = default_device();
  defense.to(device);

  const objectives::SupCon supcon{.temperature = recipe.supcon_temperature,
                                  .base_temperature = recipe.supcon_temperature};
  bool victim_is_checked = false, transform_is_checked = false;
  const auto teacher = [&](const at::Tensor& x) {
    const at::Tensor logits = defense.undefended(x);
    if (!victim_is_checked)
      backbones::check_logits("fit: the backbone", logits, x.size(0), defense.task().classes);
    victim_is_checked = true;  // not before: an Error in bfloat16 leads to a second try
    return logits;
  };
  const bool bfloat16 = computes_in_bfloat16(recipe.optimization.precision, device, images,
                                             /*needs_gradient=*/true, teacher, observers...);
  const BatchAugmentation augmentation(recipe.augmentation);
  const auto encoder = transforms::encoder_module_of(defense.transform());
  if (encoder) check_encoded_recipe(recipe);
  TeacherAnswers answers(recipe, images.size(0));
  at::Tensor examples = images;
  if constexpr (transforms::EncodingTransform<T>) {
    if (encoder) {
      EncodedImages encoded =
          encode_images([&](const at::Tensor& x) { return defense.transform().encode(x); }, teacher, device,
                        "defense", images, observers...);
      answers.set(std::move(encoded.answers));
      defense.transform().standardize(encoded.features);
      examples = std::move(encoded.features);
    }
  }
  std::shared_ptr<WithHead> head;
  if (recipe.head_weight > 0) {
    const at::Tensor first = examples.narrow(0, 0, std::min<std::int64_t>(examples.size(0), 2));
    head = make_head(defense, encoder ? first.to(device) : data::to_float(first, device), recipe);
  }
  auto& ranks = distributed::detail::find_communicator(observers...);
  constexpr bool is_distributed = distributed::detail::is_distributed<decltype(ranks)>;
  BatchShare share;  // of the current step
  const auto targets = [&](const Batch& batch) {
    if constexpr (is_distributed) share = batch.share;
    const nn::Autocast autocast(device, bfloat16);
    return answers(batch, augmentation, teacher);
  };
  ImageShape drawn_shape = data_shape;
  if constexpr (transforms::detail::DrawsOtherShape<T>)
    drawn_shape = transforms::output_shape_of(defense.transform());
  const auto draw = [&](const at::Tensor& batch) -> Rewritten {
    const nn::Autocast autocast(device, bfloat16);
    const transforms::Drawn drawn =
        encoder || head ? defense.draw(batch) : transforms::Drawn{defense.transformed(batch)};
    if (!std::exchange(transform_is_checked, true)) {
      // With several ranks, the range may be wrong for the images of one, and the others would wait for it.
      check_drawn_images(drawn.images, batch.size(0), drawn_shape,
                         defense.domain() == PixelDomain::image && ranks.size() == 1);
    }
    return {drawn.images.to(at::kFloat),
            head ? head->head->forward(drawn.bottleneck).to(at::kFloat) : at::Tensor()};
  };
  const auto classify = [&](const at::Tensor& rewritten) {
    const nn::Autocast autocast(device, bfloat16);
    return defense.classify_transformed(rewritten).to(at::kFloat);
  };
  const auto judge = [&](const Rewritten& rewritten, const at::Tensor& remapped,
                         const at::Tensor& answer) -> BatchResult {
    const at::Tensor teacher_classes = answer.argmax(1), predicted = remapped.detach().argmax(1);
    at::Tensor loss = objective(remapped, answer);
    check_loss(loss);
    if (head) loss = loss + recipe.head_weight * at::cross_entropy_loss(rewritten.guess, answer.softmax(1));
    if constexpr (is_distributed) {
      if (ranks.size() > 1) {
        at::Tensor batch_loss;
        if (recipe.supcon_weight > 0) {
          batch_loss = recipe.supcon_weight *
                       supcon(gather_with_gradient(rewritten.images, share), share.gather(teacher_classes));
        }
        return {loss, predicted.eq(teacher_classes).sum(), predicted, batch_loss};
      }
    }
    if (recipe.supcon_weight > 0)
      loss = loss + recipe.supcon_weight * supcon(rewritten.images, teacher_classes);
    return {loss, predicted.eq(teacher_classes).sum(), predicted};
  };
  const auto learn = [&](const at::Tensor& batch, const at::Tensor& answer) {
    const Rewritten rewritten = draw(batch);
    return judge(rewritten, classify(rewritten.images), answer);
  };
  const bool graph_safe = nn::is_replayable(defense.transform()) && nn::is_replayable(defense.backbone()) &&
                          nn::is_replayable(objective);
  TrainingRun run{
      .info = {.name = "defense", .accuracy_of = "agreement"},
      .identity =
          [&] {
            std::map<std::string, at::Tensor> victim = teacher_state(defense.backbone());
            const std::vector<std::int64_t> permutation(defense.remap().permutation.begin(),
                                                        defense.remap().permutation.end());
            victim["permutation"] = at::tensor(permutation);
            if (encoder) victim.merge(state_and_code(*encoder, "encoder."));
            return RunIdentity{.run = "defense",
                               .network = nn::describe(defense.transform()),
                               .recipe = (std::ostringstream() << recipe).str(),
                               .objective = describe_objective(objective),
                               .domain = defense.domain() == PixelDomain::reference ? "reference" : "",
                               .data = {{"images", images}},
                               .victim = std::move(victim)};
          },
      .chance = [&] { return 1 / static_cast<double>(defense.remap().permutation.size()); },
      .forward = [&](const at::Tensor& batch) { draw(batch); },
      .after_warning =
          head ? "check how the victim's images are normalised, or lower the learning rate"
               : "check how the victim's images are normalised, set recipe.head_weight to 1 (--head 1), or "
                 "lower the learning rate"};
  if (recipe.teacher == TeacherInput::original && !encoder) {
    run.recall = [&](const Batch& batch) {
      const nn::Autocast autocast(device, bfloat16);
      answers.remember(batch, teacher);
    };
  }
  run.learn_in_parts = [&](const at::Tensor& batch, const at::Tensor& answer,
                           const std::function<void()>& again) {
    return learn_in_parts(batch, answer, draw, classify, judge, again);
  };
  const auto trained = transforms::trained_module_of(defense.transform());
  torch::nn::Module& module = head ? static_cast<torch::nn::Module&>(*head) : *trained;
  train(run, module, device, examples, recipe.optimization, augmentation, recipe.seed, targets, learn,
        graph_safe, observers...);
}

}  // namespace detail

/// Trains the transform of a pipeline on clean images, without labels (Chen et al., 2025,
/// `chen2025refine`). The teacher is the frozen victim, as `Recipe::teacher` has it. Training takes
/// place on `default_device()`, to which the pipeline is moved.
///
/// Where the transform has an encoder (`transforms::EncodingTransform`), the features and the victim's
/// answers of all images are computed once, before the first step; the recipe must be one like
/// `recipes::encoded`.
///
/// *Determinism*: on the CPU, the same seeds and number of threads give bitwise the same weights. Dropout
/// draws from LibTorch's generator, which belongs to the process and is restored at the end. While another
/// thread trains or draws, the weights of a network with dropout are not determined, and the generator is
/// left in another state.
///
/// \param defense the pipeline; its transform is trained in place and left in evaluation mode
/// \param images uint8 N×C×H×W, two or more, of the pipeline's image shape
/// \param recipe the objective, the optimizer and the augmentation
/// \param observers follow the run, taken by reference, see `Observer`
/// \throws Error if the images do not fit the pipeline, a field of the recipe is out of range or does
///   not suit the transform, the transform has no parameters or does not return images as it promises, a part
///   was made in `c10::InferenceMode`, the loss is not finite, or the transform has collapsed: it makes the
///   victim predict one class for all images
/// \throws OutOfMemory if the memory does not suffice for a step, also if activations are computed twice
/// \throws Stopped if an observer requests it
template <typename T, typename B, typename R, Observer... Observers>
void fit(Pipeline<T, B, R>& defense, const at::Tensor& images, const Recipe& recipe = recipes::fast,
         Observers&&... observers) {
  const detail::RecipeObjective objective{recipe.objective, recipe.temperature};
  detail::fit_transform(defense, images, objective, recipe, observers...);
}

/// Trains the transform of a pipeline towards an objective of the caller's. It takes the place of
/// the one that the recipe names: `Recipe::objective` and `Recipe::temperature` have no effect. All
/// else is as in the other overload; in particular, SupCon is added with `Recipe::supcon_weight`
/// unless that is 0.
///
///     struct Margin {  // hinge loss: the teacher's class must lead by 1
///       at::Tensor operator()(const at::Tensor& remapped, const at::Tensor& teacher) const {
///         return at::multi_margin_loss(remapped, teacher.argmax(1));
///       }
///     };
///     fit(defense, images, Margin{}, recipes::fast, ProgressBar{});
///
/// \param defense the pipeline; its transform is trained in place and left in evaluation mode
/// \param images uint8 N×C×H×W, two or more, of the pipeline's image shape
/// \param objective called once per step, see `objectives::Objective`; also a lambda
/// \param recipe the optimizer and the augmentation
/// \param observers follow the run, taken by reference, see `Observer`
/// \throws Error as the other overload, and if the objective does not return a loss without
///   dimensions that depends on the remapped logits
template <typename T, typename B, typename R, objectives::Objective O, Observer... Observers>
void fit(Pipeline<T, B, R>& defense, const at::Tensor& images, const O& objective,
         const Recipe& recipe = recipes::fast, Observers&&... observers) {
  detail::fit_transform(defense, images, objective, recipe, observers...);
}

}  // namespace refine
