#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <string_view>

#include <refine/attacks/pgd.hpp>

namespace refine::attacks::detail {

/// Returns the gradient of the summed cross-entropy with respect to the images. Sets `finite` to false if the
/// logits or the gradient are not finite.
///
/// \param name of the caller, for errors
/// \param model of the attacker
/// \param images float N×C×H×W
/// \param labels int64 N
/// \param finite bool, on the device of the images
/// \throws Error if the logits have no gradient
at::Tensor input_gradient(std::string_view name, const Surrogate& model, const at::Tensor& images,
                          const at::Tensor& labels, at::Tensor& finite);

/// Throws unless `finite` is true. Without this check, images with a gradient of NaN would stay unchanged: the sign
/// of NaN is 0.
///
/// \param name of the caller, for errors
/// \param finite bool
void require_finite(std::string_view name, const at::Tensor& finite);

/// Returns the logits on the host.
///
/// \param name of the caller, for errors
/// \param model of the attacker
/// \param images uint8 N×C×H×W
/// \param max_label the model must have this class
/// \param device to compute on
/// \throws Error if the images do not fit the model, or the logits are not finite or too few
at::Tensor checked_logits(std::string_view name, const Surrogate& model, const at::Tensor& images,
                          std::int64_t max_label, at::Device device);

/// Checks that there is a model.
///
/// \param name of the caller, for errors
/// \param model of the attacker
/// \throws Error if there is none
void require_model(std::string_view name, const Surrogate& model);

/// Checks images.
///
/// \param name of the caller, for errors
/// \param model of the attacker
/// \param images must be uint8 N×C×H×W of the model's shape
/// \throws Error if they are not
void require_images(std::string_view name, const Surrogate& model, const at::Tensor& images);

}  // namespace refine::attacks::detail

#if !defined(REFINE_COMPILED_LIB)
#include <refine/attacks/impl/input_gradient.ipp>
#endif
