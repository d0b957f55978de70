#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/tensor.h>
#include <c10/core/Device.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include <refine/backbones/any_backbone.hpp>
#include <refine/backbones/freeze.hpp>
#include <refine/baselines/detectors.hpp>
#include <refine/baselines/preprocessing.hpp>
#include <refine/baselines/purifiers.hpp>
#include <refine/baselines/substitutes.hpp>
#include <refine/core/detail/erased.hpp>
#include <refine/core/error.hpp>
#include <refine/core/random.hpp>
#include <refine/core/task.hpp>
#include <refine/core/text.hpp>
#include <refine/data/dataset.hpp>
#include <refine/pipeline/pipeline.hpp>
#include <refine/remaps/permutations.hpp>
#include <refine/training/recipe.hpp>
#include <refine/transforms/any_transform.hpp>

namespace refine::baselines {

/// Holds any defended classifier, of a type that is known only at run time. It is itself a
/// `DefendedClassifier`. Copies share what they hold.
class AnyDefense {
 public:
  /// Holds a defense.
  /// \param defense any other defended classifier
  template <typename D>
  requires(refine::detail::OtherThan<D, AnyDefense>&& DefendedClassifier<D>) AnyDefense(D defense)
      : held_(refine::detail::Erased<Interface>::template with<Model<D>>(std::move(defense))) {}

  Task task() const { return held_->task(); }            ///< Returns the held defense's task.
  at::Device device() const { return held_->device(); }  ///< Returns the device that it computes on.

  /// Returns its logits, N×classes.
  /// \param images float N×C×H×W in [0, 1]
  at::Tensor forward(const at::Tensor& images) const { return held_->forward(images); }

  /// Returns the victim's logits, N×classes.
  /// \param images float N×C×H×W in [0, 1]
  at::Tensor undefended(const at::Tensor& images) const { return held_->undefended(images); }

  /// Returns the images that the victim sees.
  /// \param images float N×C×H×W in [0, 1]
  at::Tensor transformed(const at::Tensor& images) const { return held_->transformed(images); }

  /// Returns N scores in [0, 1].
  /// \param images float N×C×H×W in [0, 1]
  at::Tensor alarm(const at::Tensor& images) const { return held_->alarm(images); }

 private:
  struct Interface {
    virtual ~Interface() = default;
    virtual Task task() const = 0;
    virtual at::Device device() const = 0;
    virtual at::Tensor forward(const at::Tensor& images) const = 0;
    virtual at::Tensor undefended(const at::Tensor& images) const = 0;
    virtual at::Tensor transformed(const at::Tensor& images) const = 0;
    virtual at::Tensor alarm(const at::Tensor& images) const = 0;
  };

  template <DefendedClassifier D>
  struct Model final : Interface {
    explicit Model(D d) : defense(std::move(d)) {}

    Task task() const override { return defense.task(); }
    at::Device device() const override { return defense.device(); }
    at::Tensor forward(const at::Tensor& images) const override { return defense.forward(images); }
    at::Tensor undefended(const at::Tensor& images) const override { return defense.undefended(images); }
    at::Tensor transformed(const at::Tensor& images) const override { return defense.transformed(images); }
    at::Tensor alarm(const at::Tensor& images) const override { return defense.alarm(images); }

    D defense;
  };

