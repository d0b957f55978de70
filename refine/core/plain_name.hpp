#pragma once

#include <string>
#include <string_view>

namespace refine {

/// A name as it is looked up: in lower case (ASCII), without hyphens and underscores.
std::string plain_name(std::string_view name);

/// Whether two spellings are of one name; one without a letter is of none.
bool same_name(std::string_view a, std::string_view b);

}  // namespace refine

#if !defined(REFINE_COMPILED)
#include <refine/core/plain_name_definitions.hpp>
#endif
