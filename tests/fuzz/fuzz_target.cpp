// The entry of libFuzzer. REFINE_FUZZ_READER is the name of the reader of a target; the tests choose one after the other.

#include "tests/fuzz/fuzz_target.hpp"

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <string_view>

#include <refine/core/file.hpp>

#include "tests/fuzz/readers.hpp"

namespace refine::fuzz {
namespace {

#if defined(REFINE_FUZZ_READER)
std::string_view chosen = REFINE_FUZZ_READER;
#else
std::string_view chosen;
#endif

const Reader& reader() {
  for (const Reader& reader : readers()) {
    if (reader.name == chosen) return reader;
  }
  std::abort();
}

}  // namespace

void choose_reader(std::string_view name) {
  chosen = name;
}

}  // namespace refine::fuzz

/// `--seeds FOLDER` alone writes the corpus.
extern "C" int LLVMFuzzerInitialize(int* count, char*** arguments) {
  if (*count == 3 && std::string_view((*arguments)[1]) == "--seeds") {
    const std::filesystem::path folder = (*arguments)[2];
    int number = 0;
    for (const std::string& seed : refine::fuzz::reader().seeds()) {
      refine::files::write(folder / ("seed" + std::to_string(number++)), seed);
    }
    std::exit(0);
  }
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  refine::fuzz::last_was_read =
      refine::fuzz::read_or_refuse(refine::fuzz::reader(), {reinterpret_cast<const char*>(data), size});
  return 0;
}
