// Checks that both modes (core/config.hpp) include every impl/*.ipp: its header, and its module's
// source.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace fs = std::filesystem;

namespace {

/// Returns the content of a file.
std::string text_of(const fs::path& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// Returns the files below refine/ with this extension.
std::vector<fs::path> files(std::string_view extension) {
  std::vector<fs::path> all;
  for (const auto& entry : fs::recursive_directory_iterator("refine")) {
    if (entry.path().extension() == extension) all.push_back(entry.path());
  }
  return all;
}

/// Returns the line that includes a file.
std::string include_of(const fs::path& path) {
  return "#include <" + path.generic_string() + ">\n";
}

TEST(CompiledLibrary, Implementations_AreFoundAndFew) {
  EXPECT_GT(files(".ipp").size(), 40u);
  EXPECT_LE(files(".ipp").size(), 80u);
}

TEST(CompiledLibrary, HeaderWithImplementation_EndsByIncludingItUnlessCompiled) {
  std::string headers;
  for (const auto& header : files(".hpp")) {
    const std::string text = text_of(header);
    const std::size_t block = text.find("#if !defined(REFINE_COMPILED_LIB)\n");
    if (block == std::string::npos) {
      EXPECT_EQ(text.find(".ipp>"), std::string::npos) << header;
      continue;
    }
    const std::string end = text.substr(block);
    EXPECT_TRUE(end.starts_with("#if !defined(REFINE_COMPILED_LIB)\n#include <refine/") &&
                end.ends_with(".ipp>\n#endif\n"))
        << header << " ends with\n"
        << end;
    headers += end;
  }
  for (const auto& implementation : files(".ipp")) {
    EXPECT_NE(headers.find(include_of(implementation)), std::string::npos)
        << "no header includes " << implementation;
  }
}

TEST(CompiledLibrary, Implementation_BeginsWithItsOwnHeader) {
  // Implementations of two headers, or of the same header as another one.
  std::map<fs::path, fs::path> shared = {
      {"refine/backbones/impl/inception.ipp", "refine/backbones/detail/inception_blocks.hpp"},
      {"refine/formats/impl/safetensors.ipp", "refine/formats/detail/safetensors_header.hpp"},
      {"refine/report/impl/html.ipp", "refine/report/detail/html_parts.hpp"},
      {"refine/report/impl/json.ipp", "refine/report/detail/metrics_node.hpp"},
      {"refine/report/impl/terminal.ipp", "refine/report/render.hpp"},
  };
  for (const auto& implementation : files(".ipp")) {
    const fs::path module = implementation.parent_path().parent_path();
    const fs::path name = implementation.stem().concat(".hpp");
    std::vector<fs::path> headers = {module / name, module / "detail" / name};
    if (const auto other = shared.find(implementation); other != shared.end()) {
      headers = {other->second};
      shared.erase(other);
    }
    const std::string text = text_of(implementation);
    EXPECT_TRUE(std::ranges::any_of(headers, [&](const fs::path& header) {
      return text.starts_with("#pragma once\n\n" + include_of(header));
    })) << implementation;
  }
  EXPECT_TRUE(shared.empty()) << shared.begin()->first << " is missing";
}

TEST(CompiledLibrary, Source_IncludesEveryImplementationOfItsModule) {
  for (const auto& implementation : files(".ipp")) {
    const fs::path module = implementation.parent_path().parent_path();
    fs::path source = module / (module.filename().string() + ".cpp");
    if (implementation == "refine/data/impl/download.ipp")
      source = module / "download.cpp";  // a target apart
    EXPECT_NE(text_of(source).find(include_of(implementation)), std::string::npos)
        << source << " lacks " << include_of(implementation);
  }
}

TEST(CompiledLibrary, Source_RefusesToBeCompiledByHeaderOnlyPrograms) {
  const auto sources = files(".cpp");
  EXPECT_GT(sources.size(), 10u);
  for (const auto& source : sources) {
    EXPECT_NE(text_of(source).find("#if !defined(REFINE_COMPILED_LIB)\n#error \""), std::string::npos)
        << source;
  }
}

// One header for what a user looks for, neither a header for each name nor one for all.
TEST(PublicHeaders, Layout_IsOneHeaderForEachSubject) {
  std::vector<std::ptrdiff_t> lines;
  std::size_t private_headers = 0;
  for (const auto& path : files(".hpp")) {
    if (path.parent_path().filename() == "detail") {
      ++private_headers;
      continue;
    }
    lines.push_back(std::ranges::count(text_of(path), '\n'));
  }
  std::ranges::sort(lines);
  EXPECT_LE(lines.size(), 155u);
  EXPECT_LE(private_headers, 65u);
  EXPECT_GE(lines.at(lines.size() / 2), 75) << "median length";
  EXPECT_LE(std::ranges::count_if(lines, [](std::ptrdiff_t n) { return n < 25; }), 12) << "short headers";
}

// Files of one program may be compiled with and without CUDA graphs, so headers must declare the
// same in both cases.
TEST(PublicHeaders, CudaGraphs_DoNotChangeDeclarations) {
  std::size_t headers = 0;
  for (const auto& path : files(".hpp")) {
    ++headers;
    const std::string text = text_of(path);
    for (std::size_t i = text.find("\n#"); i != std::string::npos; i = text.find("\n#", i + 1)) {
      const std::string line = text.substr(i + 1, text.find('\n', i + 1) - i - 1);
      EXPECT_EQ(line.find("REFINE_CUDA_GRAPHS"), std::string::npos) << path << ": " << line;
    }
  }
  EXPECT_GT(headers, 100u);
}

}  // namespace
