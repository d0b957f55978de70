#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/tensor.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <refine/attacks/attack.hpp>
#include <refine/data/dataset.hpp>
#include <refine/data/pixels.hpp>
#include <refine/evaluation/classify.hpp>
#include <refine/pipeline/pipeline.hpp>
#include <refine/report/image_sheet.hpp>

namespace refine::report {

/// The first test image of each class other than the target, up to `rows` of them: clean, triggered, and what
/// the transform makes of both, each with what the model says of it.
template <typename T, typename B, typename R, attacks::Attack A>
ImageSheet sample_sheet(const Pipeline<T, B, R>& defense, const data::Dataset& test, const A& attack,
                        int rows = 6) {
  const std::optional<int> target = attack.target;
  std::vector<std::int64_t> chosen;
  const auto labels = to_vector(test.labels);
  for (std::int64_t c = 0; c < static_cast<std::int64_t>(test.classes.size()); ++c) {
    if (target == static_cast<int>(c) || static_cast<int>(chosen.size()) == rows) continue;
    const auto found = std::ranges::find(labels, c);
    if (found != labels.end()) chosen.push_back(found - labels.begin());
  }
  const ImageShape shape = test.image();
  ImageSheet sheet{.channels = shape.channels,
                   .height = shape.height,
                   .width = shape.width,
                   .columns = {"clean", "triggered", "clean, transformed", "triggered, transformed"}};
  if (chosen.empty()) return sheet;

  c10::NoGradGuard no_grad;
  const at::Tensor clean = test.images.index_select(0, at::tensor(chosen));
  std::vector<at::Tensor> pictures;
  std::vector<std::vector<std::int64_t>> said;
  for (const at::Tensor& bytes : {clean, attack.trigger_images(clean)}) {
    pictures.push_back(bytes);
    said.push_back(to_vector(defense.undefended(data::to_float(bytes, defense.device())).argmax(1)));
  }
  for (int i = 0; i < 2; ++i) {
    const at::Tensor rewritten = defense.transformed(data::to_float(pictures[i], defense.device()));
    pictures.push_back(data::to_bytes(rewritten).to(at::kCPU));
    said.push_back(to_vector(defense.classify_transformed(rewritten).argmax(1)));
  }
  for (std::size_t row = 0; row < chosen.size(); ++row) {
    ImageSheet::Row cells;
    for (std::size_t column = 0; column < pictures.size(); ++column) {
      const at::Tensor picture = pictures[column][static_cast<std::int64_t>(row)].contiguous();
      const auto* begin = picture.const_data_ptr<std::uint8_t>();
      cells.images.emplace_back(begin, begin + picture.numel());
      const auto answer = static_cast<std::size_t>(said[column][row]);
      cells.captions.push_back((column < 2 ? "victim: " : "defense: ") + test.classes[answer]);
    }
    sheet.rows.push_back(std::move(cells));
  }
  return sheet;
}

}  // namespace refine::report
