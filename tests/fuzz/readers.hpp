#pragma once

#include <string>
#include <string_view>
#include <vector>

/// \namespace refine::fuzz
/// The readers of files that nobody vouches for, each as a function of bytes: for libFuzzer (fuzz_target.cpp) and for
/// the mutations that //tests/fuzz:replay_test makes.
namespace refine::fuzz {

/// A reader.
struct Reader {
  std::string_view name;                 ///< also of its target for libFuzzer
  void (*read)(std::string_view bytes);  ///< throws `Error` if it refuses them
  std::vector<std::string> (*seeds)();   ///< the contents of intact files
};

/// Returns all readers.
const std::vector<Reader>& readers();

/// Gives bytes to a reader, which reads or refuses them. Any other end is a finding: an exception that is not
/// `Error`, an `Error` of several lines, a crash.
/// \return true if they were read
bool read_or_refuse(const Reader& reader, std::string_view bytes);

}  // namespace refine::fuzz
