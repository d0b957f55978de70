#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/batch_norm.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/nn/module.h>

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include <refine/core/check.hpp>
#include <refine/core/error.hpp>
#include <refine/core/random.hpp>
#include <refine/core/task.hpp>
#include <refine/nn/conv.hpp>
#include <refine/nn/device.hpp>
#include <refine/nn/module.hpp>
#include <refine/nn/torch_random.hpp>
#include <refine/objectives/objectives.hpp>
#include <refine/remaps/permutations.hpp>
#include <refine/remaps/remap.hpp>
#include <refine/training/detail/optimizers.hpp>
#include <refine/training/optimization.hpp>
#include <refine/training/recipe.hpp>
#include <refine/training/recipe_json.hpp>
#include <refine/transforms/transform.hpp>

/// \file
/// What an attacker trains beside the victim, to stand for the defense that will be trained later.

namespace refine::adversaries {

/// A victim: float images N×C×H×W in [0, 1] → logits N×classes.
using VictimFunction = std::function<at::Tensor(const at::Tensor&)>;

/// A surrogate of a defense, trained beside a victim by `train_against`. For `s` of type `S`:
///
///  1. `s.module` is a `std::shared_ptr` to the `torch::nn::Module` that holds all that its training changes, as
///     registered tensors that require no gradient. Copies share it;
///  2. `s.check(task)` throws `Error` if it does not fit a victim of this task;
///  3. `s.restart(seed)` resets it to fresh weights;
///  4. `s.learn(images, answers, victim)` trains it a little on N clean images, and not the victim. `answers` are the
///     victim's logits in evaluation mode, with gradient;
///  5. `s.forward(images, victim)` returns its logits, N×classes, with a gradient for the victim: through `victim`, or
///     through the `answers` of the last call of `learn`, which comes before;
///  6. `s.describe()` returns its settings in one line: a run is resumed only if they are the same.
///
/// `victim` must not be kept after the call.
template <typename S>
concept SurrogateDefense = std::copyable<S> &&
    requires(const S& s, const Task& task, const at::Tensor& images, const VictimFunction& victim,
             std::uint64_t seed) {
  { s.module } -> std::convertible_to<std::shared_ptr<torch::nn::Module>>;
  s.check(task);
  s.restart(seed);
  s.learn(images, images, victim);
  { s.forward(images, victim) } -> std::same_as<at::Tensor>;
  { s.describe() } -> std::convertible_to<std::string>;
};

namespace detail {

/// Throws Error unless a surrogate's task fits that of the data.
inline void require_task(const char* name, const Task& surrogate, const Task& data) {
  if (compatible(surrogate, data)) return;
  Message why;
  why << name << ": the tasks differ (got " << surrogate.image << " images and " << surrogate.classes
      << " classes, the data has " << data.image << " and " << data.classes
      << "); give both the task of the data";
  require_agreement(why);
}

/// The weights of a small classifier, and those after the last unrolled steps, with their gradient.
class UnrolledStudent : public torch::nn::Module {
 public:
  UnrolledStudent(const Task& task, int width) : torch::nn::Module("UnrolledStudent") {
    std::int64_t in = task.image.channels;
    for (int layer = 0; layer < layers; ++layer) {
      const std::int64_t out = width * (layer == 0 ? 1 : layer == 1 ? 2 : 4);
      add(at::zeros({out, in, 3, 3}));
      add(at::zeros({out}));  // scales
      add(at::zeros({out}));  // shifts
      in = out;
    }
    add(at::zeros({task.classes, in}));
    add(at::zeros({task.classes}));
    restart(default_seed);
  }

  /// Draws new weights (He et al., 2015, `he2015rectifiers`).
  void restart(std::uint64_t seed) {
    const c10::NoGradGuard no_grad;
    nn::with_torch_seed(seed, [&] {
      const auto draw = [](const at::Tensor& weight, double gain) {
        weight.copy_(at::randn(weight.sizes()) * std::sqrt(gain / static_cast<double>(weight[0].numel())));
      };
      for (std::size_t layer = 0; layer < layers; ++layer) {
        draw(weights_[3 * layer], 2);
        weights_[3 * layer + 1].fill_(1);
        weights_[3 * layer + 2].zero_();
      }
      draw(weights_[3 * layers], 1);
      weights_[3 * layers + 1].zero_();
      return 0;
    });
    unrolled_.clear();
    statistics_.clear();
  }

