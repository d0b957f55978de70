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

#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <refine/core/error.hpp>
#include <refine/core/random.hpp>
#include <refine/core/task.hpp>
#include <refine/nn/device.hpp>
#include <refine/nn/torch_random.hpp>
#include <refine/objectives/objectives.hpp>
#include <refine/remaps/permutations.hpp>
#include <refine/remaps/remap.hpp>
#include <refine/training/detail/optimizers.hpp>
#include <refine/training/optimization.hpp>
#include <refine/training/recipe.hpp>
#include <refine/transforms/transform.hpp>

/// \file
/// What an attacker trains beside the victim, to stand for the defense that will be trained later.

namespace refine::adversaries {

/// A victim: float images N×C×H×W in [0, 1] → logits N×classes.
using VictimFunction = std::function<at::Tensor(const at::Tensor&)>;

/// A surrogate of a defense, trained beside a victim by `train_against`. For `s` of type `S`:
///
///  1. `s.module` is a `std::shared_ptr` to the `torch::nn::Module` that holds all that its training changes, in
///     tensors without gradient. Copies share it;
///  2. `s.restart(seed)` makes it untrained again;
///  3. `s.learn(images, answers, victim)` trains it a little on clean images. `answers` are the victim's logits, with
///     gradient;
///  4. `s.forward(images, victim)` returns its logits, N×classes, with a gradient for the victim: through `victim`, or
///     through the `answers` of the last call of `learn`;
///  5. `s.describe()` returns its settings in one line.
template <typename S>
concept SurrogateDefense = std::copyable<S> &&
    requires(const S& s, const at::Tensor& images, const at::Tensor& answers, const VictimFunction& victim,
             std::uint64_t seed) {
  { *s.module } -> std::convertible_to<torch::nn::Module&>;
  s.restart(seed);
  s.learn(images, answers, victim);
  { s.forward(images, victim) } -> std::same_as<at::Tensor>;
  { s.describe() } -> std::convertible_to<std::string>;
};

namespace detail {

/// The weights of a small classifier, and those after the last unrolled steps, with their gradient.
class UnrolledStudent : public torch::nn::Module {
 public:
  UnrolledStudent(const Task& task, int width) : torch::nn::Module("UnrolledStudent") {
    std::int64_t in = task.image.channels;
    for (int layer = 0; layer < layers; ++layer) {
      const std::int64_t out = width * (layer == 0 ? 1 : layer == 1 ? 2 : 4);
      add(at::zeros({out, in, 3, 3}));
      add(at::ones({out}));
      add(at::zeros({out}));
      in = out;
    }
    add(at::zeros({task.classes, in}));
    add(at::zeros({task.classes}));
  }

  /// Draws new weights (He et al., 2015, `he2015rectifiers`).
  void restart(std::uint64_t seed) {
    const c10::NoGradGuard no_grad;
    nn::with_torch_seed(seed, [&] {
      for (std::size_t i = 0; i < weights_.size(); ++i) {
        const at::Tensor& weight = weights_[i];
        if (weight.dim() == 1) {
          weight.fill_(i < 3 * layers && i % 3 == 1 ? 1
                                                    : 0);  // scales of BatchNorm; shifts and the last bias
        } else {
          const auto fan_in = static_cast<double>(weight[0].numel()), gain = weight.dim() == 4 ? 2.0 : 1.0;
          weight.copy_(at::randn(weight.sizes()) * std::sqrt(gain / fan_in));
        }
      }
      return 0;
    });
    unrolled_.clear();
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
      const at::Tensor loss = objectives::Distillation{}(forward(part(images)), part(answers));
      const auto gradients = torch::autograd::grad({loss}, unrolled_, {}, {}, /*create_graph=*/true);
      for (std::size_t i = 0; i < unrolled_.size(); ++i) unrolled_[i] = unrolled_[i] - lr * gradients[i];
    }
    const c10::NoGradGuard no_grad;
    for (std::size_t i = 0; i < unrolled_.size(); ++i) weights_[i].copy_(unrolled_[i]);
  }

  /// Returns the logits by the weights of the last steps. BatchNorm takes the statistics of these images.
  at::Tensor forward(const at::Tensor& images) const {
    at::Tensor x = images;
    for (std::size_t layer = 0; layer < layers; ++layer) {
      const at::Tensor *const weight = &unrolled_[3 * layer], *const scale = weight + 1,
                              *const shift = weight + 2;
      x = at::conv2d(x, *weight, {}, /*stride=*/layer == 0 ? 1 : 2, /*padding=*/1);
      x = at::batch_norm(x, *scale, *shift, {}, {}, /*training=*/true, 0, 1e-5, /*cudnn_enabled=*/false)
              .relu();
    }
    return at::linear(x.mean({2, 3}), unrolled_[3 * layers], unrolled_[3 * layers + 1]);
  }

 private:
  static constexpr int layers = 4;

  void add(const at::Tensor& weight) {
    weights_.push_back(register_buffer("weight" + std::to_string(weights_.size()), weight));
  }

  std::vector<at::Tensor> weights_, unrolled_;
};

}  // namespace detail