  refine::detail::Erased<Interface> held_;
};

/// What `by_name` makes a baseline from.
struct BaselineOptions {
  backbones::AnyBackbone victim;  ///< not frozen; left unchanged
  /// An untrained network, for `Student`; its module is trained in place.
  std::optional<backbones::AnyBackbone> fresh = std::nullopt;
  at::Tensor images = {};                             ///< uint8 N×C×H×W, clean, for `Student` and `STRIP`
  Recipe recipe = recipes::fast;                      ///< of `Student`
  data::Dataset labelled = {};                        ///< clean, for those of `needs_labels`
  ClassifierRecipe fine_tuning_recipe = fine_tuning;  ///< of `FineTuning` and `FinePruning`
  AttentionOptions attention = {};                    ///< of `NAD`
  PolarizerOptions polarizer = {};                    ///< of `NeuralPolarizer`
  /// An untrained transform, for `BTI-DBF`; its module is trained in place.
  std::optional<transforms::AnyTransform> purifier = std::nullopt;
  InversionOptions inversion = {};    ///< of `BTI-DBF`
  int overlays = 32;                  ///< number of `images` that `STRIP` takes, at least 1
  std::uint64_t seed = default_seed;  ///< of `ShrinkPad`, and of the choice of STRIP's images
};

/// What a baseline is.
enum class BaselineKind {
  preprocessing,  ///< changes the image
  substitute,     ///< replaces the victim
  detector,       ///< only raises the alarm; answers as the victim
};

namespace detail {

struct BaselineEntry {
  std::string_view name;
  BaselineKind kind;
  bool needs_labels = false;
};

inline constexpr std::array baseline_table = {
    BaselineEntry{"ShrinkPad", BaselineKind::preprocessing},
    BaselineEntry{"Blur", BaselineKind::preprocessing},
    BaselineEntry{"Rescale", BaselineKind::preprocessing},
    BaselineEntry{"JPEG", BaselineKind::preprocessing},
    BaselineEntry{"Student", BaselineKind::substitute},
    BaselineEntry{"FineTuning", BaselineKind::substitute, /*needs_labels=*/true},
    BaselineEntry{"FinePruning", BaselineKind::substitute, /*needs_labels=*/true},
    BaselineEntry{"NAD", BaselineKind::substitute, /*needs_labels=*/true},
    BaselineEntry{"NeuralPolarizer", BaselineKind::substitute, /*needs_labels=*/true},
    BaselineEntry{"BTI-DBF", BaselineKind::preprocessing, /*needs_labels=*/true},
    BaselineEntry{"STRIP", BaselineKind::detector},
    BaselineEntry{"SCALE-UP", BaselineKind::detector},
};

}  // namespace detail

/// Returns the names that `by_name` knows.
inline constexpr auto names() {
  std::array<std::string_view, detail::baseline_table.size()> all;
  std::ranges::transform(detail::baseline_table, all.begin(), &detail::BaselineEntry::name);
  return all;
}

namespace detail {

/// Returns the entry of a name in any spelling; throws an Error for an unknown name.
inline const BaselineEntry& find_baseline(std::string_view name) {
  for (const auto& entry : baseline_table) {
    if (text::same_name(name, entry.name)) return entry;
  }
  throw Error("baseline: unknown name '{}'; choose one of {}", name, fmt::join(names(), ", "));
}

/// Returns the transform of a preprocessing baseline.
inline transforms::AnyTransform preprocessing_by_name(std::string_view name, const ImageShape& image,
                                                      std::uint64_t seed) {
  if (name == "ShrinkPad") return ShrinkPad<>{.image = image, .seed = seed};
  if (name == "Blur") return Blur<>{.image = image};
  if (name == "Rescale") return Rescale<>{.image = image};
  return Jpeg<>{.image = image};
}

/// Throws unless the options have what a baseline needs, before any work.
inline void check_options(std::string_view name, const BaselineOptions& options) {
  if (name == "Student" && !options.fresh) throw Error("Student: no untrained network; set .fresh");
  if (name == "Student" || name == "STRIP")
    data::check_images("images", options.victim.task.image, options.images);
  if (name == "STRIP" && (options.overlays < 1 || options.overlays > options.images.size(0))) {
    throw Error("STRIP: overlays must be between 1 and the number of images (got {}, with {} images)",
                options.overlays, options.images.size(0));
  }
  if (name == "BTI-DBF" && !options.purifier) throw Error("BTI-DBF: no untrained transform; set .purifier");
  if (find_baseline(name).needs_labels) options.labelled.validate();
}

/// Returns clean images that STRIP adds.
inline at::Tensor draw_overlays(const BaselineOptions& options) {
  Random random(derived_seed(options.seed, "overlays"));
  auto order = random_permutation(random, options.images.size(0));
  order.resize(static_cast<std::size_t>(options.overlays));
  return options.images.index_select(0, at::tensor(order));
}

}  // namespace detail

/// Returns a name as `names()` spells it.
///
/// \param name ignores case, hyphens and underscores
/// \throws Error if no baseline has this name
inline std::string_view canonical_name(std::string_view name) {
  return detail::find_baseline(name).name;
}

/// Returns what kind of baseline a name means.
///
/// \param name ignores case, hyphens and underscores
/// \throws Error if no baseline has this name
inline BaselineKind kind_of(std::string_view name) {
  return detail::find_baseline(name).kind;
}

/// True if a baseline learns from clean images with labels.
///
/// \param name ignores case, hyphens and underscores
/// \throws Error if no baseline has this name
inline bool needs_labels(std::string_view name) {
  return detail::find_baseline(name).needs_labels;
}

/// Returns the baseline of this name, trained if it needs training, with its default options.
///
/// \param name ignores case, hyphens and underscores
/// \param options the victim, and what the baseline learns from
/// \param observers follow the training, taken by reference, see `Observer`
/// \throws Error if no baseline has this name, or what it needs is missing or does not fit
template <Observer... Observers>
AnyDefense by_name(std::string_view name, const BaselineOptions& options, Observers&&... observers) {
  const auto& [canonical, kind, needs_labels] = detail::find_baseline(name);
  detail::check_options(canonical, options);
  const auto victim = freeze(options.victim);
  if (kind == BaselineKind::preprocessing) {
    const transforms::AnyTransform transform =
        canonical == "BTI-DBF" ? train_purifier(*options.purifier, victim, options.labelled,
                                                options.inversion, std::forward<Observers>(observers)...)
                               : detail::preprocessing_by_name(canonical, victim.task.image, options.seed);
    return AnyPipeline{transform, victim, remaps::None<>{.classes = victim.task.classes}};
  }
  if (canonical == "Student") {
    return Substitute{victim, freeze(distill(*options.fresh, victim, options.images, options.recipe,
                                             std::forward<Observers>(observers)...))};
  }
  if (canonical == "FineTuning") {
    return Substitute{victim, freeze(fine_tune(options.victim, options.labelled, options.fine_tuning_recipe,
                                               std::forward<Observers>(observers)...))};
  }
  if (canonical == "FinePruning") {
    return Substitute{
        victim, freeze(fine_prune(options.victim, options.labelled, {.recipe = options.fine_tuning_recipe},
                                  std::forward<Observers>(observers)...))};
  }
  if (canonical == "NAD") {
    return Substitute{victim, freeze(distill_attention(options.victim, options.labelled, options.attention,
                                                       std::forward<Observers>(observers)...))};
  }
  if (canonical == "NeuralPolarizer") {
    return Substitute{
        victim, polarize(victim, options.labelled, options.polarizer, std::forward<Observers>(observers)...)};
  }
  if (canonical == "SCALE-UP") return ScaleUp{victim};
  return Strip{victim, detail::draw_overlays(options)};
}

}  // namespace refine::baselines
