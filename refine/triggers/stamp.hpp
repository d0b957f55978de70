#pragma once

#include <ATen/ops/cat.h>

#include <vector>

#include <refine/data/dataset.hpp>
#include <refine/data/pixels.hpp>
#include <refine/triggers/trigger_policy.hpp>

namespace refine::triggers {

/// uint8 N×C×H×W → uint8 N×C×H×W, each image with the trigger on it, rounded to the bytes that a file would
/// hold. Training and evaluation both stamp through here, so both see the same images.
template <TriggerPolicy T>
at::Tensor stamp(const T& trigger, const at::Tensor& images) {
  require_agreement(misfit(trigger.image, data::image_of(images)));
  std::vector<at::Tensor> parts;
  for (const at::Tensor& part : images.split(1024)) {  // bounds the memory that float images take
    parts.push_back(data::to_bytes(trigger.apply(data::to_float(part, part.device()))));
  }
  return parts.empty() ? images.clone() : at::cat(parts);
}

}  // namespace refine::triggers
