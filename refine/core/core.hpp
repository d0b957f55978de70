#pragma once

/// \namespace refine
/// The library's types and functions. `refine/core` holds what all modules share and includes no
/// LibTorch header: tasks and shapes, errors and compile-time checks, seeds, files, text and
/// progress.
///
/// Errors that a user can fix are `Error`s; checks that the compiler can make are `Agreement`s.
///
/// ```cpp
/// constexpr refine::Task task{refine::ImageShape{3, 224, 224}, 43};
/// refine::Random random(refine::derived_seed(refine::default_seed, "order"));
/// refine::AtomicFile file("result/images.bin");
/// file.write(bytes);
/// file.commit();
/// ```

// Not <refine/core/sha256.hpp>, which needs libcrypto.

#include <refine/core/check.hpp>
#include <refine/core/config.hpp>
#include <refine/core/error.hpp>
#include <refine/core/file.hpp>
#include <refine/core/progress_meter.hpp>
#include <refine/core/random.hpp>
#include <refine/core/task.hpp>
#include <refine/core/text.hpp>
