// Serves an exported defense with LibTorch: prints a class, an alarm score and whether that raises the alarm for each
// image of a folder. The model needs no code of this library, which only decodes the images here.
//
//     bazel run //examples:serve_defended -- defended.pt photos/

#include <torch/csrc/jit/serialization/import.h>

#include <c10/core/GradMode.h>
#include <exception>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>

#include <refine/data/dataset.hpp>
#include <refine/data/image_files.hpp>

namespace {

/// What happened to images of another size when the defense was fitted, as `refine.json` has it.
refine::data::ResizeMode resize_mode_of(const nlohmann::json& preprocessing) {
  using refine::data::ResizeMode;
  const std::string fit = preprocessing.at("fit");
  if (fit == "stretch") return ResizeMode::stretch;
  if (fit == "exact") return ResizeMode::exact;
  return {ResizeMode::Kind::crop, preprocessing.value("resize", 0)};
}

}  // namespace

int main(int argc, char** argv) try {
  using namespace refine;
  if (argc != 3) throw Error("usage: serve_defended defended.pt folder");
  torch::jit::ExtraFilesMap files{{"refine.json", ""}};
  torch::jit::Module model = torch::jit::load(argv[1], at::kCPU, files);
  const auto about = nlohmann::json::parse(files.at("refine.json"));
  const auto& size = about.at("image");
  if (!about.contains("alarm")) throw Error("{} has no alarm; make it with refine defend", argv[1]);
  const data::ImageFilesOptions options{.image = {size.at(0), size.at(1), size.at(2)},
                                        .resize_mode = resize_mode_of(about.at("preprocessing"))};
  const double threshold = about.at("alarm").at("threshold");

  c10::NoGradGuard no_grad;
  for (const auto& file : data::image_files(argv[2])) {
    const at::Tensor x = data::to_float(data::load_images({file}, options).images);
    const auto cls = model.forward({x}).toTensor().argmax(1).item<std::int64_t>();
    const auto alarm = model.get_method("alarm")({x}).toTensor().item<double>();
    std::cout << file.string() << '\t' << cls << '\t' << alarm << (alarm > threshold ? "\tALARM" : "")
              << '\n';
  }
} catch (const std::exception& error) {
  std::cerr << "error: " << error.what() << '\n';
  return 2;
}
