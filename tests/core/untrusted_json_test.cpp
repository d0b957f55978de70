#include <gtest/gtest.h>

#include <cstddef>
#include <nlohmann/json.hpp>
#include <string>

#include <refine/core/detail/untrusted_json.hpp>

namespace refine::detail {
namespace {

std::string lists(int levels) {
  const auto n = static_cast<std::size_t>(levels);
  return std::string(n, '[') + std::string(n, ']');
}

std::string objects(int levels) {
  std::string text;
  for (int i = 0; i < levels; ++i) text += R"({"a":)";
  return text + "1" + std::string(static_cast<std::size_t>(levels), '}');
}

TEST(ParseUntrustedJson, AtTheLimitOfLevels_AcceptsAndOneBeyondDiscards) {
  EXPECT_EQ(parse_untrusted_json(lists(64)).dump(), lists(64));
  EXPECT_EQ(parse_untrusted_json<nlohmann::ordered_json>(objects(64)).dump(), objects(64));
  EXPECT_TRUE(parse_untrusted_json(lists(65)).is_discarded());
  EXPECT_TRUE(parse_untrusted_json<nlohmann::ordered_json>(objects(65)).is_discarded());
  EXPECT_TRUE(parse_untrusted_json(R"({"first": 1, "deep": )" + lists(1'000'000) + "}").is_discarded());
}

TEST(ParseUntrustedJson, OtherText_IsDiscarded) {
  for (const char* text : {"", "{", "[1, 2", "nul", "[1] 2"})
    EXPECT_TRUE(parse_untrusted_json(text).is_discarded()) << text;
  EXPECT_EQ(parse_untrusted_json("[1, {\"b\": null}]"), nlohmann::json::parse("[1, {\"b\": null}]"));
}

}  // namespace
}  // namespace refine::detail