  /// Takes steps of gradient descent towards the answers, and keeps their derivatives in the answers.
  void learn(const at::Tensor& images, const at::Tensor& answers, int steps, double lr) {
    unrolled_.clear();
    for (const at::Tensor& weight : weights_) unrolled_.push_back(weight.detach().clone().requires_grad_());
    for (int step = 0; step < steps; ++step) {
      const auto part = [&](const at::Tensor& rows) {
        const std::int64_t begin = rows.size(0) * step / steps, end = rows.size(0) * (step + 1) / steps;
        return rows.narrow(0, begin, end - begin);
      };
      const at::Tensor loss = objectives::Distillation{}(run(part(images), nullptr), part(answers));
      const auto gradients = torch::autograd::grad({loss}, unrolled_, {}, {}, /*create_graph=*/true);
      for (std::size_t i = 0; i < unrolled_.size(); ++i) unrolled_[i] = unrolled_[i] - lr * gradients[i];
    }
    statistics_.clear();
    run(images, &statistics_);
    const c10::NoGradGuard no_grad;
    for (std::size_t i = 0; i < unrolled_.size(); ++i) weights_[i].copy_(unrolled_[i]);
  }

  /// Returns the logits by the weights after the last steps, with BatchNorm's statistics of the images that they were
  /// taken on, as a student has those of clean images when it is served.
  /// \throws Error if there was no step since the last restart
  at::Tensor forward(const at::Tensor& images) {
    if (unrolled_.empty())
      throw Error("SurrogateStudent: it has not learnt anything; call learn before forward");
    return run(images, &statistics_);
  }

 private:
  struct Statistics {
    at::Tensor mean, variance;  ///< 1×C×1×1
  };

  /// \param statistics of each BatchNorm, filled in if it is empty; null: those of the images
  at::Tensor run(const at::Tensor& images, std::vector<Statistics>* statistics) const {
    constexpr double eps = 1e-5;
    const bool measures = statistics && statistics->empty();
    at::Tensor x = images;
    for (std::size_t layer = 0; layer < layers; ++layer) {
      const at::Tensor &weight = unrolled_[3 * layer], &scale = unrolled_[3 * layer + 1],
                       &shift = unrolled_[3 * layer + 2];
      x = at::conv2d(x, weight, {}, /*stride=*/layer == 0 ? 1 : 2, /*padding=*/1);
      if (measures)
        statistics->push_back(
            {x.mean({0, 2, 3}, /*keepdim=*/true), x.var({0, 2, 3}, /*unbiased=*/false, true)});
      if (statistics) {
        const auto& [mean, variance] = (*statistics)[layer];
        x = (x - mean) * (scale.view({1, -1, 1, 1}) / (variance + eps).sqrt()) + shift.view({1, -1, 1, 1});
      } else {
        x = at::batch_norm(x, scale, shift, {}, {}, /*training=*/true, 0, eps, /*cudnn_enabled=*/false);
      }
      x = x.relu();
    }
    return at::linear(x.mean({2, 3}), unrolled_[3 * layers], unrolled_[3 * layers + 1]);
  }

  static constexpr int layers = 4;

  void add(const at::Tensor& weight) {
    weights_.push_back(register_buffer("weight" + std::to_string(weights_.size()), weight));
  }

  std::vector<at::Tensor> weights_, unrolled_;
  std::vector<Statistics> statistics_;  ///< of the unrolled weights
};

}  // namespace detail

/// A student that will be distilled from the victim (`baselines::distill`): four convolutions with BatchNorm and a
/// fully connected layer. Its last steps of gradient descent are differentiated (Maclaurin et al., 2015,
/// `maclaurin2015gradient`), so the victim learns which answers to clean images teach a student to obey the trigger.
/// With `AdversaryOptions::dormant`, this attack is similar to SCAR (Chen et al., 2025, `chen2025scar`), by unrolled
/// steps instead of implicit differentiation, and with a given trigger.
struct SurrogateStudent {
  Task task = {};   ///< of the victim; channels and classes must be known
  int width = 16;   ///< channels of the first convolution, at least 1; four times as many in the last
  int steps = 2;    ///< steps of a batch that are differentiated, each on its part of the images, at least 1
  double lr = 0.1;  ///< of these steps, positive
  /// Holds the weights. Made from the members above.
  std::shared_ptr<detail::UnrolledStudent> module = make(task, width, steps, lr);

