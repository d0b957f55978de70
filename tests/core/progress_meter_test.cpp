#include <refine/core/progress_meter.hpp>

#include <fmt/core.h>
#include <gtest/gtest.h>
#include <pty.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <array>
#include <memory>
#include <regex>
#include <string>
#include <thread>
#include <vector>

namespace refine {
namespace {

using namespace std::chrono_literals;

/// Both ends of a pseudo-terminal.
class Terminal {
 public:
  explicit Terminal(unsigned short columns) {
    winsize size{.ws_row = 24, .ws_col = columns, .ws_xpixel = 0, .ws_ypixel = 0};
    int side = -1;
    if (::openpty(&master_, &side, nullptr, nullptr, &size) != 0)
      throw std::runtime_error("no pseudo-terminal");
    out_ = ::fdopen(side, "w");
  }
  ~Terminal() {
    if (out_) std::fclose(out_);
    ::close(master_);
  }
  std::FILE* out() { return out_; }

  std::string close_and_read() {
    std::string text;
    std::array<char, 4096> block{};
    std::fflush(out_);
    // Read while the other end is open: Linux may drop what is pending once it is shut.
    fd_set set;
    timeval none{0, 50'000};
    for (;;) {
      FD_ZERO(&set);
      FD_SET(master_, &set);
      if (::select(master_ + 1, &set, nullptr, nullptr, &none) <= 0) break;
      const auto count = ::read(master_, block.data(), block.size());
      if (count <= 0) break;
      text.append(block.data(), static_cast<std::size_t>(count));
    }
    return text;
  }

 private:
  int master_ = -1;
  std::FILE* out_ = nullptr;
};

std::string plain(const std::string& text) {
  return std::regex_replace(text, std::regex("\x1b\\[[0-9;]*[mK]"), "");
}

std::vector<std::string> split(const std::string& text, char by) {
  std::vector<std::string> parts(1);
  for (char c : text) c == by ? (void)parts.emplace_back() : parts.back().push_back(c);
  return parts;
}

std::string in_a_log(auto&& use) {
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::tmpfile(), &std::fclose);
  use(file.get());
  std::string text(static_cast<std::size_t>(std::ftell(file.get())), '\0');
  std::rewind(file.get());
  EXPECT_EQ(std::fread(text.data(), 1, text.size(), file.get()), text.size());
  return text;
}

class ProgressMeterTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ::setenv("TERM", "xterm", 1);
    ::unsetenv("NO_COLOR");
  }
};

TEST_F(ProgressMeterTest, Terminal_DrawsOneLine) {
  Terminal terminal(100);
  {
    ProgressMeter meter("fit", 200, "images", terminal.out());
    meter.update(0, "loss 2.30");
    meter.update(50, "too soon to be drawn");
    std::this_thread::sleep_for(110ms);
    meter.update(100, "loss 0.50");
    meter.update(200);
    meter.finish("loss 0.25");
    meter.finish("twice");
  }
  const auto text = terminal.close_and_read();
  EXPECT_NE(text.find("\x1b[32m"), std::string::npos);
  const auto draws = split(plain(text), '\r');  // nothing, two while at work, one at the end, "\n"
  ASSERT_EQ(draws.size(), 5u) << plain(text);
  EXPECT_TRUE(draws[1].starts_with("fit   0% [------------------------] 0/200 images  0:00  loss 2.30"))
      << draws[1];
  EXPECT_NE(draws[2].find("fit  50% [############------------] 100/200 images"), std::string::npos)
      << draws[2];
  EXPECT_NE(draws[2].find("left)  loss 0.50"), std::string::npos) << draws[2];
  EXPECT_NE(draws[3].find("fit 100% [########################] 200/200 images"), std::string::npos)
      << draws[3];
  EXPECT_TRUE(draws[3].ends_with("  loss 0.25")) << draws[3];
  EXPECT_EQ(draws[4], "\n");  // the terminal makes \r\n of our \n
}

TEST_F(ProgressMeterTest, NarrowWindow_IsNotExceeded) {
  for (unsigned short columns : {20, 40, 60}) {
    Terminal terminal(columns);
    {
      ProgressMeter meter("ein längeres Étikett", 200, "images", terminal.out());
      meter.update(100, "a note\nthat would\tmove the cursor, ünd löng");
      meter.finish("done");
    }
    for (const auto& line : split(plain(terminal.close_and_read()), '\r')) {
      const auto width = std::count_if(line.begin(), line.end(), [](char c) { return (c & 0xC0) != 0x80; });
      EXPECT_LT(width, columns) << line;
    }
  }
}

TEST_F(ProgressMeterTest, DestroyedEarly_EndsTheLine) {
  Terminal terminal(80);
  {
    ProgressMeter meter("fit", 200, "images", terminal.out());
    meter.update(7);
  }
  EXPECT_TRUE(terminal.close_and_read().ends_with("\r\n"));
}

TEST_F(ProgressMeterTest, NoUpdate_WritesNothing) {
  Terminal terminal(80);
  { ProgressMeter meter("fit", 200, "images", terminal.out()); }
  EXPECT_EQ(terminal.close_and_read(), "");
}

