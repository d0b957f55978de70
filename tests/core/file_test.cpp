#include <refine/core/file.hpp>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "tests/support/error_of.hpp"
#include "tests/support/file_permissions.hpp"

namespace fs = std::filesystem;

namespace {

/// What was synced, in this order.
std::vector<fs::path>& synced() {
  static std::vector<fs::path> paths;
  return paths;
}

int file_sync_error = 0, folder_sync_error = 0;  ///< `errno` of every sync; 0: it succeeds

bool forbids_links = false;
int forbidden_links = 0;

/// While it exists, files get the usual permissions, and no links can be made.
struct ScopedForbiddenLinks {
  const ::mode_t mask = ::umask(022);
  ScopedForbiddenLinks() { forbids_links = true; }
  ~ScopedForbiddenLinks() {
    forbids_links = false;
    ::umask(mask);
  }
};

}  // namespace

/// In the C library's place: as where a security policy forbids to name a file that has no name.
extern "C" int linkat(int from_folder, const char* from, int to_folder, const char* to, int flags) noexcept {
  if (forbids_links) {
    ++forbidden_links;
    errno = EPERM;
    return -1;
  }
  return static_cast<int>(::syscall(SYS_linkat, from_folder, from, to_folder, to, flags));
}

/// In the C library's place: the library's own calls come here.
extern "C" int fsync(int descriptor) {
  const fs::path path = fs::read_symlink("/proc/self/fd/" + std::to_string(descriptor));
  synced().push_back(path);
  if (const int error = fs::is_directory(path) ? folder_sync_error : file_sync_error; error != 0) {
    errno = error;
    return -1;
  }
  return static_cast<int>(::syscall(SYS_fsync, descriptor));
}

