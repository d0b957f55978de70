#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/where.h>
#include <c10/core/Device.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <utility>

#include <refine/core/random.hpp>
#include <refine/data/augmentation.hpp>
#include <refine/data/batches.hpp>
#include <refine/data/dataset.hpp>
#include <refine/data/training_set.hpp>
#include <refine/distributed/exchange.hpp>
#include <refine/nn/device.hpp>
#include <refine/nn/transfer.hpp>
#include <refine/training/detail/ranks.hpp>
#include <refine/training/optimization.hpp>

// The images of each step of a training.
namespace refine::detail {

/// Augments batches: as the recipe says, then as the training set requires, except for the images
/// that it exempts. Images that must not be flipped get the recipe's other changes by the same
/// random numbers. Steps that are off cost nothing.
class BatchAugmentation {
 public:
  explicit BatchAugmentation(const data::Augmentation& recipe) : recipe_(recipe) {}

  BatchAugmentation(const data::Augmentation& recipe, const data::TrainingSet& set, at::Device device)
      : recipe_(recipe), required_(set.augmentation) {
    if (set.no_augment_mask.defined() && required_ != data::Augmentation{})
      no_augment_ = set.no_augment_mask.to(device);
    if (set.no_flip_mask.defined() && recipe.flip) no_flip_ = set.no_flip_mask.to(device);
  }

  /// Returns the augmented images of one step.
  /// \param images float N×C×H×W in [0, 1]
  /// \param indices int64 N: the position of each image in the training set, on the device of
  ///   `images`
  /// \param rows the place of the images in the batch of the step
  at::Tensor operator()(const at::Tensor& images, const at::Tensor& indices, std::uint64_t seed,
                        std::int64_t step, const data::BatchRows& rows) const {
    const auto select = [&](const at::Tensor& mask, const at::Tensor& yes, const at::Tensor& no) {
      return at::where(mask.index_select(0, indices).view({-1, 1, 1, 1}), yes, no);
    };
    const std::uint64_t recipe_seed = step_seed(seed, "augmentation", step);
    at::Tensor augmented = data::augment(images, recipe_, recipe_seed, rows);
    if (no_flip_.defined()) {
      data::Augmentation others = recipe_;
      others.flip = false;
      augmented = select(no_flip_, data::augment(images, others, recipe_seed, rows), augmented);
    }
    if (required_ == data::Augmentation{}) return augmented;
    const at::Tensor with_required =
        data::augment(augmented, required_, step_seed(seed, "asked augmentation", step), rows);
    return no_augment_.defined() ? select(no_augment_, augmented, with_required) : with_required;
  }

  /// Returns the augmented images of a whole batch.
  at::Tensor operator()(const at::Tensor& images, const at::Tensor& indices, std::uint64_t seed,
                        std::int64_t step) const {
    return (*this)(images, indices, seed, step, {.total = images.size(0)});
  }

  /// True if the result of an image depends on the one before it in the batch.
  bool has_mix() const { return recipe_.mix > 0; }

  /// Mixes rows that belong to the images of a step, float N×K, as the recipe mixes the images. (A
  /// training set requires no mixing.)
  at::Tensor mix_rows(const at::Tensor& rows, std::uint64_t seed, std::int64_t step) const {
    return data::mix_rows(rows, recipe_, step_seed(seed, "augmentation", step));
  }

 private:
  static std::uint64_t step_seed(std::uint64_t seed, const char* purpose, std::int64_t step) {
    return derived_seed(seed, purpose, static_cast<std::uint64_t>(step));
  }

  data::Augmentation recipe_, required_ = {};
  at::Tensor no_augment_, no_flip_;  ///< bool, one entry per image of the set; undefined: none
};

/// A rank's part of a batch.
struct BatchShare {
  std::int64_t first = 0, count = 0, total = 0;  ///< rows of the batch; total 0: there is one rank
  at::Tensor indices = {};                       ///< int64: as `Batch::indices`, of the whole batch
  /// Makes the rows of the whole batch, on every rank, from a rank's rows.
  std::function<at::Tensor(const at::Tensor&)> gather = {};

  bool is_part() const { return total > 0; }
};

/// The images of a step and their place in the run, on the module's device. With several ranks, those
/// of this rank.
struct Batch {
  at::Tensor images;   ///< float N×C×H×W in [0, 1], augmented, channels last; or features N×F, mixed
  at::Tensor plain;    ///< the same images without augmentation
  at::Tensor indices;  ///< int64 N: their positions in the training set
  std::int64_t step;   ///< from 0, over all epochs
  bool first_epoch;
  BatchShare share = {};  ///< with several ranks: what the tensors above are a part of
};

/// Returns the training images where batches are gathered from: on `device`, or on the host if they
/// need more than half of the device's free memory, since the network needs the rest. The batches
/// are the same.
inline at::Tensor place_images(const at::Tensor& bytes, at::Device device) {
  return bytes.nbytes() <= nn::free_memory(device) / 2 ? bytes.to(device) : bytes;
}

/// The batches of a training, step by step: those of one process, or a rank's part of them. What a step has
/// follows from the seed and the step.
template <distributed::Communicator Ranks>
class StepBatches {
 public:
  /// \param examples uint8 images N×C×H×W; or float features N×F, which are mixed and not otherwise changed
  /// \param augmentation must outlive this object, as `ranks` must
  /// \param device where the batches are returned
  StepBatches(const at::Tensor& examples, std::int64_t batch_size, const BatchAugmentation& augmentation,
              std::uint64_t seed, at::Device device, Ranks& ranks)
      : source_(place_images(examples, device)),
        images_(examples.size(0)),
        batch_size_(batch_size),
        steps_an_epoch_((examples | batched()).size()),
        are_features_(examples.dim() == 2),
        augmentation_(augmentation),
        seed_(seed),
        device_(device),
        ranks_(ranks) {}