TEST_F(ProgressMeterTest, NoColorOrDumbTerminal_HasNoEscapes) {
  {
    ::setenv("NO_COLOR", "1", 1);
    Terminal terminal(80);
    ProgressMeter("fit", 200, "images", terminal.out()).finish();
    const auto text = terminal.close_and_read();
    EXPECT_EQ(text.find('m' + std::string()), text.find("mages") - 0)
        << text;  // the only m is that of "images"
    EXPECT_EQ(text.find("\x1b[32m"), std::string::npos);
    ::unsetenv("NO_COLOR");
  }
  ::setenv("TERM", "dumb", 1);
  Terminal terminal(80);
  ProgressMeter("fit", 200, "images", terminal.out()).finish();
  EXPECT_EQ(terminal.close_and_read(), "fit   0%  0/200 images  0:00\r\n");
}

TEST_F(ProgressMeterTest, Log_GetsFewWholeLines) {
  const auto text = in_a_log([](std::FILE* out) {
    ProgressMeter meter("download", 170'000'000, "B", out);
    for (int i = 0; i <= 170; ++i) meter.update(i * 1'000'000);
    meter.finish("checked");
  });
  EXPECT_TRUE(
      std::regex_match(text, std::regex("download 100%  170\\.0/170\\.0 MB  [0-9.]+ MB/s  0:00  checked\n")))
      << text;
}

TEST_F(ProgressMeterTest, EachHundredth_ShowsItsPercentage) {
  for (int done = 0; done <= 100; ++done) {
    const auto text = in_a_log([&](std::FILE* out) {
      ProgressMeter meter("fit", 100, "images", out);
      meter.update(done);
      meter.finish();
    });
    EXPECT_TRUE(text.starts_with(fmt::format("fit {:3}%  {}/100 images", done, done))) << text;
  }
}

TEST_F(ProgressMeterTest, MoreThanTheTotal_IsAWholeBar) {
  Terminal terminal(100);
  ProgressMeter meter("fit", 10, "images", terminal.out());
  meter.update(30);
  meter.finish();
  const auto text = plain(terminal.close_and_read());
  EXPECT_NE(text.find("fit 100% [########################] 30/10 images"), std::string::npos) << text;
}

TEST_F(ProgressMeterTest, Print_ReplacesTheOpenLine) {
  Terminal terminal(100);
  ProgressMeter meter("fit", 10, "images", terminal.out());
  meter.update(3);
  meter.print("a line");
  const auto text = terminal.close_and_read();
  EXPECT_TRUE(text.ends_with("\r\x1b[Ka line\r\n")) << text;
}

TEST_F(ProgressMeterTest, NullOutput_ShowsNothing) {
  ProgressMeter meter("fit", 10, "images", nullptr);
  meter.update(3);
  meter.print("a line");
  meter.finish();
}

TEST_F(ProgressMeterTest, UnknownTotal_ShowsNoShare) {
  const auto text = in_a_log([](std::FILE* out) {
    ProgressMeter meter("scan", 0, "files", out);
    meter.update(12);
    meter.finish();
  });
  EXPECT_EQ(text, "scan  12 files  0:00\n");
}

TEST_F(ProgressMeterTest, ResumedRun_RateCountsFromItsStart) {
  const auto text = in_a_log([](std::FILE* out) {
    ProgressMeter meter("fit", 1'000'100, "images", out);
    meter.update(1'000'000);
    std::this_thread::sleep_for(100ms);
    meter.update(1'000'100);
    meter.finish();
  });
  std::smatch match;
  ASSERT_TRUE(std::regex_search(text, match, std::regex("images  ([0-9]+) images/s"))) << text;
  EXPECT_LE(std::stoi(match[1]), 1000);  // 100 images in at least 0.1 s
}

TEST_F(ProgressMeterTest, ResumedRun_TimeLeftFollowsFromTheRate) {
  Terminal terminal(100);
  ProgressMeter meter("fit", 2000, "images", terminal.out());
  meter.update(1000);
  std::this_thread::sleep_for(110ms);
  meter.update(1050);
  const auto text = plain(terminal.close_and_read());
  std::smatch match;
  ASSERT_TRUE(std::regex_search(
      text, match, std::regex("images  ([0-9.]+) images/s  [0-9:]+ \\(~([0-9]+):([0-9]{2}) left\\)")))
      << text;
  const double left = 950 / std::stod(match[1]);
  EXPECT_NEAR(60 * std::stoi(match[2]) + std::stoi(match[3]), left, 0.6 + 0.05 * left) << "both are rounded";
}

TEST_F(ProgressMeterTest, HoursLeft_ShowsMinutesAndSecondsBelowSixty) {
  Terminal terminal(100);
  ProgressMeter meter("fit", 100'001, "images", terminal.out());
  meter.update(0);
  std::this_thread::sleep_for(110ms);
  meter.update(1);  // three hours or more are left
  const auto text = plain(terminal.close_and_read());
  EXPECT_TRUE(std::regex_search(text, std::regex("\\(~[0-9]+:[0-5][0-9]:[0-5][0-9] left\\)"))) << text;
}

}  // namespace
}  // namespace refine
