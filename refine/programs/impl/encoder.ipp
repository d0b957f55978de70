#pragma once

#include <refine/programs/encoder.hpp>

#include <ATen/TensorOperators.h>
#include <c10/core/GradMode.h>
#include <c10/util/Exception.h>
#include <fmt/format.h>

#include <cstddef>
#include <exception>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <refine/core/error.hpp>
#include <refine/core/file.hpp>
#include <refine/formats/archive.hpp>
#include <refine/nn/device.hpp>
#include <refine/nn/module.hpp>
#include <refine/programs/detail/program_checks.hpp>

namespace refine::transforms::detail {

REFINE_INLINE ProgramEncoderModule::ProgramEncoderModule(std::variant<Scripted, Exported> program,
                                                         const std::optional<Normalization>& normalization,
                                                         int channels)
    : program_(std::move(program)) {
  std::visit([&](const auto& network) { register_module("program", network); }, program_);
  if (!normalization) return;
  refine::detail::check_normalization("ProgramEncoder", *normalization, channels,
                                      "give an encoder of grey images three equal means and deviations");
  using refine::detail::channel_tensor;
  mean_ = register_buffer("mean", channel_tensor(normalization->mean, channels));
  deviation_ = register_buffer("deviation", channel_tensor(normalization->deviation, channels));
}

REFINE_INLINE at::Tensor ProgramEncoderModule::run(const at::Tensor& images) {
  const at::Tensor x = mean_.defined() ? (images - mean_) / deviation_ : images;
  return std::visit([&](const auto& network) { return network->forward(x); }, program_);
}

REFINE_INLINE at::Tensor ProgramEncoderModule::forward(const at::Tensor& images) {
  const at::Tensor output = run(images);
  return output.dim() == 4 ? output.mean({2, 3}) : output;
}

REFINE_INLINE void ProgramEncoderModule::use_channels_last(bool yes) {
  std::visit([&](const auto& network) { network->use_channels_last(yes); }, program_);
}

/// True if a tensor is N×F features or N×F×h×w maps.
inline bool is_features(const at::Tensor& output, std::int64_t images) {
  return (output.dim() == 2 || output.dim() == 4) && output.size(0) == images && output.numel() > 0 &&
         output.is_floating_point();
}

/// Selects the features among the tensors that a program returns.
/// \param all have `name`
/// \param fits position → whether the tensor may be the features
/// \throws Error if it must be specified which one they are
template <typename Outputs>
std::size_t choose_features(const Outputs& all, const std::string& wanted, const std::string& name,
                            auto&& sizes, auto&& fits) {
  const auto list = [&](auto&& included) { return backbones::detail::list_outputs(all, sizes, included); };
  const auto every = [](std::size_t) { return true; };
  if (!wanted.empty()) return backbones::detail::find_output(all, wanted, name, list(every));
  std::vector<std::size_t> found;
  for (std::size_t i = 0; i < all.size(); ++i) {
    if (fits(i)) found.push_back(i);
  }
  if (found.size() == 1) return found.front();
  throw Error(
      "cannot use {} as an encoder: forward returns {} tensors of N×F features or N×F×h×w maps, expected one ({}); export a "
      "module that returns the features alone, or specify ProgramEncoderOptions::output",
      name, found.size(), list(every));
}

}  // namespace refine::transforms::detail

