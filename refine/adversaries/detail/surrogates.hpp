#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/batch_norm.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/nn/module.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <refine/core/check.hpp>
#include <refine/core/error.hpp>
#include <refine/core/random.hpp>
#include <refine/core/task.hpp>
#include <refine/nn/autocast.hpp>
#include <refine/nn/device.hpp>
#include <refine/nn/module.hpp>
#include <refine/nn/torch_random.hpp>
#include <refine/objectives/objectives.hpp>
#include <refine/training/detail/loop.hpp>
#include <refine/training/detail/optimizers.hpp>
#include <refine/training/optimization.hpp>

/// \file
/// What surrogates of a defense keep.

namespace refine::adversaries::detail {

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
    refine::detail::ScopedTraining mode{*self.transform_};
    nn::ScopedNoAutocastCache no_cache = {};
    explicit Training(TrainedTransform& s) : self(s) { self.require_gradient(true); }
    Training(const Training&) = delete;
    Training& operator=(const Training&) = delete;
    ~Training() { self.require_gradient(false); }
  };

  void require_gradient(bool needed) {
    for (at::Tensor& parameter : parameters_) parameter.requires_grad_(needed);
  }

  std::shared_ptr<torch::nn::Module> transform_;
  refine::detail::Optimizers optimizers_;
  std::vector<at::Tensor> parameters_, state_;
  at::Tensor inverse_;
};

/// The networks that `train_against` changes.
struct AttackedModule : torch::nn::Module {
  AttackedModule(const std::shared_ptr<torch::nn::Module>& victim,
                 const std::shared_ptr<torch::nn::Module>& surrogate)
      : torch::nn::Module("AttackedModule") {
    register_module("victim", victim);
    register_module("surrogate", surrogate);
  }
};

/// Sets a module to evaluation mode, and back to training mode at the end.
class ScopedEvaluation {
 public:
  explicit ScopedEvaluation(torch::nn::Module& module) : module_(module) { module_.eval(); }
  ScopedEvaluation(const ScopedEvaluation&) = delete;
  ScopedEvaluation& operator=(const ScopedEvaluation&) = delete;
  ~ScopedEvaluation() { module_.train(); }

 private:
  torch::nn::Module& module_;
};

}  // namespace refine::adversaries::detail