namespace refine {
namespace {

using testing::error_of;
using testing::expect_words;

/// A folder for one test, removed with it.
struct ScratchPath {
  std::string path = fs::path(::testing::TempDir()) / "read-XXXXXX";
  ScratchPath() { path = ::mkdtemp(path.data()); }
  ~ScratchPath() { fs::remove_all(path); }
};

TEST(FilesRead, PipeSocketDeviceOrFolder_IsRefusedWithoutWaiting) {
  const ScratchPath scratch;
  const fs::path pipe = fs::path(scratch.path) / "pipe", socket = fs::path(scratch.path) / "socket";
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  ASSERT_EQ(::mknod(socket.c_str(), S_IFSOCK | 0600, 0), 0);
  const fs::path link = fs::path(scratch.path) / "link";
  fs::create_symlink("pipe", link);
  for (const fs::path& path : {pipe, socket, link, fs::path("/dev/null"), fs::path("/dev/zero")}) {
    expect_words(error_of([&] { files::read(path); }),
                 {"cannot read " + path.string(), "it is a device or a pipe", "copy its content to a file"});
    EXPECT_EQ(detail::read_beginning(path, 4), "");
  }
  expect_words(error_of([&] { files::read(scratch.path); }),
               {"cannot read " + scratch.path, "Is a directory"});
  expect_words(error_of([&] { files::read(pipe / "x"); }), {"Not a directory"});
}

TEST(FilesRead, LongerThanTheLimit_IsRefusedBeforeItIsRead) {
  const ScratchPath scratch;
  const fs::path path = fs::path(scratch.path) / "file";
  files::write(path, "abcd");
  EXPECT_EQ(files::read(path, 4), "abcd");
  expect_words(error_of([&] { files::read(path, 3); }), {path.string(), "4 bytes", "more than the 3"});
  EXPECT_EQ(detail::read_beginning(path, 3), "abc");
  EXPECT_EQ(detail::read_beginning(path, 9), "abcd");
  fs::resize_file(path, files::max_file_bytes + 1);  // without a limit of the caller
  expect_words(error_of([&] { files::read(path); }), {path.string(), "34359738369 bytes", "34359738368"});
}

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

TEST_F(AtomicFileTest, BeforeCommit_HasNotItsFinalName) {
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

TEST_F(AtomicFileTest, NotCommitted_LeavesTheOldFile) {
  files::write(folder_ / "a", "old");
  {
    AtomicFile file(folder_ / "a");
    file.write("new");
  }
  EXPECT_EQ(read(folder_ / "a"), "old");
  EXPECT_EQ(files(), 1);
  files::write(folder_ / "a", "new");
  EXPECT_EQ(read(folder_ / "a"), "new");
  EXPECT_EQ(files(), 1);
}

TEST_F(AtomicFileTest, TwoWritersOfOneName_DoNotMix) {
  AtomicFile first(folder_ / "a"), second(folder_ / "a");
  first.write("first");
  second.write("second");
  second.commit();
  first.commit();
  EXPECT_EQ(read(folder_ / "a"), "first");
}

TEST_F(AtomicFileTest, SymbolicLink_ReplacesItsTarget) {
  files::write(folder_ / "real", "old");
  fs::create_symlink("real", folder_ / "link");
  files::write(folder_ / "link", "new");
  EXPECT_TRUE(fs::is_symlink(folder_ / "link"));
  EXPECT_EQ(read(folder_ / "real"), "new");
}

TEST_F(AtomicFileTest, Pipe_IsRefused) {
  const auto path = folder_ / "pipe";
  ASSERT_EQ(::mkfifo(path.c_str(), 0600), 0);
  expect_words(error_of([&] { files::write(path, "x"); }), {path.string(), "device or a pipe"});
  EXPECT_TRUE(fs::is_fifo(path));
}

TEST_F(AtomicFileTest, FolderOrFileInTheWay_Throws) {
  expect_words(error_of([&] { files::write(folder_, "x"); }),
               {"cannot write " + folder_.string(), "Is a directory", "name a file in it"});
  files::write(folder_ / "file", "x");
  const auto path = folder_ / "file" / "a";
  expect_words(error_of([&] { files::write(path, "x"); }),
               {"cannot write " + path.string(), "Not a directory",
                "a file has the name of a folder that is needed", "move it away", "choose another path"});
}

TEST_F(AtomicFileTest, ExistingFile_KeepsItsPermissions) {
  const auto mode = [](const fs::path& path) {
    return static_cast<unsigned>(fs::status(path).permissions());
  };
  const auto path = folder_ / "a";
  for (const unsigned permissions : {0600u, 0640u, 0444u, 0755u, 0666u}) {
    files::write(path, "old");
    fs::permissions(path, fs::perms(permissions));
    AtomicFile file(path);
    for (const auto& entry : fs::directory_iterator(folder_)) {  // not readable by more people meanwhile, too
      EXPECT_EQ(mode(entry.path()) & ~permissions, 0u) << entry.path();
    }
    file.write("new");
    file.commit();
    EXPECT_EQ(mode(path), permissions);
    EXPECT_EQ(read(path), "new");
    fs::remove(path);
  }
  const mode_t before = ::umask(027);
  files::write(folder_ / "fresh", "x");
  ::umask(before);
  EXPECT_EQ(mode(folder_ / "fresh"), 0640u) << "a new file is as umask has it";

  files::write(folder_ / "real", "old");
  fs::permissions(folder_ / "real", fs::perms(0600));
  fs::create_symlink("real", folder_ / "link");
  files::write(folder_ / "link", "new");
  EXPECT_EQ(mode(folder_ / "real"), 0600u) << "through a symbolic link";
}

TEST_F(AtomicFileTest, FileOfAnotherUser_KeepsItsOwner) {
  const auto path = folder_ / "a";
  files::write(path, "old");
  if (::chown(path.c_str(), 1234, 1235) != 0) GTEST_SKIP() << "this user may not give files away";
  const auto expect_owner = [&] {
    struct ::stat state = {};
    ASSERT_EQ(::stat(path.c_str(), &state), 0);
    EXPECT_EQ(state.st_uid, 1234u);
    EXPECT_EQ(state.st_gid, 1235u);
  };
  files::write(path, "new");
  expect_owner();
  const ScopedForbiddenLinks scoped;
  files::write(path, "newer");
  expect_owner();
  EXPECT_EQ(read(path), "newer");
}

TEST_F(AtomicFileTest, Commit_SyncsNewFoldersTheFileAndItsFolder) {
  synced().clear();
  files::write(folder_ / "one" / "two" / "a", "x");
  ASSERT_EQ(synced().size(), 4u);
  const fs::path folder = fs::canonical(folder_);
  EXPECT_EQ(synced()[0], folder / "one");
  EXPECT_EQ(synced()[1], folder);
  EXPECT_EQ(synced()[2].parent_path(), folder / "one" / "two") << "the file, before it has its name";
  EXPECT_NE(synced()[2], folder / "one" / "two" / "a");
  EXPECT_EQ(synced()[3], folder / "one" / "two");

  synced().clear();
  files::write(folder_ / "b", "x");
  ASSERT_EQ(synced().size(), 2u);
  EXPECT_EQ(synced()[1], folder);
  synced().clear();
  { AtomicFile(folder_ / "c").write("x"); }
  EXPECT_TRUE(synced().empty());
}

TEST_F(AtomicFileTest, FileCannotBeSynced_ThrowsAndLeavesNothing) {
  file_sync_error = EIO;
  const std::string why = error_of([&] { files::write(folder_ / "a", "x"); });
  file_sync_error = 0;
  expect_words(why, {"cannot write", "Input/output error"});
  EXPECT_TRUE(fs::is_empty(folder_));
}

TEST_F(AtomicFileTest, FolderCannotBeSynced_ThrowsIfTheDiskFails) {
  folder_sync_error = EIO;
  const std::string of_rename = error_of([&] { files::write(folder_ / "a", "x"); }),
                    of_new_folder = error_of([&] { files::write(folder_ / "new" / "a", "x"); });
  folder_sync_error = EINVAL;  // of a file system that does not sync folders
  const std::string unsupported = error_of([&] { files::write(folder_ / "b", "x"); });
  folder_sync_error = 0;
  expect_words(of_rename, {"cannot write", "Input/output error"});
  expect_words(of_new_folder, {"cannot write", "Input/output error"});
  EXPECT_FALSE(fs::exists(folder_ / "new" / "a"));
  EXPECT_EQ(unsupported, "");
}

TEST_F(AtomicFileTest, NameOfATemporaryFile_IsPartial) {
  EXPECT_TRUE(AtomicFile::is_partial("a/.refine-1-0.partial"));
  for (const char* other : {".refine-1-0", "a.partial", "refine-1-0.partial", ".refine-1-0.partial/a"}) {
    EXPECT_FALSE(AtomicFile::is_partial(other)) << other;
  }
  synced().clear();
  const ScopedForbiddenLinks scoped;  // so that the temporary file has a name
  files::write(folder_ / "a", "x");
  EXPECT_TRUE(std::ranges::any_of(synced(), &AtomicFile::is_partial));
}

TEST_F(AtomicFileTest, KilledWriter_LeavesNothing) {
  const ::pid_t child = ::fork();
  if (child == 0) {
    AtomicFile file(folder_ / "a");
    file.write(std::string(1 << 20, 'x'));
    ::kill(::getpid(), SIGKILL);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status));
  // Only where the file system cannot hold a file without a name (O_TMPFILE), one is left, under a temporary name.
  const int descriptor = ::open(folder_.c_str(), O_TMPFILE | O_WRONLY, 0600);
  if (descriptor < 0) GTEST_SKIP() << "this file system has no O_TMPFILE";
  ::close(descriptor);
  EXPECT_TRUE(fs::is_empty(folder_));
}

TEST_F(AtomicFileTest, LinksAreForbidden_WritesTheFileAllTheSame) {
  const std::string text(3'000'000, 'x');
  files::write(folder_ / "old", "y");
  fs::permissions(folder_ / "old", fs::perms::owner_read | fs::perms::owner_write | fs::perms::group_read);
  {
    const ScopedForbiddenLinks scoped;
    files::write(folder_ / "a", text);
    files::write(folder_ / "old", text);
    files::write(folder_ / "empty", "");
  }
  if (forbidden_links == 0) GTEST_SKIP() << "this file system has no O_TMPFILE";
  EXPECT_EQ(read(folder_ / "a"), text);
  EXPECT_EQ(read(folder_ / "old"), text);
  EXPECT_EQ(read(folder_ / "empty"), "");
  struct ::stat state = {};
  ASSERT_EQ(::stat((folder_ / "a").c_str(), &state), 0);
  EXPECT_EQ(state.st_mode & 0777, 0644u);
  ASSERT_EQ(::stat((folder_ / "old").c_str(), &state), 0);
  EXPECT_EQ(state.st_mode & 0777, 0640u);
  EXPECT_EQ(files(), 3) << "no temporary file is left";
}

TEST_F(AtomicFileTest, LinksAreForbiddenAndTheDiskIsFull_ThrowsAndLeavesNothing) {
  AtomicFile file(folder_ / "a");
  file.write(std::string(50 * 4096, 'x'));  // whole blocks: `commit` has nothing to write but the copy
  const ScopedForbiddenLinks scoped;
  forbidden_links = 0;
  struct ::rlimit old = {};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &old), 0);
  const ::rlimit limit{50'000, old.rlim_max};
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &limit), 0);
  const std::string why = error_of([&] { file.commit(); });
  ::setrlimit(RLIMIT_FSIZE, &old);
  std::signal(SIGXFSZ, handler);
  if (forbidden_links == 0) GTEST_SKIP() << "this file system has no O_TMPFILE";
  expect_words(why, {"cannot write", "File too large", "ulimit -f"});
  EXPECT_EQ(files(), 0);
}

