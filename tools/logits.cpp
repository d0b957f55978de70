// Writes the logits of a TorchScript classifier in the form that a defense uses: read, rewritten and
// frozen. tools/operator_survey.py compares them with PyTorch's.
//
//     logits MODEL CHANNELSxHEIGHTxWIDTH IMAGES LOGITS
//
// IMAGES and LOGITS are float32 numbers without a header, row by row.

#include <ATen/ops/from_blob.h>
#include <c10/core/GradMode.h>

#include <cstddef>
#include <cstdint>
#include <exception>
#include <iostream>
#include <string>

#include <refine/backbones/freeze.hpp>
#include <refine/core/error.hpp>
#include <refine/core/file.hpp>
#include <refine/core/task.hpp>
#include <refine/defend/load_classifier.hpp>
#include <refine/nn/device.hpp>
#include <refine/programs/torchscript.hpp>

namespace {

using namespace refine;

void run(const std::string& model, const ImageShape& shape, const std::string& from, const std::string& to) {
  use_threads(1);
  const backbones::Scripted<> network(model, {.task = {shape, dynamic}});
  const auto victim = freeze(network);
  std::string bytes = files::read(from);
  const std::size_t row = sizeof(float) * static_cast<std::size_t>(shape.channels) *
                          static_cast<std::size_t>(shape.height) * static_cast<std::size_t>(shape.width);
  if (bytes.empty() || bytes.size() % row != 0) {
    throw Error("cannot use {}: it must hold float32 images of {} bytes each, got {} bytes", from, row,
                bytes.size());
  }
  const auto n = static_cast<std::int64_t>(bytes.size() / row);
  const c10::NoGradGuard no_grad;
  const at::Tensor images =
      at::from_blob(bytes.data(), {n, shape.channels, shape.height, shape.width}, at::kFloat);
  const at::Tensor logits =
      victim.forward(images.contiguous(at::MemoryFormat::ChannelsLast)).to(at::kFloat).contiguous();
  files::write(to, {static_cast<const char*>(logits.const_data_ptr()), logits.nbytes()});
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 5) {
    std::cerr << "usage: logits MODEL CHANNELSxHEIGHTxWIDTH IMAGES LOGITS\n";
    return 2;
  }
  try {
    run(arguments[1], parse_shape(arguments[2]), arguments[3], arguments[4]);
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << '\n';
    return 2;
  }
}
