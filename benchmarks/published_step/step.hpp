#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include <refine/training/detail/optimizers.hpp>

namespace refine::versus {

/// The work of a step: a ResNet-18 and the little U-Net of this width, on 3×32×32 images.
struct Work {
  int width = 64;
  int batch = 64;
  int steps = 3;                  ///< of a round
  std::int64_t epoch_images = 0;  ///< of a whole epoch, which is timed too; 0: none is
};

/// A row of the table: what it times here, and what the published code does for it.
struct Part {
  const char* name;
  const char* published = name;
};

/// `step` is all of training, data and augmentation included, `step, victim asked once` that of
/// `TeacherInput::original` from the second epoch on; `inference` is the defended forward, without gradients.
/// `epoch` is the second of two, from the first image to the last, with nothing waited for in between.
inline constexpr std::array<Part, 12> parts = {{{"batch"},
                                                {"teacher"},
                                                {"transform, forward"},
                                                {"victim, forward"},
                                                {"losses"},
                                                {"backward"},
                                                {"optimiser"},
                                                {"step"},
                                                {"step, victim asked once", "step"},
                                                {"inference"},
                                                {"epoch"},
                                                {"epoch, victim asked once", "epoch"}}};

/// What each part took, once a step.
using Seconds = std::map<std::string, std::vector<double>>;

inline void append(Seconds& to, const Seconds& more) {
  for (const auto& [part, seconds] : more) to[part].insert(to[part].end(), seconds.begin(), seconds.end());
}

/// Writes the images and the weights that both sides start from. \return the loss of the first batch,
/// unchanged
double write_start(const Work& work, const std::filesystem::path& folder);

/// The permutation of the classes that both sides use.
std::vector<std::int64_t> permutation(const Work& work);

/// One round: a step to warm up, then as many as asked; `step` is what `fit` takes for each, the parts are
/// the same calls by themselves.
Seconds measured(const Work& work, Precision precision);

}  // namespace refine::versus
