// What headers leave to …_definitions.hpp is reached both ways: by the header, and by the room's .cpp.

#include <gtest/gtest.h>

#include <cstddef>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <string>
#include <string_view>

namespace fs = std::filesystem;

namespace {

std::string text_of(const fs::path& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// …_definitions.hpp below refine/, by their headers.
std::map<fs::path, fs::path> definitions() {
  constexpr std::string_view tail = "_definitions.hpp";
  std::map<fs::path, fs::path> all;
  for (const auto& entry : fs::recursive_directory_iterator("refine")) {
    const std::string name = entry.path().filename().string();
    if (!name.ends_with(tail)) continue;
    const std::string stem = name.substr(0, name.size() - tail.size());
    all[entry.path().parent_path() / (stem + ".hpp")] = entry.path();
  }
  return all;
}

std::string include_of(const fs::path& path) {
  return "#include <" + path.generic_string() + ">\n";
}

TEST(Definitions, AreThere) {
  EXPECT_GT(definitions().size(), 50);
}

TEST(Definitions, EndTheirHeaderWhereTheyAreNotCompiledOnce) {
  for (const auto& [header, definitions] : definitions()) {
    const std::string end = "#if !defined(REFINE_COMPILED)\n" + include_of(definitions) + "#endif\n";
    EXPECT_TRUE(text_of(header).ends_with(end)) << header << " does not end with\n" << end;
  }
}

TEST(Definitions, BeginWithTheirHeaderSoThatItIsCompiledAlone) {
  for (const auto& [header, definitions] : definitions()) {
    const std::string text = text_of(definitions);
    EXPECT_EQ(text.find("#include"), text.find(include_of(header))) << definitions << " begins otherwise";
  }
}

TEST(Definitions, AreCompiledWithTheirRoom) {
  for (const auto& [header, definitions] : definitions()) {
    const fs::path room = header.parent_path();
    const fs::path source = room / (room.filename().string() + ".cpp");
    EXPECT_NE(text_of(source).find(include_of(definitions)), std::string::npos)
        << source << " lacks " << include_of(definitions);
  }
}

/// Files of one program may be compiled with and without CUDA graphs: what headers declare is the same.
TEST(PublicHeaders, DoNotDependOnCudaGraphs) {
  std::size_t headers = 0;
  for (const auto& entry : fs::recursive_directory_iterator("refine")) {
    const fs::path& path = entry.path();
    if (path.extension() != ".hpp" || path.string().ends_with("_definitions.hpp")) continue;
    ++headers;
    const std::string text = text_of(path);
    for (std::size_t at = text.find("\n#"); at != std::string::npos; at = text.find("\n#", at + 1)) {
      const std::string line = text.substr(at + 1, text.find('\n', at + 1) - at - 1);
      EXPECT_EQ(line.find("REFINE_CUDA_GRAPHS"), std::string::npos) << path << ": " << line;
    }
  }
  EXPECT_GT(headers, 200u);
}

}  // namespace
