#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include <refine/training/recipe.hpp>

namespace refine::versus {

/// What is timed: steps with a ResNet-18 and the small U-Net, on 3×32×32 images.
struct Work {
  int width = 64;                 ///< of both networks
  int batch = 64;                 ///< images in a step
  int steps = 3;                  ///< in a round
  std::int64_t epoch_images = 0;  ///< images of a whole epoch that is timed, too; 0: none
};

/// A row of the table.
struct Part {
  const char* name;              ///< part of this library's step
  const char* reference = name;  ///< part of the authors' step to compare it with
};

/// The rows of the table.
///
/// - `step`: a whole training step, with data and augmentation
/// - `step, victim asked once`: that of `TeacherInput::original`, from the second epoch on
/// - `inference`: the defended forward pass, without gradients
/// - `epoch`: the second of two epochs, from the first image to the last, without synchronization
///   in between
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

/// Seconds of each part, one value for each step.
using Seconds = std::map<std::string, std::vector<double>>;

/// Appends the values of `more` to those of `to`.
inline void append(Seconds& to, const Seconds& more) {
  for (const auto& [part, seconds] : more) to[part].insert(to[part].end(), seconds.begin(), seconds.end());
}

/// Writes the images and the weights from which both sides start.
///
/// \return the loss of the first batch without augmentation
double write_start(const Work& work, const std::filesystem::path& folder);

/// Returns the permutation of the classes that both sides use.
std::vector<std::int64_t> permutation(const Work& work);

/// Times one round: a step to warm up, then `work.steps` steps.
///
/// `step` is the time of a step in `fit`; the other parts time the same calls one by one.
Seconds measure(const Work& work, Precision precision);

}  // namespace refine::versus
