#pragma once

#include <refine/winograd/convolution.hpp>

#include <ATen/TensorOperators.h>
#include <ATen/ops/conv_transpose2d.h>
#include <ATen/ops/convolution_backward.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <c10/core/GradMode.h>
#include <c10/core/MemoryFormat.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cstdint>
#include <optional>
#include <tuple>
#include <vector>

#include <refine/core/config.hpp>
#include <refine/core/error.hpp>
#include <refine/winograd/detail/passes.hpp>

namespace refine::winograd {

REFINE_INLINE bool takes(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  const auto plain = [](const at::Tensor& t, std::int64_t dim) {
    return t.dim() == dim && t.is_cpu() && t.scalar_type() == at::kFloat && t.layout() == at::kStrided;
  };
  return plain(x, 4) && plain(weight, 4) && weight.size(2) == 3 && weight.size(3) == 3 &&
         x.size(1) == weight.size(1) && weight.size(0) > 0 && weight.size(1) > 0 &&
         instruction_set(weight.size(1), weight.size(0)) != nullptr &&
         (!bias.defined() || (plain(bias, 1) && bias.size(0) == weight.size(0)));
}

REFINE_INLINE bool suits(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  if (!takes(x, weight, bias) || weight.size(0) < 16 || weight.size(1) < 16) return false;
  if (detail::region() == nullptr && at::get_num_threads() > 1) return false;
  const Grid grid{x.size(0), x.size(2), x.size(3)};
  // Multiplications for each pair of channels, and the measured cost of preparing the kernel of a
  // pair.
  const std::int64_t direct = 9 * grid.images * grid.height * grid.width;
  return direct >= 2 * (values * grid.tiles() + 1000);
}

namespace detail {

inline at::Tensor channels_last(const at::Tensor& x) {
  return x.contiguous(at::MemoryFormat::ChannelsLast);
}

inline Shape shape_of(const at::Tensor& x, std::int64_t in, std::int64_t out) {
  return {{x.size(0), x.size(2), x.size(3)}, in, out};
}

inline KernelStrides strides_of(const at::Tensor& weight) {
  return {weight.stride(0), weight.stride(1), weight.stride(2), weight.stride(3)};
}

inline at::Tensor convolved(const at::Tensor& x, std::int64_t out, const float* w,
                            const KernelStrides& stride, const float* bias) {
  const std::int64_t in = x.size(1);
  const at::Tensor laid_out = channels_last(x);
  at::Tensor y = at::empty({x.size(0), out, x.size(2), x.size(3)},
                           x.options().memory_format(at::MemoryFormat::ChannelsLast));
  const std::vector<float> none(bias == nullptr ? static_cast<std::size_t>(out) : 0);
  convolve(*instruction_set(in, out), shape_of(x, in, out), laid_out.const_data_ptr<float>(), w, stride,
           bias == nullptr ? none.data() : bias, y.mutable_data_ptr<float>());
  return y;
}

class Convolution : public torch::autograd::Function<Convolution> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x,
                            const at::Tensor& weight, const std::optional<at::Tensor>& bias) {
    context->save_for_backward({weight.requires_grad() ? x : at::Tensor(), weight});
    context->saved_data["bias"] = bias.has_value();
    const at::Tensor shift = bias ? bias->contiguous() : at::Tensor();
    return convolved(x, weight.size(0), weight.const_data_ptr<float>(), strides_of(weight),
                     bias ? shift.const_data_ptr<float>() : nullptr);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& gradients) {
    const torch::autograd::variable_list saved = context->get_saved_variables();
    const at::Tensor &x = saved[0], &weight = saved[1], g = channels_last(gradients[0]);
    const bool again =
        c10::GradMode::is_enabled();  // a gradient of the gradient is needed, which LibTorch computes
    at::Tensor of_x, of_weight, of_bias;
    if (context->needs_input_grad(0) && again) {
      of_x = at::conv_transpose2d(g, weight, {}, 1, 1);
    } else if (context->needs_input_grad(0)) {
      // The same convolution with the kernels rotated by 180° and their channels exchanged.
      const KernelStrides stride = strides_of(weight);
      const float* last = weight.const_data_ptr<float>() + 2 * stride.down + 2 * stride.right;
      of_x =
          convolved(g, weight.size(1), last, {stride.in, stride.out, -stride.down, -stride.right}, nullptr);
    }
    if (context->needs_input_grad(1) && again) {
      of_weight = std::get<1>(at::convolution_backward(g, x, weight, std::nullopt, {1, 1}, {1, 1}, {1, 1},
                                                       false, {0, 0}, 1, {false, true, false}));
    } else if (context->needs_input_grad(1)) {
      of_weight = at::empty_like(weight);
      const at::Tensor laid_out = channels_last(x);
      const std::int64_t in = weight.size(1), out = weight.size(0);
      kernel_gradient(*instruction_set(in, out), shape_of(x, in, out), laid_out.const_data_ptr<float>(),
                      g.const_data_ptr<float>(), strides_of(of_weight), of_weight.mutable_data_ptr<float>());
    }
    if (context->saved_data["bias"].toBool() && context->needs_input_grad(2)) of_bias = g.sum({0, 2, 3});
    return {of_x, of_weight, of_bias};
  }
};

}  // namespace detail

REFINE_INLINE at::Tensor convolution(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  if (!takes(x, weight, bias)) {
    throw Error(
        "winograd::convolution: unsupported tensors (expected float32 on the CPU, 3×3 kernels, channels in multiples "
        "of 8); call nn::convolve");
  }
  return detail::Convolution::apply(x, weight, bias.defined() ? std::optional(bias) : std::nullopt);
}

}  // namespace refine::winograd
