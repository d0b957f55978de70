#pragma once

#include <ATen/core/Tensor.h>

namespace refine::winograd {

/// Whether `convolution` takes these: float32 on an x86 processor with AVX2 or AVX-512, 3×3 kernels, channels
/// in multiples of 8, and shapes that fit. \param x N×in×H×W \param weight out×in×3×3 \param bias out values,
/// or undefined
bool takes(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias = {});

/// Whether it is quicker than LibTorch, too: from 16 channels on, for so many pixels that what is done once a
/// kernel pays, and on as many threads.
bool suits(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias = {});

/// A 3×3 convolution of stride 1 over images with a border of one zero, as `at::conv2d(x, weight, bias, 1,
/// 1)` computes it, by Winograd's F(4×4, 3×3) (Lavin and Gray, 2016, `lavin2016winograd`): a quarter of the
/// multiplications, and two to three times the error of a plain sum. A pixel that is not finite spoils its
/// tile. \param x N×in×H×W \param weight out×in×3×3 \param bias out values, or undefined \return N×out×H×W,
/// channels last \throws Error when `takes` says no
///
/// *Determinism*: bitwise the same for the same tensors on the same kind of processor, with any number of
/// threads.
at::Tensor convolution(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias);

}  // namespace refine::winograd

#if !defined(REFINE_COMPILED_LIB)
#include <refine/winograd/impl/convolution.ipp>
#endif
