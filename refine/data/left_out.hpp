#pragma once

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

}  // namespace refine::data

#if !defined(REFINE_COMPILED)
#include <refine/data/left_out_definitions.hpp>
#endif