/// A student that will be distilled from the victim (`baselines::distill`): four convolutions with BatchNorm and a
/// fully connected layer. Its last steps of gradient descent are differentiated (Maclaurin et al., 2015,
/// `maclaurin2015gradient`), so the victim learns which answers to clean images teach a student to obey the trigger.
/// With `AdversaryOptions::dormant`, this is an attack as SCAR (Chen et al., 2025, `chen2025scar`), by unrolled steps
/// instead of its implicit differentiation, and with a given trigger.
struct SurrogateStudent {
  Task task = {};   ///< of the victim; channels and classes must be known
  int width = 16;   ///< channels of the first convolution, at least 1; four times as many in the last
  int steps = 2;    ///< steps of a batch that are differentiated, each on its part of the images, at least 1
  double lr = 0.1;  ///< of these steps, positive
  /// Holds the weights. Made from the members above.
  std::shared_ptr<detail::UnrolledStudent> module = make(task, width, steps, lr);

  /// Draws new weights.
  void restart(std::uint64_t seed) const { module->restart(seed); }

  /// Takes `steps` steps towards the victim's answers.
  /// \param images float N×C×H×W in [0, 1], N at least 2·`steps`
  /// \param answers float N×classes, with gradient
  void learn(const at::Tensor& images, const at::Tensor& answers, const VictimFunction&) const {
    if (images.size(0) < 2 * steps) {
      throw Error("SurrogateStudent: batches must have at least {} images for {} steps, got {}", 2 * steps,
                  steps, images.size(0));
    }
    module->learn(images, answers, steps, lr);
  }

  /// Returns the student's logits after the last steps.
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
    require_gradient(false);  // it is no part of what the victim's optimizer trains
  }

  /// Copies the weights of an untrained module, and forgets the optimizer's state.
  void restart(const torch::nn::Module& untrained, const std::vector<std::int64_t>& inverse) {
    const c10::NoGradGuard no_grad;
    const auto copy = [](const auto& from, const auto& to) {
      for (const auto& item : from) to.find(item.key())->copy_(item.value());
    };
    copy(untrained.named_parameters(), transform_->named_parameters());
    copy(untrained.named_buffers(), transform_->named_buffers());
    for (const at::Tensor& tensor : state_) tensor.zero_();
    inverse_.copy_(at::tensor(inverse));
  }

  /// Renames the classes of logits.
  at::Tensor remap(const at::Tensor& logits) const { return logits.index_select(1, inverse_); }

  /// Takes a step.
  /// \param loss computes the loss without dimensions
  template <typename Loss>
  void step(Loss&& loss) {
    require_gradient(true);
    transform_->train();
    const auto gradients = torch::autograd::grad({loss()}, parameters_, {}, {}, false, /*allow_unused=*/true);
    for (std::size_t i = 0; i < parameters_.size(); ++i) parameters_[i].mutable_grad() = gradients[i];
    optimizers_.set_rate_factor(1);
    optimizers_.step();
    optimizers_.zero_grad();
    transform_->eval();
    require_gradient(false);
  }

 private:
  void require_gradient(bool needed) {
    for (at::Tensor& parameter : parameters_) parameter.requires_grad_(needed);
  }

  std::shared_ptr<torch::nn::Module> transform_;
  refine::detail::Optimizers optimizers_;
  std::vector<at::Tensor> parameters_, state_;
  at::Tensor inverse_;
};

}  // namespace detail

/// A transform that REFINE will train in front of the victim (`fit`): any transform of the library, trained in turns
/// with the victim by Muon, with a permutation of the classes behind them. Its steps are not differentiated: the victim
/// learns to recognise the triggered images as this transform, which follows it, rewrites them.
/// \tparam T type of the transform
template <transforms::Transform T>
struct SurrogateTransform {
  std::function<T(std::uint64_t seed)> make = {};  ///< returns an untrained transform with weights of a seed
  int classes = 0;                                 ///< number of classes, at least 2
  /// Of the defense, where the attacker knows it: the class that each of the victim's becomes. Empty: a random
  /// derangement from each restart to the next.
  std::vector<std::int64_t> permutation = {};
  Optimization optimization =
      recipes::fast.optimization;               ///< of which the optimizer and its constant rates are used
  T transform = untrained(make, default_seed);  ///< which is trained
  /// Holds the weights, the optimizer's state and the permutation. Made from the members above.
  std::shared_ptr<detail::TrainedTransform> module =
      std::make_shared<detail::TrainedTransform>(transform.module, optimization, inverse_of(default_seed));

  /// Makes the transform untrained, with weights of a seed, and draws a permutation if the attacker does not know it.
  void restart(std::uint64_t seed) const { module->restart(*untrained(make, seed).module, inverse_of(seed)); }

  /// Takes a step towards the victim's answers.
  void learn(const at::Tensor& images, const at::Tensor& answers, const VictimFunction& victim) const {
    module->step([&] { return objectives::Distillation{}(forward(images, victim), answers.detach()); });
  }

  /// Returns the logits of the victim behind the transform, under the names of the permutation.
  at::Tensor forward(const at::Tensor& images, const VictimFunction& victim) const {
    return module->remap(victim(transform.forward(images)));
  }

  /// Returns the settings in one line.
  std::string describe() const {
    return fmt::format("SurrogateTransform, permutation {}, lr {}, {}",
                       permutation.empty() ? "unknown" : fmt::format("{}", fmt::join(permutation, " ")),
                       optimization.lr, optimization.adam_lr);
  }

 private:
  static T untrained(const std::function<T(std::uint64_t seed)>& make, std::uint64_t seed) {
    if (!make) throw Error("SurrogateTransform: there is no transform; set .make");
    T transform = make(seed);
    transform.module->to(default_device());
    return transform;
  }

  std::vector<std::int64_t> inverse_of(std::uint64_t seed) const {
    return remaps::inverse(permutation.empty() ? remaps::random_derangement(classes, seed) : permutation);
  }
};

}  // namespace refine::adversaries
