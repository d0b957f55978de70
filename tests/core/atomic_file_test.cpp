#include <refine/core/atomic_file.hpp>

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <fstream>
#include <iterator>
#include <string>

#include "tests/support/error_of.hpp"

namespace refine {
namespace {

using testing::error_of;

namespace fs = std::filesystem;

class AtomicFileTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::path(::testing::TempDir()) /
              fmt::format("atomic-{}-{}", ::getpid(),
                          ::testing::UnitTest::GetInstance()->current_test_info()->name());
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  static std::string read(const fs::path& path) {
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  std::ptrdiff_t files() const { return std::distance(fs::directory_iterator(folder_), {}); }

  fs::path folder_;
};

TEST_F(AtomicFileTest, HasItsNameOnlyWhenWhole) {
  const auto path = folder_ / "deep" / "er" / "a.bin";
  {
    AtomicFile file(path);
    file.write("one ");
    const char more[] = {'t', '\0', 'o'};
    file.write(more, sizeof more);
    EXPECT_FALSE(fs::exists(path));
    file.commit();
    EXPECT_EQ(read(path), std::string("one t\0o", 7));
  }
  EXPECT_EQ(read(path), std::string("one t\0o", 7));
  EXPECT_EQ(std::distance(fs::directory_iterator(path.parent_path()), {}), 1);
}

TEST_F(AtomicFileTest, LeavesTheOldFileWhenNotCommitted) {
  write_file(folder_ / "a", "old");
  {
    AtomicFile file(folder_ / "a");
    file.write("new");
  }
  EXPECT_EQ(read(folder_ / "a"), "old");
  EXPECT_EQ(files(), 1);
  write_file(folder_ / "a", "new");
  EXPECT_EQ(read(folder_ / "a"), "new");
  EXPECT_EQ(files(), 1);
}

TEST_F(AtomicFileTest, TwoWritersOfOneNameDoNotMix) {
  AtomicFile first(folder_ / "a"), second(folder_ / "a");
  first.write("first");
  second.write("second");
  second.commit();
  first.commit();
  EXPECT_EQ(read(folder_ / "a"), "first");
}

TEST_F(AtomicFileTest, WritesThroughASymbolicLink) {
  write_file(folder_ / "real", "old");
  fs::create_symlink("real", folder_ / "link");
  write_file(folder_ / "link", "new");
  EXPECT_TRUE(fs::is_symlink(folder_ / "link"));
  EXPECT_EQ(read(folder_ / "real"), "new");
}

TEST_F(AtomicFileTest, RefusesAFolderAndAFileInTheWay) {
  EXPECT_EQ(error_of([&] { write_file(folder_, "x"); }),
            fmt::format("cannot write {}: Is a directory; name a file in it", folder_.string()));
  write_file(folder_ / "file", "x");
  const auto path = folder_ / "file" / "a";
  EXPECT_EQ(
      error_of([&] { write_file(path, "x"); }),
      fmt::format("cannot write {}: Not a directory; a file stands where a folder is needed; move it away "
                  "or choose another path",
                  path.string()));
}

TEST_F(AtomicFileTest, SaysThatAPermissionLacks) {
  if (::geteuid() == 0) GTEST_SKIP() << "root may write everywhere";
  fs::permissions(folder_, fs::perms::owner_read | fs::perms::owner_exec);
  const auto message = error_of([&] { write_file(folder_ / "a", "x"); });
  fs::permissions(folder_, fs::perms::owner_all);
  EXPECT_NE(message.find("Permission denied; choose a folder you may write to"), std::string::npos)
      << message;
}

TEST_F(AtomicFileTest, AFullDiskIsAnErrorAndLeavesNothing) {
  write_file(folder_ / "a", "old");
  // The limit binds the whole process, so a child bears it; it reports by its exit status.
  const pid_t child = ::fork();
  if (child == 0) {
    std::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{100'000, 100'000};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    const auto message = error_of([&] { write_file(folder_ / "a", std::string(1'000'000, 'x')); });
    const bool said = message.find((folder_ / "a").string() +
                                   ": File too large; raise the file size limit") != std::string::npos;
    ::_exit(said ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(read(folder_ / "a"), "old");
  EXPECT_EQ(files(), 1);
}

}  // namespace
}  // namespace refine