  /// \throws Error if it is made for images or classes of another task
  void check(const Task& data) const { detail::require_task("SurrogateStudent", task, data); }

  /// Draws new weights.
  void restart(std::uint64_t seed) const { module->restart(seed); }

  /// Takes `steps` steps towards the victim's answers, each on its part of the images; fewer if a part would have less
  /// than two.
  /// \param images float N×C×H×W in [0, 1], N at least 2
  /// \param answers float N×classes, with gradient
  void learn(const at::Tensor& images, const at::Tensor& answers, const VictimFunction&) const {
    const auto most = static_cast<int>(std::min<std::int64_t>(images.size(0) / 2, steps));
    if (most < 1)
      throw Error("SurrogateStudent: too few images (got {}, expected 2 or more)", images.size(0));
    module->learn(images, answers, most, lr);
  }

  /// Returns the student's logits after the last steps.
  /// \param images float N×C×H×W in [0, 1]
  at::Tensor forward(const at::Tensor& images, const VictimFunction&) const {
    return module->forward(images);
  }

  /// Returns the settings in one line.
  std::string describe() const {
    return fmt::format("SurrogateStudent, width {}, {} steps, lr {}", width, steps, lr);
  }

 private:
  static std::shared_ptr<detail::UnrolledStudent> make(const Task& task, int width, int steps, double lr) {
    if (task.image.channels < 1 || task.classes < 1)
      throw Error("SurrogateStudent: channels and classes must be known; set .task to that of the data");
    if (width < 1 || steps < 1 || !(lr > 0 && std::isfinite(lr))) {
      throw Error(
          "SurrogateStudent: width and steps must be at least 1 and lr positive and finite (got {}, {}, {})",
          width, steps, lr);
    }
    return std::make_shared<detail::UnrolledStudent>(task, width);
  }
};

namespace detail {

/// A transform, and the state of its optimizer.
class TrainedTransform : public torch::nn::Module {
 public:
  /// \param inverse the victim's class that becomes each class behind the remap
  TrainedTransform(std::shared_ptr<torch::nn::Module> transform, const Optimization& optimization,
                   const std::vector<std::int64_t>& inverse)
      : torch::nn::Module("TrainedTransform"),
        transform_(register_module("transform", std::move(transform))),
        optimizers_(*transform_, optimization),
        parameters_(optimizers_.parameters()),
        inverse_(register_buffer("inverse", at::tensor(inverse).to(default_device()))) {
    if (optimizers_.empty()) throw Error("SurrogateTransform: the transform has no parameters to train");
    int number = 0;
    for (const auto& [name, tensor] : optimizers_.state()) {
      state_.push_back(register_buffer("optimizer" + std::to_string(number++), tensor));
    }
    require_gradient(false);  // the victim's optimizer must not train it
    transform_->eval();
  }

  /// Copies the weights of an untrained module, and forgets the optimizer's state.
  /// \throws Error if the module is the one that is trained, or has other tensors
  void restart(const torch::nn::Module& untrained, const std::vector<std::int64_t>& inverse) {
    if (&untrained == transform_.get())
      throw Error(
          "SurrogateTransform: .make returns the same module again; make a new transform in each call");
    nn::load_state_dict(*transform_, nn::state_dict(untrained), "SurrogateTransform.make");
    const c10::NoGradGuard no_grad;
    for (const at::Tensor& tensor : state_) tensor.zero_();
    inverse_.copy_(at::tensor(inverse));
  }

  /// Renames the classes of logits.
  at::Tensor remap(const at::Tensor& logits) const { return logits.index_select(1, inverse_); }

  /// Takes a step.
  /// \param loss computes the loss without dimensions
  template <typename Loss>
  void step(Loss&& loss) {
    const Training training(*this);
    const auto gradients = torch::autograd::grad({loss()}, parameters_, {}, {}, false, /*allow_unused=*/true);
    for (std::size_t i = 0; i < parameters_.size(); ++i) parameters_[i].mutable_grad() = gradients[i];
    optimizers_.set_rate_factor(1);
    optimizers_.step();
    optimizers_.zero_grad();
  }

