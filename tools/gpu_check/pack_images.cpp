// pack_images DATA OUT: writes CIFAR-10 as one safetensors file, for machines without image
// libraries.

#include <exception>
#include <iostream>

#include <refine/core/error.hpp>
#include <refine/data/sources.hpp>
#include <refine/formats/safetensors.hpp>

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: pack_images <folder of CIFAR-10> <file to write>\n";
    return refine::Error::exit_status;
  }
  try {
    const auto split = refine::data::cifar10(argv[1]);
    refine::formats::write_safetensors(argv[2], {.tensors = {{"train.images", split.train.images},
                                                             {"train.labels", split.train.labels},
                                                             {"test.images", split.test.images},
                                                             {"test.labels", split.test.labels}}});
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << '\n';
    return refine::Error::exit_status;
  }
  return 0;
}
