#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
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

TEST(ParseUntrustedJson, BracketsInTexts_AreNoLevels) {
  const std::string text =
      R"({"a\"[":")" + std::string(100, '[') + R"(\\","b":[")" + std::string(100, '{') + R"(\""]})";
  EXPECT_EQ(parse_untrusted_json(text), nlohmann::json::parse(text));
}

TEST(ParseUntrustedJson, MembersOfAnOrderedObject_HaveALimit) {
  const auto members = [](int count) {
    std::string text = "{\"list\":[" + std::string(40'000, ' ') + "0";
    for (int i = 0; i < 20'000; ++i) text += ",0";  // elements of a list do not count
    text += "]";
    for (int i = 1; i < count; ++i) text += ",\"" + std::to_string(i) + "\":{}";
    return text + "}";
  };
  EXPECT_EQ(parse_untrusted_json<nlohmann::ordered_json>(members(10'000)).size(), 10'000u);
  EXPECT_TRUE(parse_untrusted_json<nlohmann::ordered_json>(members(10'001)).is_discarded());
  EXPECT_EQ(parse_untrusted_json(members(10'001)).size(), 10'001u);
}

// With a callback of the parser, they took hours.
TEST(ParseUntrustedJson, ManyObjectsInAList_AreReadInLinearTime) {
  std::string text = "[{\"\":0}";
  for (int i = 1; i < 500'000; ++i) text += ",{\"\":0}";
  EXPECT_EQ(parse_untrusted_json(text + "]").size(), 500'000u);
}

TEST(ReadInteger, FractionTruthValueOrOutOfRange_IsNotRead) {
  const auto read = [](const char* text, auto field) {
    return read_integer(nlohmann::json::parse(text), field) ? std::optional(field) : std::nullopt;
  };
  EXPECT_EQ(read("2147483647", 0), 2147483647);
  EXPECT_EQ(read("-2147483648", 0), -2147483648);
  EXPECT_EQ(read("18446744073709551615", std::uint64_t{}), 18446744073709551615u);
  for (const char* text :
       {"2147483648", "-2147483649", "4294967299", "3.9", "3.0", "1e300", "true", "null", "\"3\"", "[3]"})
    EXPECT_EQ(read(text, 0), std::nullopt) << text;
  for (const char* text : {"-1", "18446744073709551616", "-1.5"})
    EXPECT_EQ(read(text, std::uint64_t{}), std::nullopt) << text;
}

TEST(ParseUntrustedJson, OtherText_IsDiscarded) {
  for (const char* text : {"", "{", "[1, 2", "nul", "[1] 2"})
    EXPECT_TRUE(parse_untrusted_json(text).is_discarded()) << text;
  EXPECT_EQ(parse_untrusted_json("[1, {\"b\": null}]"), nlohmann::json::parse("[1, {\"b\": null}]"));
}

}  // namespace
}  // namespace refine::detail
