// Defends a classifier that you cannot trust, with a folder of clean images.
//
//     bazel run //examples:defend_a_model -- model.pt clean/ defended.pt

#include <exception>
#include <iostream>

#include <refine/core/text.hpp>
#include <refine/data/image_files.hpp>
#include <refine/defend/defend.hpp>
#include <refine/report/render.hpp>

int main(int argc, char** argv) try {
  using namespace refine;
  if (argc != 4) throw Error("usage: defend_a_model model.pt clean/ defended.pt");
  const Notify notify = [](const Notice& notice) { std::cerr << text::printable(notice.text) << '\n'; };
  const ImageShape size = data::common_shape(data::image_files(argv[2]));
  // A model that does not normalise its images needs .normalization = normalizations::imagenet, or its own.
  const LoadedClassifier victim = load_classifier(argv[1], {.images = size, .notify = notify});
  const FolderImages clean = read_folder_images(argv[2], victim.task().image);

  const Defended defended =
      defend(victim, clean.images, {.training = {.epochs = 10}, .notify = notify}, ProgressBar{});
  std::cout << defended.report;
  defended.save(argv[3]);
} catch (const std::exception& error) {
  std::cerr << "error: " << error.what() << '\n';
  return 2;
}