TEST_F(AtomicFileTest, DanglingLink_ItsTargetIsWritten) {
  fs::create_directory(folder_ / "elsewhere");
  fs::create_symlink("elsewhere/real", folder_ / "link");
  fs::create_symlink("link", folder_ / "link to the link");
  files::write(folder_ / "link to the link", "x");
  EXPECT_TRUE(fs::is_symlink(folder_ / "link"));
  EXPECT_EQ(read(folder_ / "elsewhere" / "real"), "x");
  fs::create_symlink("ring", folder_ / "ring");
  expect_words(error_of([&] { files::write(folder_ / "ring", "x"); }), {"cannot write", "ring"});
}

TEST_F(AtomicFileTest, MissingPermission_Throws) {
  fs::permissions(folder_, fs::perms::owner_read | fs::perms::owner_exec);
  const std::string message = [&] {
    const testing::FilePermissionsHold hold;
    return error_of([&] { files::write(folder_ / "a", "x"); });
  }();
  fs::permissions(folder_, fs::perms::owner_all);
  expect_words(message, {"Permission denied", "choose a folder with write permission"});
}

TEST_F(AtomicFileTest, FullDisk_ThrowsAndLeavesNothing) {
  files::write(folder_ / "a", "old");
  // The limit binds the whole process, so a child bears it; it reports by its exit status.
  const pid_t child = ::fork();
  if (child == 0) {
    std::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{100'000, 100'000};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    const auto message = error_of([&] { files::write(folder_ / "a", std::string(1'000'000, 'x')); });
    const bool reported = message.find((folder_ / "a").string() +
                                       ": File too large; raise the file size limit") != std::string::npos;
    ::_exit(reported ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(read(folder_ / "a"), "old");
  EXPECT_EQ(files(), 1);
}

}  // namespace
}  // namespace refine
