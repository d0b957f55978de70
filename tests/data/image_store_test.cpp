#include <ATen/ops/arange.h>
#include <ATen/ops/rand.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <refine/data/data.hpp>

#include <algorithm>
#include <csignal>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tests/data/image_bytes.hpp"
#include "tests/support/error_of.hpp"
#include "tests/support/file_permissions.hpp"
#include "tests/support/scratch_folder.hpp"

namespace refine::data {
namespace {

namespace fs = std::filesystem;
using refine::testing::Bytes;
using refine::testing::content;
using refine::testing::error_of;
using refine::testing::expect_words;
using refine::testing::grey_png;
using refine::testing::png;
using refine::testing::ScratchFolder;

using Sizes = std::vector<std::int64_t>;

/// Three classes of 50 images of 5 x 4 pixels, where image i is filled with grey i, and a store
/// beside them.
class ImageStore : public ::testing::Test {
 protected:
  ImageStore() {
    for (int i = 0; i < 150; ++i) write(i, grey_png(5, 4, static_cast<std::uint8_t>(i)));
  }

  void write(int i, const std::string& bytes) const {
    scratch_.write(fmt::format("train/{}/{:03}.png", "abc"[i / 50], i), bytes);
  }

  Dataset read(OnDecodeError on_error = OnDecodeError::fail, const ImageShape& image = {}) const {
    return image_folder(folder_, {.image = image, .on_error = on_error, .store = store_, .threads = 2});
  }

  /// True if `act` replaces the file.
  static bool rebuilds(const auto& act, const fs::path& file) {
    const auto before = std::make_shared<const detail::OpenFile>(file);
    act();
    struct stat old {
    }, now{};
    ::fstat(before->descriptor(), &old);
    ::stat(file.c_str(), &now);
    return old.st_ino != now.st_ino;
  }

