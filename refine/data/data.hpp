#pragma once

/// \namespace refine::data
///
/// Images, from files to the batches that a network trains on.
///
/// A source is a function that returns a `Split`: two `Dataset`s of uint8 images N×C×H×W, int64
/// labels and class names. `cifar10`, `fashion_mnist`, `image_folders` and `Synthetic` are sources;
/// images without labels come from `load_images`. A `Dataset`, or a tensor of images, is iterated
/// as a range of batches:
///
/// ```cpp
/// auto [train, test] = data::cifar10("data/CIFAR10");
/// std::uint64_t step = 0;  // counts over all epochs, so that each batch is augmented differently
/// for (int epoch = 0; epoch < epochs; ++epoch) {
///   for (const data::Batch& batch :
///        train | data::views::shuffled(seed, epoch) | data::views::batches(64)) {
///     const at::Tensor images = data::augment(data::to_float(batch.images), {.flip = true},
///                                             derived_seed(seed, "augmentation", step++));
///   }
/// }
/// ```
///
/// This header exports the module's public headers, except `<refine/data/download.hpp>`: only a
/// program that downloads needs an HTTP client.

#include <refine/data/augmentation.hpp>
#include <refine/data/batches.hpp>
#include <refine/data/dataset.hpp>
#include <refine/data/image_files.hpp>
#include <refine/data/image_folder.hpp>
#include <refine/data/near_duplicates.hpp>
#include <refine/data/resize.hpp>
#include <refine/data/sources.hpp>
#include <refine/data/training_set.hpp>
