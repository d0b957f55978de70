// The whole library from another project: trains a small pipeline for a moment, exports it and reads it back.
//
//     pipeline FILE   writes and removes FILE

#include <ATen/ops/allclose.h>
#include <ATen/ops/randint.h>
#include <c10/core/GradMode.h>

#include <exception>
#include <filesystem>
#include <iostream>

#include <refine/refine.hpp>

int main(int argc, char** argv) try {
  using namespace refine;
  if (argc != 2) throw Error("usage: pipeline FILE");
  constexpr Task task = tasks::cifar10;
  const at::Tensor images = at::randint(256, {64, 3, 32, 32}, at::kByte);

  auto defense = Pipeline{transforms::UNet<task>{.levels = 2, .width = 4},
                          freeze(backbones::ResNet18<task>{.width = 4}), remaps::Derangement<task>{}};
  Recipe recipe = recipes::fast;
  recipe.optimization.epochs = 1;
  fit(defense, images, recipe);
  export_torchscript(defense, argv[1]);

  const c10::NoGradGuard no_grad;
  const at::Tensor x = data::to_float(images, at::kCPU);
  const bool same = at::allclose(ExportedClassifier(argv[1]).forward(x), defense.forward(x), 1e-4, 1e-4);
  std::filesystem::remove(argv[1]);
  if (!same) throw Error("{}: answers differently from the pipeline", argv[1]);
  std::cout << "refine " << version << ": the exported pipeline answers as the pipeline\n";
} catch (const std::exception& error) {
  std::cerr << "error: " << error.what() << '\n';
  return 2;
}
