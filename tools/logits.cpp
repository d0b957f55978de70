// Writes the logits of a program (TorchScript, torch.export or ONNX) in the form that a defense uses:
// read, rewritten and frozen. tools/operator_survey.py, tools/exported_program_survey.py and
// tools/onnx_check.py compare them with PyTorch's.
//
//     logits MODEL CHANNELSxHEIGHTxWIDTH IMAGES LOGITS [GRADIENT]
//
// IMAGES and LOGITS are float32 numbers without a header, row by row. With GRADIENT, writes that of
// the sum of all squared logits with respect to the images, and prints how many milliseconds logits
// and gradient take, as the smallest of five times.

#include <ATen/TensorOperators.h>
#include <ATen/ops/from_blob.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <iostream>
#include <string>
#include <string_view>

#include <refine/backbones/any_backbone.hpp>
#include <refine/backbones/freeze.hpp>
#include <refine/core/error.hpp>
#include <refine/core/file.hpp>
#include <refine/core/task.hpp>
#include <refine/defend/load_classifier.hpp>
#include <refine/nn/device.hpp>
#include <refine/programs/exported_program.hpp>
#include <refine/programs/onnx.hpp>
#include <refine/programs/torchscript.hpp>

namespace {

using namespace refine;

backbones::AnyBackbone load(const std::string& model, const ImageShape& shape) {
  const Task task{shape, dynamic};
  if (std::string_view(model).ends_with(".pt2")) {
    return backbones::AnyBackbone(backbones::ExportedProgram<>(model, {.task = task}));
  }
  if (std::string_view(model).ends_with(".onnx")) {
    return backbones::AnyBackbone(backbones::OnnxModel<>(model, {.task = task}));
  }
  return backbones::AnyBackbone(backbones::Scripted<>(model, {.task = task}));
}

void write(const std::string& to, const at::Tensor& tensor) {
  const at::Tensor numbers = tensor.detach().to(at::kFloat).contiguous();
  files::write(to, {static_cast<const char*>(numbers.const_data_ptr()), numbers.nbytes()});
}

void run(const std::string& model, const ImageShape& shape, const std::string& from, const std::string& to,
         const std::string& gradient) {
  use_threads(1);
  const auto victim = freeze(load(model, shape));
  std::string bytes = files::read(from);
  const std::size_t row = sizeof(float) * static_cast<std::size_t>(shape.channels) *
                          static_cast<std::size_t>(shape.height) * static_cast<std::size_t>(shape.width);
  if (bytes.empty() || bytes.size() % row != 0) {
    throw Error("cannot use {}: it must hold float32 images of {} bytes each, got {} bytes", from, row,
                bytes.size());
  }
  const auto n = static_cast<std::int64_t>(bytes.size() / row);
  const at::Tensor images =
      at::from_blob(bytes.data(), {n, shape.channels, shape.height, shape.width}, at::kFloat)
          .contiguous(at::MemoryFormat::ChannelsLast);
  if (gradient.empty()) {
    const c10::NoGradGuard no_grad;
    write(to, victim.forward(images));
    return;
  }
  using Clock = std::chrono::steady_clock;
  double best = 1e9;
  for (int i = 0; i < 5; ++i) {
    const at::Tensor x = images.detach().requires_grad_();
    const auto start = Clock::now();
    const at::Tensor logits = victim.forward(x);
    logits.square().sum().backward();
    best = std::min(best, std::chrono::duration<double, std::milli>(Clock::now() - start).count());
    if (i == 0) {
      write(to, logits);
      write(gradient, x.grad());
    }
  }
  std::cout << best << '\n';
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 5 && count != 6) {
    std::cerr << "usage: logits MODEL CHANNELSxHEIGHTxWIDTH IMAGES LOGITS [GRADIENT]\n";
    return 2;
  }
  try {
    run(arguments[1], parse_shape(arguments[2]), arguments[3], arguments[4], count == 6 ? arguments[5] : "");
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << '\n';
    return 2;
  }
}
