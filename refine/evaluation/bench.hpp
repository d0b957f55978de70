#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include <refine/backbones/backbone.hpp>
#include <refine/core/task.hpp>
#include <refine/metrics/quantile.hpp>
#include <refine/nn/device.hpp>
#include <refine/pipeline/gated.hpp>
#include <refine/pipeline/pipeline.hpp>

namespace refine {

/// How `bench` measures.
struct BenchOptions {
  int batch_size = 32;  ///< images of the larger batch, at least 1; a single image is measured, too
  /// About how long to measure, shared by the sizes of batches. Each takes 5 rounds at least, so
  /// that slow networks take longer.
  double seconds = 10;
  bool show = false;  ///< show progress on standard error
};

/// What the answer to one batch costs.
struct BatchCost {
  int images = 1;                   ///< in the batch
  metrics::Quartiles seconds = {};  ///< from images on the device to logits on the host
  /// Time divided by that of the first answer in the same round.
  metrics::Quartiles ratio = {};
  /// Largest number of bytes that the tensors of the batch take at a time on the device, images
  /// included. Weights, and buffers inside convolution libraries, are not counted.
  std::int64_t memory = 0;

  /// Returns the number of images a second, at the median.
  double images_per_second() const { return images / seconds.median; }
};

/// What the answers of one classifier cost.
struct AnswerCost {
  std::string answer;  ///< name: "victim", "defended" or "gated"
  /// Multiplications with addition for one image, in convolutions, matrix products and attention,
  /// as these are defined: whichever algorithm computes them.
  std::int64_t multiply_adds = 0;
  std::vector<BatchCost> batches = {};  ///< of one image, and of `BenchOptions::batch_size`
};

/// A function of images whose cost is measured.
struct BenchAnswer {
  std::string name;                                     ///< in the result
  std::function<at::Tensor(const at::Tensor&)> logits;  ///< float N×C×H×W in [0, 1] on the device → logits
};

/// Measures what answers cost: time, memory and multiply-adds. Each round asks all of them in turn
/// (A B A B), so that whatever else slows the machine down slows all of them. Images are random.
///
///     for (const AnswerCost& cost : bench(defense, alarm.threshold))
///       std::cout << cost.answer << ' ' << cost.batches[0].seconds.median << " s\n";
///
/// \param answers what is measured; ratios are to the first one
/// \param image shape of the images, with all extents known
/// \param device where `answers` compute
/// \param options how it is measured
/// \return one entry for each answer
/// \throws Error if an option is out of range, the shape is not known, an answer fails, or memory
///   is too short for a batch
std::vector<AnswerCost> bench(const std::vector<BenchAnswer>& answers, const ImageShape& image,
                              at::Device device, const BenchOptions& options = {});

/// Measures a defended classifier: "victim", "defended" and, with a threshold, "gated".
/// \param defense not gated; stays on its device
/// \param alarm_threshold of the gated answer, in [0, 1]; nothing: it is not measured
/// \param options how it is measured
template <DefendedClassifier D>
std::vector<AnswerCost> bench(const D& defense, std::optional<double> alarm_threshold = std::nullopt,
                              const BenchOptions& options = {}) {
  std::vector<BenchAnswer> answers = {
      {"victim", [&](const at::Tensor& images) { return defense.undefended(images); }},
      {"defended", [&](const at::Tensor& images) { return defense.forward(images); }}};
  if (alarm_threshold) {
    answers.push_back({"gated", [gated = Gated<D>(defense, *alarm_threshold)](const at::Tensor& images) {
                         return gated.forward(images);
                       }});
  }
  return bench(answers, Task(defense.task()).image, defense.device(), options);
}

/// Measures a classifier alone: "victim".
/// \param victim frozen, as it is served; stays on its device
/// \param options how it is measured
template <backbones::FrozenBackbone B>
AnswerCost bench(const B& victim, const BenchOptions& options = {}) {
  return bench({{"victim", [&](const at::Tensor& images) { return victim.forward(images); }}},
               Task(victim.task).image, nn::device_of(*victim.module).value_or(at::kCPU), options)
      .front();
}

}  // namespace refine

#if !defined(REFINE_COMPILED_LIB)
#include <refine/evaluation/impl/bench.ipp>
#endif