  ScratchFolder scratch_;
  fs::path folder_ = scratch_.path / "train", store_ = scratch_.path / "kept/here",
           file_ = store_ / "train.images";
};

void expect_ascending(const Dataset& set) {
  set.validate();
  ASSERT_EQ(set.images.sizes(), (Sizes{150, 3, 4, 5}));
  EXPECT_TRUE(set.images.eq(at::arange(150).view({150, 1, 1, 1})).all().item<bool>());
  EXPECT_TRUE(set.labels.equal(at::arange(150).div(50, "floor")));
}

TEST_F(ImageStore, NewStore_HoldsTheDecodedImages) {
  for (int run = 0; run < 2; ++run) {
    const Dataset set = read();
    expect_ascending(set);
    EXPECT_EQ(set.classes, (std::vector<std::string>{"a", "b", "c"}));
    EXPECT_NE(detail::mapping_of(set.images), nullptr);
  }
  EXPECT_EQ(fs::file_size(file_), 4096u + 150 * 60 + 46);
  EXPECT_EQ(content(file_).substr(4096 + 77 * 60, 60), std::string(60, 77));
  EXPECT_EQ(std::distance(fs::directory_iterator(store_), {}), 1);
}

TEST_F(ImageStore, UnchangedFiles_AreNotDecodedAgain) {
  read();
  EXPECT_FALSE(rebuilds([&] { read(); }, file_));
  // The folder may be moved.
  fs::rename(folder_, scratch_.path / "moved");
  fs::create_directory(folder_);
  fs::rename(scratch_.path / "moved", folder_ / "train");
  EXPECT_FALSE(
      rebuilds([&] { expect_ascending(image_folder(folder_ / "train/", {.store = store_})); }, file_));
}

TEST_F(ImageStore, ChangedFilesOrOptions_RebuildIt) {
  const Dataset old = read();
  write(3, grey_png(5, 4, 200));  // modified
  EXPECT_TRUE(rebuilds([&] { EXPECT_EQ(read().images[3][0][0][0].item<int>(), 200); }, file_));
  scratch_.write("train/a/new.png", grey_png(5, 4, 1));  // added
  EXPECT_TRUE(rebuilds([&] { EXPECT_EQ(read().size(), 151); }, file_));
  fs::rename(folder_ / "a/new.png", folder_ / "b/new.png");  // moved
  EXPECT_TRUE(rebuilds([&] { EXPECT_EQ(read().labels.eq(1).sum().item<int>(), 51); }, file_));
  // A copy of another image that has the same size and time.
  const auto time = fs::last_write_time(folder_ / "b/new.png");
  const std::string dark = grey_png(5, 4, 100), light = grey_png(5, 4, 101);
  ASSERT_EQ(dark.size(), light.size());
  files::write(folder_ / "b/new.png", dark);
  fs::last_write_time(folder_ / "b/new.png", time);
  EXPECT_TRUE(rebuilds([&] { EXPECT_EQ(read().images.select(0, 100).max().item<int>(), 100); }, file_));
  files::write(folder_ / "b/new.png", light);
  fs::last_write_time(folder_ / "b/new.png", time);
  EXPECT_TRUE(rebuilds([&] { EXPECT_EQ(read().images.select(0, 100).min().item<int>(), 101); }, file_));
  fs::remove(folder_ / "b/new.png");  // removed
  EXPECT_TRUE(rebuilds([&] { EXPECT_EQ(read().size(), 150); }, file_));
  EXPECT_TRUE(rebuilds(
      [&] {
        const Dataset small =
            image_folder(folder_, {.image = {3, 2, 2}, .resize_mode = ResizeMode::stretch, .store = store_});
        EXPECT_EQ(small.images.sizes(), (Sizes{150, 3, 2, 2}));
      },
      file_));
  EXPECT_TRUE(rebuilds(
      [&] {
        image_folder(folder_, {.image = {3, 2, 2}, .resize_mode = ResizeMode::crop, .store = store_});
      },
      file_));
  EXPECT_TRUE(rebuilds(
      [&] {
        EXPECT_EQ(read(OnDecodeError::fail, {1, dynamic, dynamic}).image_shape(), (ImageShape{1, 4, 5}));
      },
      file_));
  expect_ascending(old);  // the earlier mapping is unchanged
}

TEST_F(ImageStore, OtherShorterSide_RebuildsIt) {
  Bytes ramp;  // column x is filled with 16 x
  for (int i = 0; i < 3 * 16 * 16; ++i) ramp.push_back(static_cast<std::uint8_t>(16 * (i / 3 % 16)));
  scratch_.write("ramp/a/0.png", png(16, 16, 8, PNG_COLOR_TYPE_RGB, ramp));
  const auto read = [&](int side) {
    return image_folder(scratch_.path / "ramp",
                        {.image = {3, 4, 4}, .resize_mode = ResizeMode::resize_crop(side), .store = store_});
  };
  read(4);
  // With the size that it has, the image is only cropped: columns 6 to 9 remain.
  EXPECT_EQ(read(16).images[0][0][0][0].item<int>(), 96);
}

TEST_F(ImageStore, TruncatedOrDamagedFile_IsRebuilt) {
  read();
  const std::string whole = content(file_);
  const auto rewrite = [&](const std::string& bytes) {
    fs::remove(file_);
    std::ofstream(file_, std::ios::binary) << bytes;
  };
  for (const std::size_t size : {std::size_t{21}, std::size_t{30}, std::size_t{4096}, std::size_t{4100},
                                 std::size_t{9000}, whole.size() - 60, whole.size() - 1}) {
    rewrite(whole.substr(0, size));
    EXPECT_TRUE(rebuilds([&] { expect_ascending(read()); }, file_)) << size;
    EXPECT_EQ(content(file_), whole);
  }
  const auto damaged = [&](std::size_t at, std::string_view with) {
    std::string bytes = whole;
    rewrite(bytes.replace(at, with.size(), with));
    EXPECT_TRUE(rebuilds([&] { expect_ascending(read()); }, file_)) << at << ' ' << with;
  };
  damaged(19, "2");  // the version
  damaged(whole.find("3x4x5"), "9x4x5");
  damaged(whole.find("3x4x5") + 6, "9");               // the number of files
  damaged(whole.size() - 46, "00000000000000000149");  // the number of images
  damaged(whole.size() - 46, "99999999999999999999");
  damaged(whole.size() - 25, "00000000000000000060");  // the length of the text
  rewrite(whole + "x");
  EXPECT_TRUE(rebuilds([&] { expect_ascending(read()); }, file_));

  const auto read_with_shape = [&] { expect_ascending(read(OnDecodeError::fail, {3, 4, 5})); };
  read_with_shape();
  std::string transposed = content(file_);
  rewrite(transposed.replace(transposed.find("3x4x5"), 5, "3x5x4"));  // the same number of pixels
  EXPECT_TRUE(rebuilds(read_with_shape, file_));
}

TEST_F(ImageStore, SkippedFiles_AreReportedAgain) {
  write(20, "no image");
  write(149, grey_png(5, 4, 149).substr(0, 50));
  write(60, grey_png(9, 9, 1));
  expect_words(error_of([&] { read(); }), {"020.png", "unsupported format"});
  EXPECT_FALSE(fs::exists(file_)) << "an incomplete store";
  EXPECT_EQ(std::distance(fs::directory_iterator(store_), {}), 0) << "nor a temporary file";
  const Dataset in_memory = [&] {
    ::testing::internal::CaptureStderr();
    const Dataset set = image_folder(folder_, {.on_error = OnDecodeError::skip});
    expect_words(::testing::internal::GetCapturedStderr(),
                 {"skipped: ", "020.png", "060.png", "9 x 9 pixels", "149.png"});
    return set;
  }();
  in_memory.validate();
  EXPECT_EQ(in_memory.size(), 147);
  for (int run = 0; run < 2; ++run) {
    ::testing::internal::CaptureStderr();
    const Dataset stored = read(OnDecodeError::skip);
    const std::string output = ::testing::internal::GetCapturedStderr();
    expect_words(output, {"020.png", "060.png", "9 x 9 pixels", "149.png"});
    EXPECT_EQ(std::ranges::count(output, '\n'), 3);
    EXPECT_TRUE(stored.images.equal(in_memory.images));
    EXPECT_TRUE(stored.labels.equal(in_memory.labels));
  }
  EXPECT_FALSE(rebuilds([&] { expect_words(error_of([&] { read(); }), {"020.png"}); }, file_))
      << "OnDecodeError::fail reports the file and keeps the store";
}

TEST_F(ImageStore, ManySkippedFiles_PrintTwentyLinesAndACount) {
  for (int i = 0; i < 45; ++i) write(i, "no image");
  for (const fs::path& store : {fs::path(), store_}) {
    ::testing::internal::CaptureStderr();
    EXPECT_EQ(image_folder(folder_, {.on_error = OnDecodeError::skip, .store = store}).size(), 105);
    const std::string output = ::testing::internal::GetCapturedStderr();
    EXPECT_EQ(std::ranges::count(output, '\n'), 21);
    expect_words(output, {"019.png", "25 more"});
    EXPECT_EQ(output.find("020.png"), output.npos);
  }

  // With `skipped` the caller gets all lines, and nothing is printed.
  std::vector<std::string> lines;
  ::testing::internal::CaptureStderr();
  image_folder(folder_, {.on_error = OnDecodeError::skip}, &lines);
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "");
  EXPECT_EQ(lines.size(), 45u);
}

TEST_F(ImageStore, ClassWithoutUsableFiles_Throws) {
  for (int i = 50; i < 100; ++i) write(i, "no image");
  for (const fs::path& store : {fs::path(), store_}) {
    expect_words(error_of([&] { image_folder(folder_, {.on_error = OnDecodeError::skip, .store = store}); }),
                 {(folder_ / "b").string(), "none of its 50", "050.png"});
  }
  for (int i = 0; i < 150; ++i) write(i, "no image");
  for (const fs::path& store : {fs::path(), store_}) {
    expect_words(
        error_of([&] {
          image_folder(folder_, {.image = {3, 4, 5}, .on_error = OnDecodeError::skip, .store = store});
        }),
        {"150 files", "000.png"});
  }
  fs::remove_all(folder_ / "c");
  fs::create_directory(folder_ / "c");
  expect_words(error_of([&] { read(); }), {(folder_ / "c").string(), "no .png"});
}

TEST_F(ImageStore, UnusablePath_Throws) {
  const auto error_at = [&](const fs::path& store) {
    return error_of([&] { image_folder(folder_, {.store = store}); });
  };
  scratch_.write("file", "");
  expect_words(error_at(scratch_.path / "file"),
               {"cannot write", "file/train.images", "Not a directory",
                "a file has the name of a folder that is needed", "move it away"});
  scratch_.write("mine/train.images", "the only copy of something");
  expect_words(error_at(scratch_.path / "mine"),
               {"mine/train.images", "not an image store", "another folder"});
  EXPECT_EQ(content(scratch_.path / "mine/train.images"), "the only copy of something");
  fs::create_directories(scratch_.path / "taken/train.images");
  expect_words(error_at(scratch_.path / "taken"), {"cannot write", "taken/train.images"});
  fs::create_directory(scratch_.path / "locked");
  fs::permissions(scratch_.path / "locked", fs::perms::owner_read | fs::perms::owner_exec);
  const std::string locked = [&] {
    const testing::FilePermissionsHold hold;
    return error_at(scratch_.path / "locked");
  }();
  expect_words(locked, {"Permission denied", "a folder with write permission"});
  expect_words(error_of([&] {
                 image_folder(
                     folder_,
                     {.image = {3, 1 << 24, 1 << 24}, .resize_mode = ResizeMode::stretch, .store = store_});
               }),
               {"126663739.5 GB", "free some space"});
  EXPECT_FALSE(fs::exists(file_));
}

TEST_F(ImageStore, FullDisk_ThrowsAndLeavesNothing) {
  // The limit holds for the whole process, so a child sets it and reports by its exit status.
  const pid_t child = ::fork();
  if (child == 0) {
    std::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{8000, 8000};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    const std::string line = error_of([&] { image_folder(folder_, {.store = store_, .threads = 1}); });
    ::_exit(line.find("cannot write " + file_.string()) == 0 && fs::is_empty(store_) ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

TEST_F(ImageStore, Split_HasOneFileForEachPart) {
  scratch_.write("test/b/0.png", grey_png(5, 4, 9));
  scratch_.write("test_remove_0/b/0.png", "ignored");
  for (int run = 0; run < 2; ++run) {
    const auto [train, test] = image_folders(scratch_.path, {.store = scratch_.path});
    expect_ascending(train);
    EXPECT_EQ(test.classes, train.classes);
    EXPECT_TRUE(test.labels.eq(1).all().item<bool>());
    EXPECT_TRUE(test.images.eq(9).all().item<bool>());
  }
  EXPECT_TRUE(fs::exists(scratch_.path / "train.images") && fs::exists(scratch_.path / "test.images"));
}

// ---- copy_on_write ----

TEST_F(ImageStore, CopyOnWrite_IsIndependentOfTheOriginal) {
  const Dataset set = read();
  const at::Tensor copy = copy_on_write(set.images);
  EXPECT_NE(detail::mapping_of(copy), nullptr);
  EXPECT_NE(copy.data_ptr(), set.images.data_ptr());
  EXPECT_TRUE(copy.equal(set.images));
  copy[100].fill_(255);
  expect_ascending(set);
  expect_ascending(read());
  // Changes are copied too.
  const at::Tensor second = copy_on_write(copy);
  EXPECT_TRUE(second.equal(copy));
  copy.fill_(1);
  EXPECT_TRUE(second[100].eq(255).all().item<bool>());
  EXPECT_TRUE(second[149].eq(149).all().item<bool>());
}

TEST_F(ImageStore, CopyOnWriteOfAView_HoldsItsImages) {
  const Dataset set = read();
  const at::Tensor middle = copy_on_write(set.images.narrow(0, 40, 20));
  EXPECT_TRUE(middle.equal(set.images.narrow(0, 40, 20)));
  middle.fill_(0);
  const at::Tensor first = copy_on_write(set.first(30).images);
  EXPECT_TRUE(first.equal(set.images.narrow(0, 0, 30)));
  const at::Tensor odd = copy_on_write(set.images.slice(0, 0, 150, 2));  // not contiguous
  EXPECT_TRUE(odd.equal(set.images.slice(0, 0, 150, 2)));
  odd.fill_(0);
  expect_ascending(set);
}

TEST_F(ImageStore, LastView_KeepsTheMapping) {
  at::Tensor left;
  {
    const Dataset set = read();
    left = copy_on_write(set.images)[149][0];
  }
  fs::remove_all(store_);
  EXPECT_TRUE(left.eq(149).all().item<bool>());
}

TEST(CopyOnWrite, TensorInMemory_IsCloned) {
  const at::Tensor images = at::rand({3, 1, 2, 2}).mul(255).to(at::kByte);
  const at::Tensor copy = copy_on_write(images);
  EXPECT_TRUE(copy.equal(images));
  EXPECT_NE(copy.data_ptr(), images.data_ptr());
  EXPECT_EQ(detail::mapping_of(copy), nullptr);
  EXPECT_EQ(copy_on_write(images.narrow(0, 0, 0)).size(0), 0);
}

}  // namespace
}  // namespace refine::data
