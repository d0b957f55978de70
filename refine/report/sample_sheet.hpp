#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/upsample_bilinear2d.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <refine/attacks/attack.hpp>
#include <refine/data/dataset.hpp>
#include <refine/evaluation/classify.hpp>
#include <refine/evaluation/detail/check_task.hpp>
#include <refine/metrics/target.hpp>
#include <refine/pipeline/pipeline.hpp>
#include <refine/report/detail/format.hpp>
#include <refine/report/images.hpp>

namespace refine::report {

namespace detail {

/// Returns the index of the first image of each class that is not its own target, for at most `rows`
/// classes. Classes that the attack moves come first.
inline std::vector<std::int64_t> first_of_each_class(const data::Dataset& test, const metrics::Target& target,
                                                     int rows) {
  std::vector<std::int64_t> chosen;
  const auto labels = refine::detail::to_vector(test.labels);
  for (const bool moved : {true, false}) {
    for (int c = 0; c < static_cast<int>(test.classes.size()); ++c) {
      if (target.is_at(c) || target.moves(c) != moved || static_cast<int>(chosen.size()) == rows) continue;
      const auto found = std::ranges::find(labels, c);
      if (found != labels.end()) chosen.push_back(found - labels.begin());
    }
  }
  return chosen;
}

/// Makes a sheet of the given stages, followed by the transform's output for each of them, or by the
/// same images if the defense has no transform, with the defended predictions.
///
/// \param defense  runs on its device
/// \param stages  names and uint8 N×C×H×W images, all of the same N images
/// \param class_names  one for each class, or empty
template <DefendedClassifier D>
ImageSheet make_sheet(const D& defense, const std::vector<std::pair<std::string, at::Tensor>>& stages,
                      const std::vector<std::string>& class_names) {
  c10::NoGradGuard no_grad;
  const ImageShape shape = data::image_shape_of(stages.front().second);
  ImageSheet sheet{.channels = shape.channels, .height = shape.height, .width = shape.width};
  std::vector<at::Tensor> pictures;
  std::vector<std::vector<std::int64_t>> predictions;
  const auto add = [&](std::string column, const at::Tensor& bytes, const at::Tensor& logits) {
    sheet.columns.push_back(std::move(column));
    pictures.push_back(bytes.to(at::kCPU));
    predictions.push_back(refine::detail::to_vector(logits.argmax(1)));
  };
  const auto rows = static_cast<std::size_t>(stages.front().second.size(0));
  if (rows > 0) {
    for (const auto& [name, bytes] : stages) {
      add(name, bytes, defense.undefended(data::to_float(bytes, defense.device())));
    }
    for (const auto& [name, bytes] : stages) {
      const at::Tensor images = data::to_float(bytes, defense.device());
      at::Tensor drawn = defense.transformed(images);
      const bool is_unchanged = drawn.equal(images);  // a student sees the images themselves
      if (drawn.sizes() != images.sizes())            // shown at the size of the others
        drawn = at::upsample_bilinear2d(drawn, {shape.height, shape.width}, /*align_corners=*/false);
      add(name + (is_unchanged ? ", defended" : ", transformed"), data::to_bytes(drawn),
          defense.forward(images));
    }
  }
  for (std::size_t row = 0; row < rows; ++row) {
    ImageSheet::Row cells;
    for (std::size_t column = 0; column < pictures.size(); ++column) {
      const at::Tensor picture = pictures[column][static_cast<std::int64_t>(row)].contiguous();
      const auto* begin = picture.const_data_ptr<std::uint8_t>();
      cells.images.emplace_back(begin, begin + picture.numel());
      cells.captions.push_back((column < stages.size() ? "victim: " : "defense: ") +
                               format::class_name(class_names, static_cast<int>(predictions[column][row])));
    }
    sheet.rows.push_back(std::move(cells));
  }
  return sheet;
}

}  // namespace detail

/// Makes a sheet of the first test image of each class that is not its own target, those that the
/// attack moves first: clean, triggered, and the transform's output for both, each with the model's
/// prediction.
///
/// \param defense  the defended classifier
/// \param test  labelled test images
/// \param attack  applies the trigger
/// \param rows  maximum number of images
template <DefendedClassifier D, attacks::Attack A>
ImageSheet sample_sheet(const D& defense, const data::Dataset& test, const A& attack, int rows = 6) {
  const metrics::Target target = attacks::target_map(attack, static_cast<int>(test.classes.size()));
  const at::Tensor chosen = at::tensor(detail::first_of_each_class(test, target, rows), at::kLong);
  const at::Tensor clean = test.images.index_select(0, chosen);
  return detail::make_sheet(defense, {{"clean", clean}, {"triggered", attack.trigger_images(clean.clone())}},
                            test.classes);
}

/// Makes the same sheet from existing triggered images instead of an attack.
///
/// \param defense  the defended classifier
/// \param test  labelled test images
/// \param triggered  uint8 N×C×H×W, one for each image of `test`, in its order
/// \param target  of the attack, if known; classes that are their own target are left out
/// \param rows  maximum number of images
/// \throws Error if `triggered` does not match `test`
template <DefendedClassifier D>
ImageSheet sample_sheet(const D& defense, const data::Dataset& test, const at::Tensor& triggered,
                        const metrics::Target& target, int rows = 6) {
  refine::detail::check_triggered(triggered, test);
  const at::Tensor chosen = at::tensor(detail::first_of_each_class(test, target, rows), at::kLong);
  return detail::make_sheet(
      defense,
      {{"clean", test.images.index_select(0, chosen)}, {"triggered", triggered.index_select(0, chosen)}},
      test.classes);
}

/// Makes a sheet of some of the images and the transform's output for them, without labels or a
/// trigger.
///
/// \param defense  the defended classifier
/// \param images  uint8 N×C×H×W; those of the sheet are evenly spread over them
/// \param class_names  one for each class, or empty
/// \param rows  maximum number of images
/// \throws Error if the images do not have the shape that the defense takes
template <DefendedClassifier D>
ImageSheet sample_sheet(const D& defense, const at::Tensor& images,
                        const std::vector<std::string>& class_names, int rows = 6) {
  data::check_images("images", defense.task().image, images);
  return detail::make_sheet(defense, {{"clean", data::evenly_spread(images, rows)}}, class_names);
}

}  // namespace refine::report
