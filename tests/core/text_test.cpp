#include <refine/core/text.hpp>

#include <gtest/gtest.h>

#include <string>

#include <refine/core/error.hpp>

namespace refine {
namespace {

using namespace std::string_literals;

TEST(Printable, TextOfAnyLanguage_IsUnchanged) {
  for (const std::string text : {"plain text", "ÄÖÜ ñ é", "日本語", "עברית", "🐈 𝒳", "~\u00a0¡", ""}) {
    EXPECT_EQ(text::printable(text), text);
  }
}

TEST(Printable, ControlCharacters_AreEscaped) {
  EXPECT_EQ(text::printable("a\x1b[2Jb\nc\0d\x7f"s), "a\\x1b[2Jb\\x0ac\\x00d\\x7f");
  // C1, as UTF-8: U+009B begins a terminal's command as ESC [ does, U+0085 ends a line.
  EXPECT_EQ(text::printable("a\u009b2Jb"), "a\\xc2\\x9b2Jb");
  EXPECT_EQ(text::printable("\u0080\u0085\u009f"), "\\xc2\\x80\\xc2\\x85\\xc2\\x9f");
}

TEST(Printable, LineSeparatorsAndDirectionMarks_AreEscaped) {
  EXPECT_EQ(text::printable("a\u2028b\u2029c"), "a\\xe2\\x80\\xa8b\\xe2\\x80\\xa9c");
  EXPECT_EQ(text::printable("\u202etp.exe"), "\\xe2\\x80\\xaetp.exe");
  EXPECT_EQ(text::printable("\u2066\u061c"), "\\xe2\\x81\\xa6\\xd8\\x9c");
  EXPECT_EQ(text::printable("\u200e\u200f\u202a"), "\\xe2\\x80\\x8e\\xe2\\x80\\x8f\\xe2\\x80\\xaa");
  EXPECT_EQ(text::printable("\u2067\u2068\u2069"), "\\xe2\\x81\\xa7\\xe2\\x81\\xa8\\xe2\\x81\\xa9");
  EXPECT_EQ(text::printable("\u200d\u2010"), "\u200d\u2010") << "neighbours that are text";
}

TEST(EscapeJsonControls, ControlsAndDirectionsInStrings_DenoteTheSameText) {
  EXPECT_EQ(text::escape_json_controls("{\n  \"é\": \"\u202e\u0085\x7f\u2069\\u0000\"\n}"),
            "{\n  \"é\": \"\\u202e\\u0085\\u007f\\u2069\\u0000\"\n}");
  EXPECT_EQ(text::escape_json_controls("\"\xff🐈\""), "\"\xff🐈\"");
  EXPECT_EQ(text::escape_json_controls(""), "");
}

TEST(Printable, InvalidUtf8_AreEscaped) {
  EXPECT_EQ(text::printable("a\x9b\x32Jb"s), "a\\x9b2Jb");                  // C1 of a terminal with 8 bits
  EXPECT_EQ(text::printable("caf\xe9"s), "caf\\xe9");                       // Latin-1
  EXPECT_EQ(text::printable("\xc0\x9b"s), "\\xc0\\x9b");                    // too long a spelling
  EXPECT_EQ(text::printable("\xed\xa0\x80"s), "\\xed\\xa0\\x80");           // half of a surrogate pair
  EXPECT_EQ(text::printable("\xf4\x90\x80\x80"s), "\\xf4\\x90\\x80\\x80");  // beyond Unicode
  EXPECT_EQ(text::printable("x\xe2\x82"s), "x\\xe2\\x82");                  // cut in two
  EXPECT_EQ(text::printable("\xe2\x82é"s), "\\xe2\\x82é");
}

TEST(Utf8, InvalidBytes_AreFoundAndEscaped) {
  EXPECT_TRUE(text::is_utf8(""));
  EXPECT_TRUE(text::is_utf8("Käfer 甲虫 🪲"));
  for (const auto& bad :
       {"\xe4"s, "a\xc3"s, "\xc0\xaf"s, "\xe0\x80\xaf"s, "\xed\xa0\x80"s, "\xf0\x8f\xbf\xbf"s,
        "\xf4\x90\x80\x80"s, "\xf5\x80\x80\x80"s, "\x80"s, "\xe2\x82"s, "\xff"s}) {
    EXPECT_FALSE(text::is_utf8(bad));
    EXPECT_TRUE(text::is_utf8(text::to_utf8(bad)));
  }
  EXPECT_EQ(text::find_invalid_utf8("ä\xe4"), 2u);
  EXPECT_EQ(text::to_utf8("K\xe4"
                          "fer"),
            "K\\xe4"
            "fer");
}

TEST(OneLine, FirstLine_OrLastOfATraceback) {
  EXPECT_EQ(text::one_line("a shape is wrong\nat layer 3\n"), "a shape is wrong");
  EXPECT_EQ(text::one_line("Traceback of TorchScript (most recent call last):\n  File \"code\", line 3\n"
                           "RuntimeError: a shape is wrong\n"),
            "RuntimeError: a shape is wrong");
  EXPECT_EQ(text::one_line(""), "");
}

TEST(OneLine, StackOfCpp_IsLeftOut) {
  const std::string stack =
      "Exception raised from infer_size_impl at InferSize.h:99 (most recent call first):\n"
      "C++ CapturedTraceback:\n#4 c10::Error::Error from ??:0\n#5 _start from ??:0\n\n";
  EXPECT_EQ(text::one_line("a shape is wrong\n" + stack), "a shape is wrong");
  EXPECT_EQ(text::one_line("Traceback of TorchScript (most recent call last):\n  File \"code\", line 3\n"
                           "RuntimeError: a shape is wrong\n" +
                           stack),
            "RuntimeError: a shape is wrong");
}

TEST(Error, ControlCharacters_BecomeSpaces) {
  EXPECT_STREQ(Error("a\x1b[2Jb\u009b2Jc é\xc2").what(), "a [2Jb  2Jc é\xc2");
}

TEST(QuoteForShell, AnyWord_IsOneWordOfAShell) {
  EXPECT_EQ(text::quote_for_shell("a/b-1.pt"), "a/b-1.pt");
  EXPECT_EQ(text::quote_for_shell(""), "''");
  EXPECT_EQ(text::quote_for_shell("my data"), "'my data'");
  EXPECT_EQ(text::quote_for_shell("it's $HOME"), "'it'\\''s $HOME'");
}

}  // namespace
}  // namespace refine
