#pragma once

#include <refine/defend/train_victim.hpp>

#include <fmt/core.h>

#include <nlohmann/json.hpp>
#include <utility>

#include <refine/backbones/freeze.hpp>
#include <refine/backbones/zoo.hpp>
#include <refine/core/config.hpp>
#include <refine/core/error.hpp>
#include <refine/defend/detail/result_json.hpp>
#include <refine/export/torchscript.hpp>
#include <refine/export/weights.hpp>
#include <refine/nn/device.hpp>
#include <refine/training/recipe_json.hpp>
#include <refine/training/train_classifier.hpp>

namespace refine {

REFINE_INLINE TrainedVictim detail::train_victim(const data::TrainingSet& images,
                                                 const VictimTraining& options, AnyObserver& observer) {
  const std::string network(backbones::canonical_network_name(options.network));
  const int usual =
      default_device().is_cuda() ? backbones::published_width(network) : backbones::narrow_width(network);
  const int width = options.width > 0 ? options.width : usual;
  const Task task = images.task();
  backbones::AnyBackbone victim(backbones::Normalized{
      backbones::network_by_name(network, {.task = task, .width = width, .seed = options.seed}),
      options.normalization});
  const ClassifierRecipe recipe =
      victim_recipe(options.training, network, images.size(), task.image, options.seed);
  History history;
  victim = train_classifier(victim, images, recipe, observer, history);
  return {.backbone = std::move(victim),
          .network = network,
          .width = width,
          .recipe = recipe,
          .classes = images.classes,
          .seconds = history.seconds(),
          .resize = options.resize};
}

REFINE_INLINE void TrainedVictim::save(const std::filesystem::path& folder) const {
  refine::save(backbone, folder / "victim.safetensors",
               {{"network", network},
                {"width", std::to_string(width)},
                {"image", fmt::format("{}", backbone.task.image)},
                {"class_names", detail::json_line(classes)},
                {"preprocessing", detail::json_of(resize).dump()},
                {"recipe", detail::recipe_text(recipe)}});
  export_torchscript(freeze(backbone), folder / "victim.pt",
                     {{"class_names", classes}, {"preprocessing", detail::json_of(resize)}});
}

}  // namespace refine