  std::int64_t images() const { return images_; }
  std::int64_t steps_an_epoch() const { return steps_an_epoch_; }

  /// Returns how many images the first steps have, over all epochs. Only the last batch of an epoch has another
  /// size.
  std::int64_t images_of(std::int64_t steps) const {
    return steps / steps_an_epoch_ * images_ + steps % steps_an_epoch_ * batch_size_;
  }

  /// Sets the epoch, from 0, whose order of images the next batches have.
  void begin_epoch(int epoch) {
    order_ = source_ | data::views::shuffled(derived_seed(seed_, "order"), epoch);
    batches_ = order_ | batched();
  }

  /// Returns the batch of a step, over all epochs from 0. \pre `begin_epoch` was called for its epoch
  Batch at(std::int64_t step) const { return load(step, /*augmented=*/true); }

  /// Returns a batch whose images need not be augmented: only `Batch::plain` is used.
  Batch plain_at(std::int64_t step) const { return load(step, /*augmented=*/false); }

 private:
  // BatchNorm cannot learn from a single value per channel.
  auto batched() const { return data::views::batches(batch_size_, data::LastBatch::join_single); }

  Batch load(std::int64_t step, bool augmented) const {
    if constexpr (distributed::detail::is_distributed<Ranks>) {
      if (ranks_.size() > 1) return load_part(step);
    }
    const data::Batch batch = batches_[step % steps_an_epoch_];
    const at::Tensor indices = nn::to_device_async(batch.indices, device_);
    const at::Tensor rows = nn::to_device_async(batch.images, device_);
    const at::Tensor plain = are_features_ ? rows : data::to_float(rows, device_);
    Batch result{plain, plain, indices, step, step < steps_an_epoch_};
    if (!augmented) return result;
    result.images =
        are_features_ ? augmentation_.mix_rows(plain, seed_, step)
                      : augmentation_(plain, indices, seed_, step).contiguous(at::MemoryFormat::ChannelsLast);
    return result;
  }

  /// Reads only the rows of this rank and, where images are mixed, the one before them.
  Batch load_part(std::int64_t step) const {
    const std::int64_t in_epoch = step % steps_an_epoch_, begin_row = in_epoch * batch_size_,
                       end_row = in_epoch + 1 < steps_an_epoch_ ? begin_row + batch_size_ : images_,
                       total = end_row - begin_row;
    const auto own = distributed::rows_of_rank(total, ranks_.rank(), ranks_.size());
    const std::int64_t before = augmentation_.has_mix() ? 1 : 0;
    const at::Tensor positions =
        at::arange(own.first - before, own.first + own.count, at::kLong).remainder(total);
    const data::Batch rows = order_.select(positions + begin_row).gather(0, own.count + before);
    const auto drop = [&](const at::Tensor& all) { return all.narrow(0, before, own.count); };
    const at::Tensor indices = nn::to_device_async(rows.indices, device_);
    Batch batch{{}, {}, drop(indices), step, step < steps_an_epoch_};
    batch.share = {.first = own.first,
                   .count = own.count,
                   .total = total,
                   .indices = nn::to_device_async(order_.indices(begin_row, total), device_),
                   .gather = [&ranks = ranks_, own, total](const at::Tensor& part) {
                     return distributed::gather_rows(ranks, part, own, total);
                   }};
    if (are_features_) {
      batch.plain = drop(nn::to_device_async(rows.images, device_));
      batch.images = augmentation_.mix_rows(batch.share.gather(batch.plain), seed_, step)
                         .narrow(0, own.first, own.count);
      return batch;
    }
    const at::Tensor plain = data::to_float(nn::to_device_async(rows.images, device_), device_);
    batch.plain = drop(plain);
    batch.images = drop(augmentation_(plain, indices, seed_, step, {.total = total, .positions = positions}))
                       .contiguous(at::MemoryFormat::ChannelsLast);
    return batch;
  }

  at::Tensor source_;
  std::int64_t images_, batch_size_, steps_an_epoch_;
  bool are_features_;
  const BatchAugmentation& augmentation_;
  std::uint64_t seed_;
  at::Device device_;
  Ranks& ranks_;
  data::ExampleView order_ = {};
  data::BatchView batches_ = {};
};

}  // namespace refine::detail
