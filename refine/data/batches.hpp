#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/tensor.h>

#include <cstddef>
#include <cstdint>
#include <utility>

#include <range/v3/view/facade.hpp>

#include <refine/core/error.hpp>
#include <refine/core/random.hpp>
#include <refine/data/dataset.hpp>
#include <refine/nn/transfer.hpp>

namespace refine::data {

/// One image of a source, as `ExampleView` yields it.
struct Example {
  std::int64_t index;  ///< position in the source, from 0
  at::Tensor image;    ///< C×H×W, a view of the source's pixels
  at::Tensor label;    ///< int64 scalar; undefined if the source has no labels
};

/// Consecutive images of a view, gathered into tensors, as `BatchView` yields them.
struct Batch {
  at::Tensor indices;  ///< int64, N: positions in the source, on the device of the images
  at::Tensor images;   ///< N×C×H×W, type and device as the source's
  at::Tensor labels;   ///< int64, N; undefined if the source has no labels

  /// Returns the number of images.
  std::int64_t size() const { return images.size(0); }
};

/// What happens to the last batch of an epoch when it is not full.
enum class LastBatch : std::uint8_t {
  keep,  ///< it is yielded with fewer images
  drop,  ///< its images are left out
  /// A single image joins the batch before it, since BatchNorm cannot learn from one image; a
  /// longer batch is kept.
  join_single,
};

/// The images of a source in a given order: a sized random-access range of `Example`.
///
/// The view shares the source's pixels and may outlive the `Dataset` object. Iterators must not
/// outlive the view.
class ExampleView : public ranges::view_facade<ExampleView, ranges::finite> {
 public:
  /// Views no images.
  ExampleView() = default;

  /// Views all images of a dataset in stored order.
  ExampleView(const Dataset& set) : images_(set.images), labels_(set.labels) {}

  /// Views the images N×C×H×W of a tensor, on any device and without labels, in stored order.
  ExampleView(at::Tensor images) : images_(std::move(images)) {}

  /// Returns the number of images.
  std::int64_t size() const {
    return order_.defined() ? order_.size(0) : images_.defined() ? images_.size(0) : 0;
  }

  /// Returns a view of the images at the given positions of this view.
  /// \param positions int64, each in [0, size()); in any order, with or without repeats
  /// \throws Error if a position is out of range or `positions` has another type
  ExampleView select(const at::Tensor& positions) const;

  /// Returns positions in the source, of consecutive images of this order.
  /// \param begin position in this order
  /// \param count number of images; `begin + count` must be at most size()
  /// \return int64 on the host
  at::Tensor indices(std::int64_t begin, std::int64_t count) const {
    return order_.defined() ? order_.narrow(0, begin, count) : at::arange(begin, begin + count, at::kLong);
  }

  /// Gathers consecutive images of this order. In stored order they are a view of the source, else
  /// a copy.
  /// \param begin position in this order
  /// \param count number of images; `begin + count` must be at most size()
  Batch gather(std::int64_t begin, std::int64_t count) const;

 private:
  friend ranges::range_access;

  struct Cursor {
    const ExampleView* view = nullptr;
    std::int64_t position = 0;

    Example read() const { return view->read(position); }
    bool equal(const Cursor& other) const { return position == other.position; }
    void next() { ++position; }
    void prev() { --position; }
    void advance(std::ptrdiff_t n) { position += n; }
    std::ptrdiff_t distance_to(const Cursor& other) const { return other.position - position; }
  };

  Cursor begin_cursor() const { return {this, 0}; }
  Cursor end_cursor() const { return {this, size()}; }

  Example read(std::int64_t position) const;

  at::Tensor images_, labels_;
  at::Tensor order_;  // int64 on the host; undefined: as stored
};

/// The batches of an `ExampleView`: a sized random-access range of `Batch`.
///
/// A batch is gathered each time that an element is read, so a view of any size costs only its
/// order. Put `ranges::views::cache1` before adaptors that read an element more than once, such as
/// `filter`.
class BatchView : public ranges::view_facade<BatchView, ranges::finite> {
 public:
  /// Makes an empty range.
  BatchView() = default;

  /// Cuts a view into batches.
  /// \param examples the images, in the order in which they are batched
  /// \param size images of a batch, at least 1
  /// \param last what happens to a last batch that is not full
  /// \throws Error if `size` is less than 1
  BatchView(ExampleView examples, std::int64_t size, LastBatch last = LastBatch::keep);

  /// Returns the number of batches.
  std::int64_t size() const { return batches_; }

 private:
  friend ranges::range_access;

  struct Cursor {
    const BatchView* view = nullptr;
    std::int64_t batch = 0;

    Batch read() const { return view->read(batch); }
    bool equal(const Cursor& other) const { return batch == other.batch; }
    void next() { ++batch; }
    void prev() { --batch; }
    void advance(std::ptrdiff_t n) { batch += n; }
    std::ptrdiff_t distance_to(const Cursor& other) const { return other.batch - batch; }
  };

  Cursor begin_cursor() const { return {this, 0}; }
  Cursor end_cursor() const { return {this, batches_}; }

  Batch read(std::int64_t batch) const;

