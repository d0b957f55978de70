#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace refine::data {

/// What a file that cannot be decoded, or does not fit, brings about.
enum class OnBad {
  fail,  ///< an `Error` that names it
  skip,  ///< it is left out, and a line says why
};

/// One line for each file that was left out, on standard error; of very many, how many more.
void tell_left_out(const std::vector<std::string>& skipped);

/// Reports files that are not read on standard error: one line that counts them by extension. Nothing for
/// none.
void tell_passed_over(const std::vector<std::filesystem::path>& files);

}  // namespace refine::data

#if !defined(REFINE_COMPILED)
#include <refine/data/left_out_definitions.hpp>
#endif
