#pragma once

#include <ATen/core/Tensor.h>

/// \namespace refine::winograd
/// 3×3 convolutions on the processor by Winograd's method, which LibTorch does not offer for
/// float32. `nn::convolve` chooses between the two.

namespace refine::winograd {

/// True if `convolution` supports the tensors: float32 on an x86 processor with AVX2 or AVX-512,
/// 3×3 kernels, numbers of channels that are multiples of 8, and shapes that fit.
/// \param x N×in×H×W
/// \param weight out×in×3×3
/// \param bias of `out` values, or undefined
bool takes(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias = {});

/// True if `convolution` supports the tensors and is faster than LibTorch: from 16 channels on,
/// with enough pixels to repay the preparation of the kernels, and with as many threads.
/// \param x N×in×H×W
/// \param weight out×in×3×3
/// \param bias of `out` values, or undefined
bool suits(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias = {});

/// Computes `at::conv2d(x, weight, bias, 1, 1)`: a 3×3 convolution of stride 1 with zero padding of
/// one pixel.
///
/// Uses Winograd's F(4×4, 3×3) (Lavin and Gray, 2016, `lavin2016winograd`): a quarter of the
/// multiplications, and two to three times the error of a plain sum. A pixel that is not finite
/// affects its tile of 6×6 pixels. Differentiable.
///
/// *Determinism*: bitwise the same result for the same tensors on the same kind of processor, with
/// any number of threads.
/// \param x N×in×H×W
/// \param weight out×in×3×3
/// \param bias of `out` values, or undefined
/// \return N×out×H×W, channels-last
/// \throws Error if `takes` returns false
at::Tensor convolution(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias);

}  // namespace refine::winograd

#if !defined(REFINE_COMPILED_LIB)
#include <refine/winograd/impl/convolution.ipp>
#endif
