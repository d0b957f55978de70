// Serves an exported defense: prints a class and an alarm score for each image of a folder.
//
//     bazel run //examples:serve_defended -- defended.pt photos/

#include <torch/csrc/jit/serialization/import.h>

#include <c10/core/GradMode.h>
#include <exception>
#include <iostream>
#include <nlohmann/json.hpp>

#include <refine/data/dataset.hpp>
#include <refine/data/image_files.hpp>

int main(int argc, char** argv) try {
  using namespace refine;
  if (argc != 3) throw Error("usage: serve_defended defended.pt folder");
  torch::jit::ExtraFilesMap about{{"refine.json", ""}};
  torch::jit::Module model =
      torch::jit::load(argv[1], at::kCPU, about);  // LibTorch only: the file needs no code of this library
  const auto json = nlohmann::json::parse(about.at("refine.json"));
  const ImageShape shape{json["image"][0], json["image"][1], json["image"][2]};

  c10::NoGradGuard no_grad;
  for (const auto& file : data::image_files(argv[2])) {
    const auto image =
        data::load_images({file}, {.image = shape, .resize_mode = data::ResizeMode::crop}).images;
    const at::Tensor x = data::to_float(image, at::kCPU);
    const auto cls = model.forward({x}).toTensor().argmax(1).item<std::int64_t>();
    const auto alarm = model.get_method("alarm")({x}).toTensor().item<double>();
    std::cout << file.string() << '\t' << cls << '\t' << alarm << '\n';
  }
} catch (const std::exception& error) {
  std::cerr << "error: " << error.what() << '\n';
  return 2;
}
