#include "tools/refine/training.hpp"

#include <algorithm>
#include <cmath>
#include <map>
#include <system_error>
#include <utility>

#include <refine/nn/device.hpp>
#include <refine/training/fit.hpp>
#include <refine/training/observers.hpp>
#include <refine/training/recipe.hpp>
#include <refine/training/train_classifier.hpp>

#include "tools/refine/command.hpp"

namespace refine::cli {
namespace {

const std::map<std::string, OptimizerKind> optimizers = {
    {"SGD", OptimizerKind::sgd}, {"Adam", OptimizerKind::adam}, {"Muon", OptimizerKind::muon}};

const std::map<std::string, Precision> precisions = {
    {"float32", Precision::float32}, {"bfloat16", Precision::bfloat16}, {"automatic", Precision::automatic}};

/// How many images are seen in all, the same ones again where they are few.
struct Seen {
  std::int64_t by_gpu;
  std::int64_t by_cpu;  ///< of 32×32 pixels: a few minutes' work
};

/// Whether `recipes::gpu` is for them. Large batches were measured with many small images alone; large images
/// would not fit, either.
bool suit_a_gpu(std::int64_t images, const ImageShape& shape) {
  return default_device().is_cuda() && images >= 20'000 && std::max(shape.height, shape.width) <= 64;
}

/// How often the images are seen, where `said` is 0: on a GPU as was measured there; on a CPU large ones as
/// often as can be waited for.
int sized_epochs(int said, std::int64_t images, const ImageShape& shape, Seen most) {
  if (said > 0) return said;
  std::int64_t seen = most.by_gpu;
  if (!default_device().is_cuda()) {
    const double small = 32.0 * 32.0 / (static_cast<double>(shape.height) * shape.width);
    seen = std::clamp(static_cast<std::int64_t>(static_cast<double>(most.by_cpu) * small),
                      std::int64_t{10'000}, most.by_cpu);
  }
  const std::int64_t epochs = (seen + images - 1) / std::max<std::int64_t>(images, 1);
  return static_cast<int>(std::clamp<std::int64_t>(epochs, 2, 200));
}

/// What large images want and small ones do not, and the other way round; images that are seen often are
/// mixed, where no labels are needed.
data::Augmentation sized_augmentation(const ImageShape& shape, int epochs, bool labels) {
  data::Augmentation augmentation{.flip = true};
  if (std::min(shape.height, shape.width) > 64) {
    augmentation.resized_crop_min_scale = 0.8;
  } else if (labels && epochs > 2) {  // a defense of small images is better without (docs/recipes.md)
    augmentation.crop_padding = 2;
  }
  if (!labels && epochs >= 10) augmentation.mix = 0.5;
  return augmentation;
}

void override_with(const TrainingOptions& said, Optimization& how) {
  if (!said.optim.empty()) how.optimizer = optimizers.at(said.optim);
  if (said.epoch > 0) how.epochs = said.epoch;
  if (said.batch_size > 0) how.batch_size = said.batch_size;
  if (said.lr > 0) how.lr = said.lr;
  if (!said.precision.empty()) how.precision = precisions.at(said.precision);
  if (said.decay > 0) {
    if (how.schedule != Schedule::steps) {
      throw Error("--decay is for a rate that falls at milestones, as --recipe paper has it; leave it out");
    }
    how.decay = said.decay;
  }
}

Trained result_of(const History& history, std::string name) {
  report::Curve curve{.name = std::move(name), .unit = "%", .x_label = "epoch", .x = {}, .y = {}};
  for (const EpochInfo& epoch : history.epochs) {
    curve.x.push_back(epoch.epoch);
    curve.y.push_back(100 * epoch.accuracy);
  }
  return {std::move(curve), history.epochs.empty() ? 0 : history.epochs.back().seconds};
}

JsonLines fresh_log(const std::filesystem::path& path) {
  std::error_code ignored;
  std::filesystem::remove(path, ignored);
  return JsonLines(path);
}

}  // namespace

void TrainingOptions::add_to(CLI::App& command, bool is_defense) {
  command
      .add_option("--recipe", recipe,
                  "fast; paper: as published, 150 epochs; auto: fast (on a GPU, for many small images: gpu), "
                  "sized for this machine and these images")
      ->check(CLI::IsMember({"auto", "fast", "paper"}))
      ->capture_default_str();
  command.add_option("--epoch", epoch, "how often the images are seen")->check(CLI::Range(1, 1'000'000));
  command.add_option("--batch_size", batch_size, "images a step, 2 or more")
      ->check(CLI::Range(1, 1'000'000))
      ->check([](const std::string& text) {
        return text == "1" ? std::string(
                                 "must be 2 or more, got 1: batch normalisation learns nothing from a "
                                 "batch of one image")
                           : std::string();
      });
  command.add_option("--lr", lr, "learning rate")->check(number(0, /*above=*/true));
  command.add_option("--optim", optim, "SGD, Adam or Muon")->check(CLI::IsMember({"SGD", "Adam", "Muon"}));
  command
      .add_option(
          "--precision", precision,
          "what convolutions and matrix products are computed in while it trains: float32, bfloat16, "
          "or automatic, which is bfloat16 where the device has instructions for it; left out: as the "
          "recipe has it")
      ->check(CLI::IsMember({"float32", "bfloat16", "automatic"}));
  command.add_option("--decay", decay, "factor of the learning rate at the recipe's milestones")
      ->check(number(0, /*above=*/true));
  if (is_defense) {
    command.add_option("--sup", sup, "weight of the SupCon loss; 0 leaves it out")->check(number(0));
  }
  command.add_option("--seed", seed, "of the weights, the permutation and the order of images")
      ->check([](const std::string& text) {
        return text.starts_with('-') ? "seed " + text + " is below 0; say 0 or more" : std::string();
      })
      ->capture_default_str();
}

Recipe TrainingOptions::defense(std::int64_t images, const ImageShape& shape) const {
  const bool by_gpu = recipe == "auto" && suit_a_gpu(images, shape);
  Recipe how = by_gpu ? recipes::gpu : recipe == "paper" ? recipes::paper : recipes::fast;
  if (recipe == "auto") {
    how.optimization.epochs =
        sized_epochs(epoch, images, shape, {.by_gpu = by_gpu ? 650'000 : 600'000, .by_cpu = 250'000});
    how.augmentation = sized_augmentation(shape, how.optimization.epochs, /*labels=*/false);
    // Few images and their mixed answers are learnt by heart; the victim's own answers to the mixtures are
    // new at each step. Not about crops: to some victims they look like their trigger (docs/recipes.md).
    const bool crops = how.augmentation.resized_crop_min_scale < 1 || how.augmentation.crop_padding > 0;
    if (how.optimization.epochs > 50 && !crops) how.teacher = TeacherInput::augmented;
  }
  override_with(*this, how.optimization);
  if (sup >= 0) how.supcon_weight = sup;
  how.seed = seed;
  how.validate();
  return how;
}

ClassifierRecipe TrainingOptions::victim(const std::string& network, std::int64_t images,
                                         const ImageShape& shape) const {
  ClassifierRecipe how =
      recipe == "paper" ? recipes::paper_classifier_of(network) : recipes::fast_classifier_of(network);
  if (recipe == "auto") {
    how.optimization.epochs = sized_epochs(epoch, images, shape, {.by_gpu = 750'000, .by_cpu = 100'000});
    how.augmentation = sized_augmentation(shape, how.optimization.epochs, /*labels=*/true);
  }
  override_with(*this, how.optimization);
  how.seed = seed;
  how.validate();
  return how;
}

Trained run_fit(AnyPipeline& defense, const at::Tensor& images, const Recipe& recipe,
                const std::filesystem::path& log) {
  JsonLines lines = fresh_log(log);
  History history;
  fit(defense, images, recipe, ProgressBar{}, lines, history);
  for (const at::Tensor& weight :
       defense.transform().module->parameters()) {  // the last step may have done it
    if (weight.isfinite().all().item<bool>()) continue;
    throw Error("training the defense diverged in its last step; lower --lr");
  }
  return result_of(history, "defense: agreement with the victim");
}

Trained run_train(backbones::AnyBackbone& victim, const data::TrainingSet& dataset,
                  const ClassifierRecipe& recipe, const std::filesystem::path& log) {
  JsonLines lines = fresh_log(log);
  History history;
  victim = train_classifier(victim, dataset, recipe, ProgressBar{}, lines, history);
  return result_of(history, "victim: training accuracy");
}

}  // namespace refine::cli
