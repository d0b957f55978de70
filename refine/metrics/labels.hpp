#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include <refine/core/error.hpp>

namespace refine::metrics {

/// Class numbers, one an image.
using Labels = std::span<const std::int64_t>;

/// \throws Error unless there are `count` labels, all of them in [0, classes). `what` names them: "the clean
/// predictions".
void require_labels(std::string_view what, Labels labels, std::size_t count, int classes);

}  // namespace refine::metrics

#if !defined(REFINE_COMPILED)
#include <refine/metrics/labels_definitions.hpp>
#endif
