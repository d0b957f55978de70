#pragma once

#include <CLI/CLI.hpp>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include <refine/backbones/any_backbone.hpp>
#include <refine/backbones/normalized.hpp>
#include <refine/core/random.hpp>
#include <refine/core/task.hpp>

namespace refine::cli {

/// Which classifier is meant, and what its file does not say.
struct VictimOptions {
  std::string model = {};  ///< a file
  std::string arch = {};   ///< of a file of weights: the network's name
  std::string stem = {};   ///< of a ResNet's weights: "7x7-pool"
  std::string image = {};  ///< "3x224x224", where the file does not say
  std::vector<double> mean = {}, deviation = {};
  std::string class_names_file = {};
  std::string output = {};  ///< which tensor of several is the logits; empty: the one that fits
  bool bgr = false;         ///< the model takes blue, green, red
  std::string key = {};     ///< of a checkpoint: which weights in it
  bool trust = false;

  void add_to(CLI::App& command);

  ImageShape image_shape() const;  ///< open extents where nothing was said
};

/// A classifier as the command line has it: `what` describes it in a few words.
struct Victim {
  backbones::AnyBackbone backbone;
  std::string what;
  std::vector<std::string> class_names;  ///< empty where nobody told them
  bool image_known = false;              ///< the image size was specified, or the file has it
  bool normalization_known = false;      ///< the file has the normalisation
};

/// Image sizes that are usual for classifiers, of as many channels as `image`.
std::vector<ImageShape> usual_sizes(const ImageShape& image);

/// Reads a TorchScript file or weights, told apart by their content.
/// \param images the shape that the images at hand have, open where they differ
Victim load_victim(const VictimOptions& options, const ImageShape& images);

/// `--mean` and `--std`: three numbers each, or one for all channels; nothing where neither is given.
/// \throws Error when they are not so, or out of the range that images in [0, 1] have
std::optional<Normalization> parse_normalization(const std::vector<double>& mean,
                                                 const std::vector<double>& deviation);

/// Whether a file is a TorchScript program, told by its content.
bool is_program(const std::filesystem::path& path);

/// A network of ours, by name. \param width 0: as published \throws Error for an unknown name
backbones::AnyBackbone make_network(const std::string& name, const Task& task, int width, std::uint64_t seed);

/// Its name as it is written in papers. \throws Error for an unknown name
std::string network_name(const std::string& name);

/// All of them, as a sentence lists them.
std::string network_names();

/// "3x224x224" → the shape; "224" → 3×224×224. \throws Error when it is neither
ImageShape parse_shape(const std::string& text);

}  // namespace refine::cli
