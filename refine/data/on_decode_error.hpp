#pragma once

#include <cstdint>

namespace refine::data {

/// What happens to a file that cannot be decoded, or that has the wrong size.
enum class OnDecodeError : std::uint8_t {
  fail,  ///< an `Error` that names the file is thrown
  skip,  ///< the file is left out, and a line gives the reason
};

}  // namespace refine::data
