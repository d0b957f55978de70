#pragma once

#include <CLI/CLI.hpp>

#include <cstdint>
#include <filesystem>
#include <string>

#include <refine/backbones/any_backbone.hpp>
#include <refine/data/dataset.hpp>
#include <refine/data/training_set.hpp>
#include <refine/pipeline/any_pipeline.hpp>
#include <refine/report/detail/curve.hpp>
#include <refine/training/recipe.hpp>

namespace refine::cli {

/// How a network is trained, as flags: each one that is given replaces the recipe's own.
struct TrainingOptions {
  std::string recipe = "auto";
  int epoch = 0;
  int batch_size = 0;
  double lr = 0;
  std::string optim, precision;
  double decay = 0;
  double sup = -1;
  std::uint64_t seed = default_seed;

  /// \param defense whether it is the transform that is trained, which has a SupCon term
  void add_to(CLI::App& command, bool defense);

  /// \param images how many there are to train on, and `shape` theirs
  Recipe defense(std::int64_t images, const ImageShape& shape) const;
  ClassifierRecipe victim(const std::string& network, std::int64_t images, const ImageShape& shape) const;
};

/// What a training came to.
struct Trained {
  report::Curve curve;
  double seconds;
};

/// Trains the transform; the one place where the command line instantiates `fit`. \param log JSON Lines
Trained run_fit(AnyPipeline& defense, const at::Tensor& images, const Recipe& recipe,
                const std::filesystem::path& log);

/// Likewise `train_classifier`.
Trained run_train(backbones::AnyBackbone& victim, const data::TrainingSet& dataset,
                  const ClassifierRecipe& recipe, const std::filesystem::path& log);

}  // namespace refine::cli
