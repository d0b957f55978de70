#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/one_hot.h>
#include <ATen/ops/zeros.h>

#include <cstdint>
#include <memory>
#include <vector>

#include <refine/pipeline/pipeline.hpp>

namespace refine::testing {

/// A defended classifier that is not a `Pipeline`. An image is two bytes: the victim's class is the
/// first, the defended model's the second. The alarm score is the first byte / 255.
struct TwoBytes {
  std::shared_ptr<std::int64_t> seen = std::make_shared<std::int64_t>(0);  ///< images that the victim saw

  Task task() const { return {ImageShape{1, 1, 2}, 3}; }
  at::Device device() const { return at::kCPU; }
  at::Tensor undefended(const at::Tensor& images) const {
    *seen += images.size(0);
    return one_hot_byte(images, 0);
  }
  at::Tensor forward(const at::Tensor& images) const { return one_hot_byte(images, 1); }
  at::Tensor transformed(const at::Tensor& images) const { return images; }
  at::Tensor alarm(const at::Tensor& images) const { return images.select(3, 0).flatten(); }

 private:
  static at::Tensor one_hot_byte(const at::Tensor& images, std::int64_t byte) {
    return at::one_hot((images * 255).round().to(at::kLong).select(3, byte).flatten(), 3).to(at::kFloat);
  }
};
static_assert(DefendedClassifier<TwoBytes>);

/// Returns images uint8 N×1×1×2 with these bytes.
inline at::Tensor two_bytes(const std::vector<int>& first, const std::vector<int>& second) {
  at::Tensor images = at::zeros({static_cast<std::int64_t>(first.size()), 1, 1, 2}, at::kByte);
  for (std::size_t i = 0; i < first.size(); ++i) {
    images[static_cast<std::int64_t>(i)][0][0][0] = first[i];
    images[static_cast<std::int64_t>(i)][0][0][1] = second[i];
  }
  return images;
}

}  // namespace refine::testing