 private:
  /// While it exists, the transform can be trained.
  struct Training {
    TrainedTransform& self;
    explicit Training(TrainedTransform& s) : self(s) {
      self.require_gradient(true);
      self.transform_->train();
    }
    Training(const Training&) = delete;
    Training& operator=(const Training&) = delete;
    ~Training() {
      self.transform_->eval();
      self.require_gradient(false);
    }
  };

  void require_gradient(bool needed) {
    for (at::Tensor& parameter : parameters_) parameter.requires_grad_(needed);
  }

  std::shared_ptr<torch::nn::Module> transform_;
  refine::detail::Optimizers optimizers_;
  std::vector<at::Tensor> parameters_, state_;
  at::Tensor inverse_;
};

}  // namespace detail

/// A transform that REFINE will train in front of the victim (`fit`), trained in turns with the victim, with a
/// permutation of the classes behind them. Its steps are not differentiated: the victim learns to recognise triggered
/// images as this transform, which follows it, rewrites them.
/// \tparam T type of the transform, without an encoder
template <transforms::Transform T>
requires(!transforms::EncodingTransform<T>) struct SurrogateTransform {
  /// Returns an untrained transform with weights of a seed, a new one in each call.
  std::function<T(std::uint64_t seed)> make = {};
  int classes = 0;  ///< number of classes, at least 2
  /// Of the defense, where the attacker knows it: the victim's class j is class `permutation[j]` behind the remap.
  /// Empty: a random derangement, drawn at each restart.
  std::vector<std::int64_t> permutation = {};
  /// The optimizer and its rates, which are constant; batch size, epochs, schedule and precision have no effect.
  Optimization optimization = recipes::fast.optimization;
  T transform = untrained(make, default_seed);  ///< which is trained
  /// Holds the weights, the optimizer's state and the permutation. Made from the members above.
  std::shared_ptr<detail::TrainedTransform> module =
      make_module(transform, optimization, inverse_of(permutation, classes, default_seed));

  /// \throws Error if it is made for images or classes of another task
  void check(const Task& data) const {
    detail::require_task("SurrogateTransform", {transform.image, classes}, data);
  }

  /// Resets the transform to weights of a seed, and draws a permutation if the attacker does not know it.
  void restart(std::uint64_t seed) const {
    module->restart(*untrained(make, seed).module, inverse_of(permutation, classes, seed));
  }

  /// Takes a step towards the victim's answers.
  /// \param images float N×C×H×W in [0, 1]
  /// \param answers float N×classes
  void learn(const at::Tensor& images, const at::Tensor& answers, const VictimFunction& victim) const {
    module->step([&] { return objectives::Distillation{}(forward(images, victim), answers.detach()); });
  }

  /// Returns the logits of the victim behind the transform, under the names of the permutation.
  /// \param images float N×C×H×W in [0, 1]
  at::Tensor forward(const at::Tensor& images, const VictimFunction& victim) const {
    return module->remap(victim(transform.forward(images)));
  }

  /// Returns the settings in one line.
  std::string describe() const {
    return fmt::format("SurrogateTransform of {}, permutation {}, {}", nn::describe(transform),
                       permutation.empty() ? "unknown" : fmt::format("{}", fmt::join(permutation, " ")),
                       (std::ostringstream() << Recipe{.optimization = optimization}).str());
  }

 private:
  static T untrained(const std::function<T(std::uint64_t seed)>& make, std::uint64_t seed) {
    if (!make) throw Error("SurrogateTransform: there is no transform; set .make");
    T transform = nn::with_torch_seed(seed, [&] { return make(seed); });
    transforms::check_members(transform);
    transform.module->to(default_device());
    nn::to_channels_last(*transform.module);
    return transform;
  }

  static std::shared_ptr<detail::TrainedTransform> make_module(const T& transform,
                                                               const Optimization& optimization,
                                                               const std::vector<std::int64_t>& inverse) {
    optimization.validate();
    return std::make_shared<detail::TrainedTransform>(transform.module, optimization, inverse);
  }

  static std::vector<std::int64_t> inverse_of(const std::vector<std::int64_t>& permutation, int classes,
                                              std::uint64_t seed) {
    if (permutation.empty()) return remaps::inverse(remaps::random_derangement(classes, seed));
    if (static_cast<int>(permutation.size()) != classes) {
      throw Error("SurrogateTransform: permutation must have a class for each of {}, got {}", classes,
                  permutation.size());
    }
    return remaps::inverse(permutation);
  }
};

}  // namespace refine::adversaries
