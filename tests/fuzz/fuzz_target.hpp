#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

/// What libFuzzer calls with each input.
/// \return 0; what became of the input is in `refine::fuzz::last_was_read`
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace refine::fuzz {

/// Chooses the reader that the next inputs are for, in a program without REFINE_FUZZ_READER.
void choose_reader(std::string_view name);

inline bool last_was_read = false;  ///< whether the last input was read, not refused

}  // namespace refine::fuzz
