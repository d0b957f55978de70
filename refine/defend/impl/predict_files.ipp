#pragma once

#include <refine/defend/predict_files.hpp>

#include <ATen/ops/softmax.h>

#include <algorithm>
#include <cstdint>

#include <refine/core/config.hpp>
#include <refine/core/error.hpp>
#include <refine/data/image_files.hpp>
#include <refine/evaluation/classify.hpp>

namespace refine {

REFINE_INLINE std::size_t predict_files(const ExportedClassifier& model,
                                        const std::vector<std::filesystem::path>& files,
                                        data::ResizeMode resize,
                                        const std::function<void(const FilePrediction&)>& receive) {
  constexpr std::size_t chunk = 256;
  std::size_t skipped = 0;
  for (std::size_t begin = 0; begin < files.size(); begin += chunk) {
    const std::vector<std::filesystem::path> some(
        files.begin() + static_cast<std::ptrdiff_t>(begin),
        files.begin() + static_cast<std::ptrdiff_t>(std::min(begin + chunk, files.size())));
    data::LoadedImages loaded;
    try {
      loaded = data::load_images(
          some, {.image = model.task().image, .fit = resize, .on_error = data::OnDecodeError::skip});
    } catch (const Error& error) {  // none of them can be used
      if (files.size() == 1) throw;
      data::warn_skipped({error.what()});
      skipped += some.size();
      continue;
    }
    data::warn_skipped(loaded.skipped);
    skipped += loaded.skipped.size();
    const auto run = [&](auto&& call) {
      return map_batches(call, loaded.images, model.device(), [](std::int64_t) {});
    };
    const at::Tensor probabilities =
        run([&](const at::Tensor& x) { return at::softmax(model.forward(x), 1); });
    const auto [p, c] = probabilities.max(1);
    const at::Tensor alarm = run([&](const at::Tensor& x) { return model.alarm(x); });
    for (std::size_t i = 0; i < loaded.files.size(); ++i) {
      const auto row = static_cast<std::int64_t>(i);
      receive({loaded.files[i], static_cast<int>(c[row].item<std::int64_t>()), p[row].item<double>(),
               alarm[row].item<double>()});
    }
  }
  return skipped;
}

}  // namespace refine