  ExampleView examples_;
  std::int64_t batch_size_ = 1, batches_ = 0;
  std::int64_t used_ = 0;  // images that are in some batch
};

namespace detail {

/// What `views::shuffled` returns.
struct Shuffle {
  std::uint64_t seed;
  std::int64_t epoch;

  friend ExampleView operator|(const ExampleView& examples, const Shuffle& shuffle) {
    Random random(derived_seed(shuffle.seed, "batches", static_cast<std::uint64_t>(shuffle.epoch)));
    return examples.select(at::tensor(random_permutation(random, examples.size())));
  }
};

/// What `views::selected` returns.
struct Select {
  at::Tensor positions;

  friend ExampleView operator|(const ExampleView& examples, const Select& selected) {
    return examples.select(selected.positions);
  }
};

/// What `views::batches` returns.
struct MakeBatches {
  std::int64_t size;
  LastBatch last;

  friend BatchView operator|(ExampleView examples, const MakeBatches& batches) {
    return {std::move(examples), batches.size, batches.last};
  }
};

}  // namespace detail

/// Range adaptors for images. The left side of `|` is a `Dataset`, a tensor of images or an
/// `ExampleView`; the result is a view that range-v3's own adaptors accept:
///
/// ```cpp
/// for (const data::Batch& batch :
///      train | data::views::shuffled(seed, epoch) | data::views::batches(64)) {
///   step(data::to_float(batch.images, device), batch.labels.to(device));
/// }
/// const auto batches = test.images | data::views::batches(256);
/// for (const auto& [i, batch] : ranges::views::enumerate(batches)) …
/// ```
namespace views {

/// Shuffles the images of a source (Fisher–Yates).
///
/// Determinism: the order depends only on the seed, the epoch and the number of images, so a
/// resumed run sees the batches that the first would have seen.
/// \param seed of the run
/// \param epoch from 0; each has its own order
inline detail::Shuffle shuffled(std::uint64_t seed, std::int64_t epoch = 0) {
  return {seed, epoch};
}

/// Takes some images of a source, without copying them as `Dataset::select` does.
/// \param positions int64, in any order, with or without repeats
/// \throws Error once it is applied, if a position is out of range
inline detail::Select selected(at::Tensor positions) {
  return {std::move(positions)};
}

/// Cuts a source into batches, in its order. Without a shuffle the images of a batch are a view of
/// the source.
/// \param size images of a batch, at least 1
/// \param last what happens to a last batch that is not full
/// \throws Error once it is applied, if `size` is less than 1
inline detail::MakeBatches batches(std::int64_t size, LastBatch last = LastBatch::keep) {
  return {size, last};
}

}  // namespace views

inline ExampleView ExampleView::select(const at::Tensor& positions) const {
  if (positions.scalar_type() != at::kLong || positions.dim() != 1) {
    throw Error(
        "positions: must be an int64 tensor of one dimension; convert them with positions.to(at::kLong)");
  }
  const at::Tensor on_host = positions.to(at::kCPU).clone(at::MemoryFormat::Contiguous);  // not the caller's
  const auto* const begin = on_host.const_data_ptr<std::int64_t>();
  for (std::int64_t i = 0; i < on_host.size(0); ++i) {
    if (begin[i] < 0 || begin[i] >= size()) {
      throw Error("positions: out of range (got {}, expected 0 to {})", begin[i], size() - 1);
    }
  }
  ExampleView view = *this;
  view.order_ = order_.defined() ? order_.index_select(0, on_host) : on_host;
  return view;
}

inline Batch ExampleView::gather(std::int64_t begin, std::int64_t count) const {
  if (!order_.defined()) {
    return {at::arange(begin, begin + count, images_.options().dtype(at::kLong)),
            images_.narrow(0, begin, count), labels_.defined() ? labels_.narrow(0, begin, count) : labels_};
  }
  const at::Tensor indices = nn::to_device_async(order_.narrow(0, begin, count), images_.device());
  return {indices, images_.index_select(0, indices),
          labels_.defined() ? labels_.index_select(0, indices) : labels_};
}

inline Example ExampleView::read(std::int64_t position) const {
  const std::int64_t index = order_.defined() ? order_.const_data_ptr<std::int64_t>()[position] : position;
  return {index, images_.select(0, index), labels_.defined() ? labels_.select(0, index) : labels_};
}

inline BatchView::BatchView(ExampleView examples, std::int64_t size, LastBatch last)
    : examples_(std::move(examples)), batch_size_(size) {
  if (size < 1) throw Error("batches: the batch size must be positive, got {}", size);
  const std::int64_t n = examples_.size(), rest = n % size;
  const bool joins = last == LastBatch::join_single && rest == 1 && n > size;
  batches_ = n / size + (rest > 0 && last != LastBatch::drop && !joins ? 1 : 0);
  used_ = last == LastBatch::drop ? n - rest : n;
}

inline Batch BatchView::read(std::int64_t batch) const {
  const std::int64_t begin = batch * batch_size_;
  return examples_.gather(begin, batch + 1 < batches_ ? batch_size_ : used_ - begin);
}

}  // namespace refine::data
