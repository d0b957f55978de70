#pragma once

#include <string_view>

#include <refine/formats/detail/operators.hpp>

/// Operators of ONNX's own domain.
namespace refine::formats::onnx_operators {

/// Those that an image classifier may use: arithmetic on tensors. `programs/impl/onnx.ipp` translates
/// each of them.
inline constexpr std::string_view permitted =
    "Abs Add And ArgMax AveragePool BatchNormalization Cast Ceil Clip Concat Constant ConstantOfShape "
    "Conv ConvTranspose Cos DepthToSpace Div Dropout Einsum Elu Equal Erf Exp Expand Flatten Floor Gather Gelu "
    "Gemm GlobalAveragePool GlobalMaxPool Greater GreaterOrEqual HardSigmoid HardSwish "
    "Identity InstanceNormalization LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax MatMul Max "
    "MaxPool Mean Min Mish Mod Mul Neg Not Or PRelu Pad Pow Reciprocal ReduceL2 ReduceMax ReduceMean ReduceMin "
    "ReduceProd ReduceSum Relu Reshape Resize Round Selu Shape Sigmoid Sign Sin Slice Softmax Softplus "
    "Softsign Split Sqrt Squeeze Sub Sum Tanh Tile Transpose Unsqueeze Where";

/// Control flow, which runs graphs inside of a node.
inline constexpr std::string_view control_flow = "If Loop Scan SequenceMap";

/// Those that compute with quantised numbers.
inline constexpr std::string_view quantized =
    "ConvInteger DequantizeLinear DynamicQuantizeLinear MatMulInteger QLinearConv QLinearMatMul QuantizeLinear";

/// Returns true if `op` is one of `operators`.
constexpr bool has(std::string_view operators, std::string_view op) {
  return formats::operators::detail::has_word(operators, op);
}

}  // namespace refine::formats::onnx_operators
