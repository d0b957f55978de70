#pragma once

#include <ATen/core/Tensor.h>

#include <refine/core/error.hpp>
#include <refine/data/augmentation.hpp>
#include <refine/data/dataset.hpp>

namespace refine::data {

/// Images to learn from, and what their maker asks training to do with them besides what the recipe says.
/// `select` and its kin give the images without it.
struct TrainingSet : Dataset {
  Augmentation augmentation = {};  ///< comes after the recipe's own, by draws of its own
  at::Tensor exempt = {};          ///< bool, N: the images that it leaves alone; undefined: none

  /// \throws Error when the fields do not fit together
  void validate() const {
    Dataset::validate();
    augmentation.validate();
    if (augmentation.mix > 0) {
      throw Error("bad training set: its augmentation's mix is {}; mixed images have no label, set 0",
                  augmentation.mix);
    }
    if (exempt.defined() &&
        (exempt.scalar_type() != at::kBool || exempt.dim() != 1 || exempt.size(0) != size())) {
      throw Error("bad training set: exempt is not one bool an image; give {} of them, or none", size());
    }
  }
};

}  // namespace refine::data
