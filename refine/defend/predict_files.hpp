#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <vector>

#include <refine/data/resize.hpp>
#include <refine/export/exported_classifier.hpp>

namespace refine {

/// The prediction for one image file.
struct FilePrediction {
  std::filesystem::path file;  ///< the image file
  int cls;                     ///< the class with the largest probability
  double probability;          ///< of that class
  double alarm;                ///< alarm score in [0, 1]; NaN if a logit is not finite
};

/// Classifies image files in chunks, so that memory stays bounded for any number of files.
///
///     const std::size_t skipped = predict_files(model, data::image_files("photos/"), data::ResizeMode::crop,
///                                               [](const FilePrediction& p) { std::cout << p.file << ' ' << p.cls; });
///
/// Files that cannot be used are left out, and reported on standard error.
/// \param model is used on the device where it is
/// \param files image files
/// \param resize what happens to images of another size; `ExportedInfo::resize` has what the
///   defense was fitted with
/// \param receive is called for each image, in the order of `files`
/// \return the number of files that were left out
/// \throws Error if there is only one file, and it cannot be used
std::size_t predict_files(const ExportedClassifier& model, const std::vector<std::filesystem::path>& files,
                          data::ResizeMode resize, const std::function<void(const FilePrediction&)>& receive);

}  // namespace refine

#if !defined(REFINE_COMPILED_LIB)
#include <refine/defend/impl/predict_files.ipp>
#endif
