#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <span>
#include <vector>

namespace refine::data {

/// Finds images that nearly repeat each other, such as the frames of a video, crops of one photograph, or
/// copies. Images that a network is tested on must not be near-duplicates of those that it is trained on:
/// it would look better than it is.
///
///     NearDuplicates duplicates(images);
///     for (const std::int64_t i : duplicates.group_of(17, 100)) std::cout << i << '\n';
///
/// Images are compared as 8×8 pixels. An image repeats another one if their distance is less than
/// `ratio` of the distance to its `rank`th nearest image: much less than a smooth distribution of images
/// has between neighbours. This has no absolute scale, so it holds for photographs, drawings and digits.
/// So that an image may be repeated more than `rank` times, the `rank`th nearest of a random half of the
/// images, of a quarter, and so on counts as well, with the ratio divided by √2 each time.
class NearDuplicates {
 public:
  static constexpr double ratio = 0.4;      ///< of the distances to a near-duplicate and to other images
  static constexpr std::int64_t rank = 50;  ///< of the neighbour that counts as another image

  /// \param images uint8 N×C×H×W; each is read once, and 64·C numbers of it are kept
  explicit NearDuplicates(const at::Tensor& images);

  /// Returns an image, the near-duplicates of it, those of them, and so on; the image is the first.
  /// \param image its position
  /// \param max_size the search ends there, 1 or more
  std::vector<std::int64_t> group_of(std::int64_t image, std::int64_t max_size);

  /// Looks for the near-duplicates of several images at once, which is faster than one at a time.
  void prepare(std::span<const std::int64_t> images);

 private:
  at::Tensor descriptors_, norms_;   // float N×D and N
  std::vector<at::Tensor> samples_;  // places of random parts of the images: a half, a quarter, …
  std::int64_t rank_;
  std::map<std::int64_t, std::vector<std::int64_t>> found_;  // nearest first; until `group_of` has used them
};

}  // namespace refine::data

#if !defined(REFINE_COMPILED_LIB)
#include <refine/data/impl/near_duplicates.ipp>
#endif
