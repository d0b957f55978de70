#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/tensor.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <refine/attacks/attack.hpp>
#include <refine/data/dataset.hpp>
#include <refine/data/detail/pixels.hpp>
#include <refine/evaluation/classify.hpp>
#include <refine/evaluation/detail/check_task.hpp>
#include <refine/pipeline/pipeline.hpp>
#include <refine/report/detail/words.hpp>
#include <refine/report/images.hpp>

namespace refine::report {

namespace detail {

/// The first image of each class other than the target, up to `rows` of them.
inline std::vector<std::int64_t> one_a_class(const data::Dataset& test, std::optional<int> target, int rows) {
  std::vector<std::int64_t> chosen;
  const auto labels = to_vector(test.labels);
  for (std::int64_t c = 0; c < static_cast<std::int64_t>(test.classes.size()); ++c) {
    if (target == static_cast<int>(c) || static_cast<int>(chosen.size()) == rows) continue;
    const auto found = std::ranges::find(labels, c);
    if (found != labels.end()) chosen.push_back(found - labels.begin());
  }
  return chosen;
}

/// Each of `stages` (uint8, all of the same images), and behind them what the transform makes of each.
template <DefendedClassifier D>
ImageSheet sheet_of(const D& defense, const std::vector<std::pair<std::string, at::Tensor>>& stages,
                    const std::vector<std::string>& class_names) {
  c10::NoGradGuard no_grad;
  const ImageShape shape = data::image_of(stages.front().second);
  ImageSheet sheet{.channels = shape.channels, .height = shape.height, .width = shape.width};
  std::vector<at::Tensor> pictures;
  std::vector<std::vector<std::int64_t>> said;
  const auto add = [&](std::string column, const at::Tensor& bytes, const at::Tensor& logits) {
    sheet.columns.push_back(std::move(column));
    pictures.push_back(bytes.to(at::kCPU));
    said.push_back(to_vector(logits.argmax(1)));
  };
  const auto rows = static_cast<std::size_t>(stages.front().second.size(0));
  if (rows > 0) {
    for (const auto& [name, bytes] : stages) {
      add(name, bytes, defense.undefended(data::to_float(bytes, defense.device())));
    }
    for (const auto& [name, bytes] : stages) {
      const at::Tensor images = data::to_float(bytes, defense.device());
      add(name + ", transformed", data::to_bytes(defense.transformed(images)), defense.forward(images));
    }
  }
  for (std::size_t row = 0; row < rows; ++row) {
    ImageSheet::Row cells;
    for (std::size_t column = 0; column < pictures.size(); ++column) {
      const at::Tensor picture = pictures[column][static_cast<std::int64_t>(row)].contiguous();
      const auto* begin = picture.const_data_ptr<std::uint8_t>();
      cells.images.emplace_back(begin, begin + picture.numel());
      cells.captions.push_back((column < stages.size() ? "victim: " : "defense: ") +
                               words::class_name(class_names, static_cast<int>(said[column][row])));
    }
    sheet.rows.push_back(std::move(cells));
  }
  return sheet;
}

}  // namespace detail

/// The first test image of each class other than the target, up to `rows` of them: clean, triggered, and what
/// the transform makes of both, each with what the model says of it.
template <DefendedClassifier D, attacks::Attack A>
ImageSheet sample_sheet(const D& defense, const data::Dataset& test, const A& attack, int rows = 6) {
  const at::Tensor chosen = at::tensor(detail::one_a_class(test, attack.target, rows), at::kLong);
  const at::Tensor clean = test.images.index_select(0, chosen);
  return detail::sheet_of(defense, {{"clean", clean}, {"triggered", attack.trigger_images(clean)}},
                          test.classes);
}

/// The same where the triggered images are at hand: uint8 N×C×H×W, one for each of `test`, in its order.
/// \throws Error when they are not
template <DefendedClassifier D>
ImageSheet sample_sheet(const D& defense, const data::Dataset& test, const at::Tensor& triggered,
                        std::optional<int> target, int rows = 6) {
  refine::detail::require_triggered(triggered, test);
  const at::Tensor chosen = at::tensor(detail::one_a_class(test, target, rows), at::kLong);
  return detail::sheet_of(
      defense,
      {{"clean", test.images.index_select(0, chosen)}, {"triggered", triggered.index_select(0, chosen)}},
      test.classes);
}

/// The first images, up to `rows` of them, and what the transform makes of them: neither labels nor a
/// trigger. \param images uint8 N×C×H×W \param class_names one a class, or none
template <DefendedClassifier D>
ImageSheet sample_sheet(const D& defense, const at::Tensor& images,
                        const std::vector<std::string>& class_names, int rows = 6) {
  refine::detail::require_images("images", defense.task().image, images);
  return detail::sheet_of(defense, {{"clean", images.slice(0, 0, rows)}}, class_names);
}

}  // namespace refine::report
