#pragma once

#include <string_view>

/// \file
/// Two modes.
///
/// - Header-only (default): each header includes its implementation, `impl/*.ipp`, at its end.
/// - Compiled (`REFINE_COMPILED_LIB`): headers only declare; the program links `refine/*.cpp` and
///   `refine/*/*.cpp`, which Bazel's `//refine` does. A file of the program then compiles in about
///   half the time.
///
/// All files of a program must use the same mode, and define the same `JSON_*` macros, which are
/// part of the names of nlohmann-json's types.

/// Marks a definition in `impl/*.ipp`. Virtual members are declared with it as well: otherwise each
/// file of a header-only program would emit the class's virtual table.
#if defined(REFINE_COMPILED_LIB)
#define REFINE_INLINE
#else
#define REFINE_INLINE inline
#endif

namespace refine {

/// The version of the library. Exported files hold it.
inline constexpr std::string_view version = "0.1.0";

}  // namespace refine
