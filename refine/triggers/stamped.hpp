#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <unordered_map>
#include <utility>

#include <refine/core/error.hpp>
#include <refine/core/task.hpp>
#include <refine/data/dataset.hpp>
#include <refine/triggers/trigger.hpp>

namespace refine::triggers {

/// Replaces images by copies that another program has stamped, as of attacks whose trigger is a
/// network and differs from image to image (ISSBA; Li et al., 2021, `li2021issba`).
///
///     const data::Split clean = data::image_folders("clean"), stamped = data::image_folders("stamped");
///     const triggers::Stamped trigger(at::cat({clean.train.images, clean.test.images}),
///                                     at::cat({stamped.train.images, stamped.test.images}));
///     const attacks::DirtyLabel<triggers::Stamped> attack{.trigger = trigger, .target = 3};
class Stamped {
 public:
  ImageShape image = {};  ///< shape of the images

  /// Holds no images and refuses all.
  Stamped() = default;

  /// Holds pairs of images. The tensors are shared, not copied.
  ///
  /// \param clean uint8 N×C×H×W: every image that the trigger is put on, of training and of test. Of
  ///   equal images, the first counts.
  /// \param stamped uint8 N×C×H×W: the same images with the trigger, in the same order
  /// \throws Error if types or shapes differ
  Stamped(const at::Tensor& clean, const at::Tensor& stamped) {
    data::check_images("Stamped: clean images", {}, clean);
    data::check_images("Stamped: stamped images", data::image_shape_of(clean), stamped);
    if (clean.size(0) != stamped.size(0)) {
      throw Error(
          "Stamped: wrong number of stamped images (got {}, expected {}); give one for each clean image",
          stamped.size(0), clean.size(0));
    }
    image = data::image_shape_of(clean);
    pairs_ = std::make_shared<const Pairs>(clean.contiguous(), stamped.contiguous());
  }

  /// Returns the stamped copies.
  ///
  /// \param images float N×C×H×W in [0, 1], each equal to a clean image after rounding to bytes
  /// \throws Error if an image is not one of the clean images
  at::Tensor apply(const at::Tensor& images) const {
    const at::Tensor bytes = data::to_bytes(images).to(at::kCPU).contiguous();
    at::Tensor copies = at::empty(bytes.sizes(), bytes.options());
    for (std::int64_t i = 0; i < bytes.size(0); ++i) {
      const std::int64_t position = pairs_ ? pairs_->find(bytes[i]) : -1;
      if (position < 0) {
        throw Error(
            "Stamped: an image has no stamped copy (image {} of {}); give all images of training and test, unchanged",
            i, bytes.size(0));
      }
      copies[i].copy_(pairs_->stamped[position]);
    }
    return data::to_float(copies, images.device());
  }

 private:
  struct Pairs {
    at::Tensor clean, stamped;
    std::unordered_multimap<std::uint64_t, std::int64_t> positions;  // by the hash of the clean image

    Pairs(at::Tensor from, at::Tensor to) : clean(std::move(from)), stamped(std::move(to)) {
      for (std::int64_t i = 0; i < clean.size(0); ++i) positions.emplace(hash(clean[i]), i);
    }

    /// Returns the first position of an image; -1 if there is no such image.
    std::int64_t find(const at::Tensor& one) const {
      std::int64_t first = -1;
      const auto size = static_cast<std::size_t>(one.numel());
      const auto [begin, end] = positions.equal_range(hash(one));
      for (auto it = begin; it != end; ++it) {
        const auto position = it->second;
        if ((first < 0 || position < first) && std::memcmp(clean[position].const_data_ptr<std::uint8_t>(),
                                                           one.const_data_ptr<std::uint8_t>(), size) == 0)
          first = position;
      }
      return first;
    }

    /// Hashes the bytes of a contiguous image (FNV-1a).
    static std::uint64_t hash(const at::Tensor& one) {
      const auto* byte = one.const_data_ptr<std::uint8_t>();
      std::uint64_t value = 0xcbf29ce484222325u;
      for (std::int64_t i = 0; i < one.numel(); ++i) value = (value ^ byte[i]) * 0x100000001b3u;
      return value;
    }
  };

  std::shared_ptr<const Pairs> pairs_;
};

static_assert(Trigger<Stamped>);

}  // namespace refine::triggers
