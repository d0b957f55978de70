#pragma once

#include <filesystem>
#include <vector>

#include <c10/core/Device.h>

#include <refine/core/task.hpp>
#include <refine/defend/load_classifier.hpp>
#include <refine/defend/saved_defense.hpp>
#include <refine/defend/sizing.hpp>
#include <refine/evaluation/bench.hpp>

namespace refine {

/// What `bench_file` does not find in the file.
struct BenchFileOptions {
  SavedDefenseOptions parts = {};  ///< how a classifier and the weights of its defense are read
  /// Weights of a defense, as `load_saved_defense` reads them; empty: none.
  std::filesystem::path defense = {};
  BenchOptions bench = {};  ///< how it is measured
};

/// What the answers of a file cost.
struct FileCost {
  Task task;                     ///< image shape and number of classes
  at::Device device = at::kCPU;  ///< where it was measured
  std::vector<AnswerCost> answers =
      {};  ///< "victim"; of a defense, "defended", and "gated" if it has an alarm
};

/// Measures what the answers of a file cost, on `default_device()` (`bench`): of a defended file,
/// the victim alone and the defended and gated answers; of any other classifier, its own or, with
/// the weights of a defense, the same three.
///
///     const FileCost cost = bench_file("defended.pt");
///     std::cout << cost.answers[1].batches[0].ratio.median << " of the victim's time\n";
///
/// \param file a defended file (.pt2 or TorchScript), or a classifier as `load_classifier` reads it
/// \param options what the file does not say
/// \throws Error as `ExportedClassifier`, `load_saved_defense`, `export_classifier` and `bench`, or
///   if options of a classifier are specified for a defended file
FileCost bench_file(const std::filesystem::path& file, const BenchFileOptions& options = {});

}  // namespace refine

#if !defined(REFINE_COMPILED_LIB)
#include <refine/defend/impl/bench_file.ipp>
#endif
