// Each reader gets its intact files and damaged copies of them. `bazel run --config=fuzz` searches further.

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <ostream>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "tests/fuzz/fuzz_target.hpp"
#include "tests/fuzz/readers.hpp"

namespace refine::fuzz {

void PrintTo(const Reader& reader, std::ostream* out) {
  *out << reader.name;
}

namespace {

/// The number of damaged copies: more than 20,000 for all readers, fewer of programs, which take longer. DAMAGED_COPIES
/// replaces it.
int copies_for(const Reader& reader) {
  if (const char* copies = std::getenv("DAMAGED_COPIES")) return std::stoi(copies);
  if (reader.name == "onnx") return 10'000;
  return reader.name.starts_with("torchscript") || reader.name.starts_with("exported") ? 200 : 1'000;
}

/// Damages a copy of a file in one to four places.
class Damage {
 public:
  explicit Damage(std::uint64_t seed) : random_(seed) {}

  std::string operator()(std::string bytes, const std::string& other) {
    const std::size_t places = 1 + below(4);
    for (std::size_t i = 0; i < places && !bytes.empty(); ++i) change(bytes, other);
    return bytes;
  }

 private:
  std::size_t below(std::size_t n) { return std::uniform_int_distribution<std::size_t>(0, n - 1)(random_); }

  void change(std::string& bytes, const std::string& other) {
    const std::size_t at = below(bytes.size()),
                      length = 1 + below(std::min<std::size_t>(bytes.size() - at, 64));
    switch (below(7)) {
      case 0:  // a bit
        bytes[at] = static_cast<char>(bytes[at] ^ (1 << below(8)));
        break;
      case 1:  // a byte
        bytes[at] = static_cast<char>(below(256));
        break;
      case 2: {  // a number of 1, 2, 4 or 8 bytes
        constexpr std::array<std::uint64_t, 6> extreme = {
            0, 1, ~std::uint64_t{0}, ~std::uint64_t{0} >> 1, 0x7fffffff, 0x8000000000000000};
        const std::uint64_t number = extreme[below(extreme.size())];
        std::memcpy(bytes.data() + at, &number, std::min(bytes.size() - at, std::size_t{1} << below(4)));
        break;
      }
      case 3:  // a cut
        bytes.resize(at);
        break;
      case 4:  // a gap
        bytes.erase(at, length);
        break;
      case 5:  // a repetition
        bytes.insert(at, bytes.substr(at, length));
        break;
      default:  // the end of another file
        bytes.resize(at);
        if (!other.empty()) bytes += other.substr(below(other.size()));
    }
  }

  std::mt19937_64 random_;
};

/// Gives bytes to a reader by way of libFuzzer's function.
/// \return true if they were read
bool read_as_libfuzzer(const Reader& reader, const std::string& bytes) {
  choose_reader(reader.name);
  LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
  return last_was_read;
}

class Replay : public ::testing::TestWithParam<Reader> {};

TEST_P(Replay, IntactFiles_AreReadOrRefused) {
  int read = 0;
  for (const std::string& seed : GetParam().seeds()) read += read_as_libfuzzer(GetParam(), seed);
  EXPECT_GT(read, 0) << "the reader reads none of its files";
}

TEST_P(Replay, DamagedFiles_AreReadOrRefused) {
  const std::vector<std::string> seeds = GetParam().seeds();
  Damage damage(7);
  int refused = 0;
  const int copies = copies_for(GetParam());
  for (int i = 0; i < copies; ++i) {
    const std::size_t n = seeds.size(), which = static_cast<std::size_t>(i) % n;
    const std::string bytes = damage(seeds[which], seeds[(which + 1) % n]);
    const auto started = std::chrono::steady_clock::now();
    bool read = false;
    EXPECT_NO_THROW(read = read_as_libfuzzer(GetParam(), bytes)) << "copy " << i;
    refused += !read;
    EXPECT_LT(std::chrono::steady_clock::now() - started, std::chrono::seconds(10)) << "copy " << i;
  }
  constexpr std::array<std::string_view, 4> lenient = {"class_names", "image_header", "pickle_programs",
                                                       "recognize"};
  if (std::ranges::find(lenient, GetParam().name) == lenient.end()) {
    EXPECT_GT(refused, copies / 10) << "it checks nothing";
  }
}

INSTANTIATE_TEST_SUITE_P(Readers, Replay, ::testing::ValuesIn(readers()),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace refine::fuzz
