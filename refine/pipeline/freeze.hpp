#pragma once

#include <refine/pipeline/pipeline.hpp>
#include <refine/transforms/freeze.hpp>

namespace refine {

/// A trained defense for serving: the same answers, to rounding, by fewer steps; its transform is a frozen
/// copy, and the victim is shared, since it is frozen already. `export_torchscript` writes this form.
///
///     auto serving = freeze(defense);
///     at::Tensor logits = serving.forward(images);
///
/// \throws c10::Error when the transform's module does not say how it is cloned (`transforms::can_freeze`)
template <typename T, typename B, typename R>
auto freeze(const Pipeline<T, B, R>& defense) {
  Pipeline serving{freeze(defense.transform()), defense.backbone(), defense.remap(), defense.domain()};
  serving.to(defense.device());  // networks without tensors do not tell it
  return serving;
}

}  // namespace refine