namespace refine::transforms {

REFINE_INLINE ProgramEncoder::ProgramEncoder(const std::filesystem::path& path,
                                             const ProgramEncoderOptions& options) {
  const std::string name = path.string();
  std::error_code unknown;
  if (!std::filesystem::is_regular_file(path, unknown)) {
    throw Error("cannot read {}: the file does not exist; check the path", name);
  }
  const auto refuse = [&](std::string_view why) {
    throw Error(
        "cannot use {} as an encoder: {}; export the network without its last layer, with torch.jit.trace or "
        "torch.export",
        name, why);
  };
  bool is_exported = false, is_torchscript = false;
  if (formats::is_archive(refine::detail::read_beginning(path, 4))) {
    const formats::Archive archive = formats::detail::list_archive(path);
    is_exported = formats::is_exported_program(archive);
    is_torchscript = formats::is_torchscript(archive);
  }
  if (!is_exported && !is_torchscript) refuse("it is not a program");
  try {
    is_exported ? load_exported_program(path, options) : load_torchscript(path, options);
  } catch (const c10::Error& error) {
    refuse(nn::describe_error(error));
  }
  probe(name);
}

REFINE_INLINE void ProgramEncoder::load_torchscript(const std::filesystem::path& path,
                                                    const ProgramEncoderOptions& options) {
  const std::string name = path.string();
  const auto program = std::make_shared<backbones::detail::ScriptedModule>(
      formats::load_torchscript(path, options.trust).module, name);
  image = merged(options.image, options.likely_image);
  if (!image.is_static()) {
    throw Error("cannot use {} as an encoder: the size of its images must be known (got {}); specify --see",
                name, image);
  }
  if (!options.output.empty() && !program->needs_selection()) {
    throw Error(
        "cannot use {} as an encoder: forward returns one tensor, and ProgramEncoderOptions::output is '{}'; leave it out",
        name, options.output);
  }
  if (program->needs_selection()) {
    constexpr std::int64_t n = 2;
    const c10::NoGradGuard no_grad;
    const auto all = program->outputs(backbones::detail::ramp(n, image));
    program->select_output(all[detail::choose_features(
        all, options.output, name, [](const auto& output) { return nn::sizes_text(output.value); },
        [&](std::size_t i) { return detail::is_features(all[i].value, n); })]);
  }
  module = std::make_shared<detail::ProgramEncoderModule>(program, options.normalization, image.channels);
}

REFINE_INLINE void ProgramEncoder::load_exported_program(const std::filesystem::path& path,
                                                         const ProgramEncoderOptions& options) {
  const std::string name = path.string();
  const auto program = std::make_shared<backbones::detail::ExportedModule>(
      formats::read_exported_program(path, options.trust), name);
  image = backbones::detail::image_shape(program->images(), options.image, options.likely_image,
                                         fmt::format("cannot use {} as an encoder", name), "--see");
  const auto& all = program->outputs();
  const auto sizes = [](const auto& output) { return backbones::detail::sizes_text(output.shape); };
  program->select_output(detail::choose_features(all, options.output, name, sizes, [&](std::size_t i) {
    const std::size_t dimensions = all[i].shape.sizes.size();
    return dimensions == 2 || dimensions == 4;
  }));
  program->use_batches_of(program->images().sizes[0].value_or(0));
  module = std::make_shared<detail::ProgramEncoderModule>(program, options.normalization, image.channels);
}

REFINE_INLINE void ProgramEncoder::probe(const std::string& name) {
  const c10::NoGradGuard no_grad;
  const at::Tensor images = backbones::detail::ramp(3, image);
  std::string why;
  for (const bool channels_last : {true, false}) {
    module->use_channels_last(channels_last);
    why.clear();
    try {
      at::Tensor all;
      for (const std::int64_t n : {3, 2, 1}) {
        const at::Tensor output = module->run(images.narrow(0, 0, n));
        if (!detail::is_features(output, n)) {
          why = fmt::format("its output for {} image(s) is {}, expected N×F features or N×F×h×w maps", n,
                            nn::sizes_text(output));
          break;
        }
        const at::Tensor rows = module->forward(images.narrow(0, 0, n));
        if (!all.defined()) all = rows;
        if (!rows.isfinite().all().item<bool>()) {
          why = "its features are not finite";
        } else if (!backbones::detail::have_same_rows(rows, all)) {
          why =
              "the features of an image depend on its batch or on chance, as in training mode; call eval() "
              "before exporting it";
        }
        if (!why.empty()) break;
      }
      if (why.empty()) {
        features = static_cast<int>(all.size(1));
        return;
      }
    } catch (const Error&) {
      throw;
    } catch (const std::exception& error) {
      why = nn::describe_error(error);
    }
  }
  throw Error(
      "cannot use {} as an encoder of images of {}: {}; export the network without its last layer, for any "
      "batch size, or specify --see with the size that it takes",
      name, image, why);
}

}  // namespace refine::transforms
