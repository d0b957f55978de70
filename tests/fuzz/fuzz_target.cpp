// A libFuzzer target, REFINE_FUZZ_READER: the name of its reader. `--seeds FOLDER` alone writes the corpus.

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <string_view>

#include <refine/core/file.hpp>

#include "tests/fuzz/readers.hpp"

namespace {

const refine::fuzz::Reader& reader() {
  for (const refine::fuzz::Reader& reader : refine::fuzz::readers()) {
    if (reader.name == REFINE_FUZZ_READER) return reader;
  }
  std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerInitialize(int* count, char*** arguments) {
  if (*count == 3 && std::string_view((*arguments)[1]) == "--seeds") {
    const std::filesystem::path folder = (*arguments)[2];
    int number = 0;
    for (const std::string& seed : reader().seeds()) {
      refine::files::write(folder / ("seed" + std::to_string(number++)), seed);
    }
    std::exit(0);
  }
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  refine::fuzz::read_or_refuse(reader(), {reinterpret_cast<const char*>(data), size});
  return 0;
}
