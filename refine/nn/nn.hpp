#pragma once

/// \namespace refine::nn
/// What the modules with networks share: the device, convolutions, seeded construction, folding of
/// BatchNorm, autocast and CUDA graphs.
///
/// A module that derives from `Foldable` can be frozen; a policy whose `forward` can be recorded as
/// a CUDA graph has a member `cuda_graph_safe`. Networks call `convolve` and `conv_bn`, which
/// choose the fastest arithmetic.
///
/// The device and the number of threads are settings of the process.
///
/// ```cpp
/// refine::use_device("cuda:0");
/// auto conv = refine::nn::with_torch_seed(7, [] { return torch::nn::Conv2d(3, 64, 3); });
/// const at::Tensor y = refine::nn::convolve(conv, images);
/// ```

#include <refine/nn/autocast.hpp>
#include <refine/nn/conv.hpp>
#include <refine/nn/cuda_graph.hpp>
#include <refine/nn/device.hpp>
#include <refine/nn/fold.hpp>
#include <refine/nn/module.hpp>
#include <refine/nn/shared_batch.hpp>
#include <refine/nn/torch_random.hpp>
#include <refine/nn/transfer.hpp>
