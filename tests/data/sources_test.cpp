#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/nll_loss.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros_like.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <png.h>
#include <sys/stat.h>
#include <zlib.h>
#include <refine/data/data.hpp>

#include <array>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tests/data/image_bytes.hpp"
#include "tests/support/error_of.hpp"
#include "tests/support/scratch_folder.hpp"

namespace refine::data {
namespace {

using refine::testing::Bytes;
using refine::testing::content;
using refine::testing::error_of;
using refine::testing::expect_words;
using refine::testing::grey_png;
using refine::testing::jpeg;
using refine::testing::png;
using refine::testing::ScratchFolder;

std::string pixels_of(const at::Tensor& image) {
  const auto flat = image.contiguous();
  return {reinterpret_cast<const char*>(flat.const_data_ptr<std::uint8_t>()),
          static_cast<std::size_t>(flat.numel())};
}

std::string planes(const Bytes& r, const Bytes& g, const Bytes& b) {
  std::string all;
  for (const auto* plane : {&r, &g, &b}) all.append(plane->begin(), plane->end());
  return all;
}

TEST(DecodeImage, EveryKindOfPng_IsRead) {
  const auto read = [](const std::string& bytes) { return pixels_of(decode_image_bytes(bytes, "x.png")); };
  const auto expected = planes({1, 4, 7, 10}, {2, 5, 8, 11}, {3, 6, 9, 12});
  const Bytes rgb = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
  EXPECT_EQ(read(png(2, 2, 8, PNG_COLOR_TYPE_RGB, rgb)), expected);
  EXPECT_EQ(read(png(2, 2, 8, PNG_COLOR_TYPE_RGB, rgb, {}, PNG_INTERLACE_ADAM7)), expected);
  EXPECT_EQ(read(png(2, 2, 8, PNG_COLOR_TYPE_RGBA, {1, 2, 3, 0, 4, 5, 6, 9, 7, 8, 9, 128, 10, 11, 12, 255})),
            expected);
  EXPECT_EQ(read(png(2, 2, 8, PNG_COLOR_TYPE_PALETTE, {0, 1, 2, 3}, rgb)), expected);
  const Bytes grey = {7, 8, 9, 250};
  EXPECT_EQ(read(png(2, 2, 8, PNG_COLOR_TYPE_GRAY, grey)), planes(grey, grey, grey));
  EXPECT_EQ(read(png(2, 2, 8, PNG_COLOR_TYPE_GA, {7, 1, 8, 2, 9, 3, 250, 4})), planes(grey, grey, grey));
  EXPECT_EQ(read(png(2, 2, 16, PNG_COLOR_TYPE_GRAY, {7, 99, 8, 99, 9, 99, 250, 99})),
            planes(grey, grey, grey));
  const Bytes bits = {255, 0, 0, 255};
  EXPECT_EQ(read(png(2, 2, 1, PNG_COLOR_TYPE_GRAY, {0x80, 0x40})), planes(bits, bits, bits));
}

TEST(DecodeImage, ColourAndGreyJpeg_IsRead) {
  const auto colour = decode_image_bytes(jpeg(17, 9, {200, 40, 90}), "x.jpg");
  ASSERT_EQ(colour.sizes(), (std::vector<std::int64_t>{3, 9, 17}));
  const int expected[] = {200, 40, 90};
  for (int c = 0; c < 3; ++c) {
    EXPECT_LE(colour[c].to(at::kInt).sub(expected[c]).abs().max().item<int>(), 3);
  }
  const auto grey = decode_image_bytes(jpeg(8, 8, {90, 90, 90}, false, true), "x.jpg");
  EXPECT_LE(grey.to(at::kInt).sub(90).abs().max().item<int>(), 2);
}

TEST(DecodeImage, TruncatedPngOrJpeg_ThrowsWithTheFileName) {
  const ScratchFolder scratch;
  const std::string whole_png = png(6, 6, 8, PNG_COLOR_TYPE_RGB, Bytes(108, 77)),
                    whole_jpeg = jpeg(16, 16, {}, true);
  decode_image_bytes(whole_png, "whole");
  decode_image_bytes(whole_jpeg, "whole");
  for (std::size_t n = 0; n < whole_png.size(); ++n) {
    expect_words(error_of([&] { decode_image_bytes(whole_png.substr(0, n), "a/b.png"); }),
                 {"cannot decode a/b.png: "});
  }
  for (std::size_t n = 0; n + 2 < whole_jpeg.size(); ++n) {
    expect_words(error_of([&] { decode_image_bytes(whole_jpeg.substr(0, n), "a/b.jpg"); }),
                 {"cannot decode a/b.jpg: "});
    EXPECT_EQ(decode_image_bytes(whole_jpeg, "whole").size(1), 16);  // the decoder keeps no state
  }
  const auto file = scratch.write("cut.jpg", whole_jpeg.substr(0, whole_jpeg.size() / 2));
  expect_words(error_of([&] { decode_image(file); }), {file.string(), "remove this image"});
  expect_words(error_of([&] { decode_image(scratch.path / "none.png"); }), {"none.png", "No such file"});
  expect_words(error_of([&] { decode_image(scratch.path); }), {scratch.path.string()});
  expect_words(error_of([&] { decode_image_bytes("GIF89a", "x"); }), {"unsupported format", "GIF"});
}

TEST(DecodeImage, DamageOrForgedSize_Throws) {
  auto damaged = grey_png(40, 40, 9);
  damaged[damaged.size() - 20] ^= 0x55;
  expect_words(error_of([&] { decode_image_bytes(damaged, "x.png"); }), {"x.png"});
  auto forged = jpeg(16, 16, {1, 2, 3});
  const auto frame = forged.find("\xff\xc0");
  ASSERT_NE(frame, std::string::npos);
  for (int i = 5; i < 9; ++i) forged[frame + i] = '\xf0';
  expect_words(error_of([&] { decode_image_bytes(forged, "x.jpg"); }), {"61680 x 61680"});
}

TEST(ImageFolder, AnyNumberOfThreads_SortsClassesAndFiles) {
  const ScratchFolder scratch;
  Bytes expected;
  for (int c = 2; c >= 0; --c) {
    for (int i = 99; i >= 0; --i) {
      scratch.write(fmt::format("{}/{:03}.{}", "abc"[c], i, i % 2 ? "png" : "PNG"),
                    grey_png(3, 2, static_cast<std::uint8_t>(80 * c + i / 2)));
    }
  }
  scratch.write("notes.txt", "");
  scratch.write("a/notes.txt", "");
  scratch.write(".hidden/x.png", "");
  for (const unsigned threads : {1u, 2u, 5u}) {
    const auto set = image_folder(scratch.path, {.threads = threads});
    set.validate();
    ASSERT_EQ(set.size(), 300);
    EXPECT_EQ(set.classes, (std::vector<std::string>{"a", "b", "c"}));
    for (std::int64_t i = 0; i < 300; ++i) {
      EXPECT_EQ(set.labels[i].item<int>(), i / 100);
      const auto v = static_cast<std::uint8_t>(80 * (i / 100) + i % 100 / 2);
      EXPECT_EQ(pixels_of(set.images[i]), std::string(18, static_cast<char>(v)));
    }
  }
}

TEST(ImageFolder, FolderLinkedByTwoClasses_BelongsToBoth) {
  const ScratchFolder scratch;
  for (const char* name : {"data/a/1.png", "data/b/2.png", "pool/3.png", "pool/4.png"})
    scratch.write(name, grey_png(2, 2, 1));
  for (const char* name : {"data/a/more", "data/b/more"})
    std::filesystem::create_directory_symlink("../../pool", scratch.path / name);
  std::filesystem::create_directory_symlink("more", scratch.path / "data/b/again");  // read once
  std::filesystem::create_directory_symlink(".", scratch.path / "pool/self");        // a cycle
  const Dataset set = image_folder(scratch.path / "data");
  EXPECT_EQ(set.labels.eq(0).sum().item<int>(), 3);
  EXPECT_EQ(set.labels.eq(1).sum().item<int>(), 3);
}

TEST(ImageFolder, BadFolderOrFile_IsNamedInTheError) {
  const ScratchFolder scratch;
  expect_words(error_of([&] { image_folder(scratch.path / "none"); }), {"none", "No such file"});
  expect_words(error_of([&] { image_folder(scratch.path); }), {scratch.path.string(), "no class folders"});
  for (int i = 0; i < 200; ++i) scratch.write(fmt::format("train/a/{:03}.png", i), grey_png(4, 4, 1));
  scratch.write("train/b/0.png", grey_png(4, 4, 1));
  scratch.write("test/a/0.png", grey_png(4, 4, 1));
  EXPECT_EQ(image_folders(scratch.path).test.classes.size(), 2u);  // a class may lack test images

  const auto train = scratch.path / "train";
  expect_words(error_of([&] { image_folder(train, {.image = {3, 8, 8}}); }), {"000.png", "4 x 4", "8 x 8"});
  scratch.write("train/a/150.png", grey_png(4, 4, 1).substr(0, 50));
  scratch.write("train/a/120.png", grey_png(5, 4, 1));
  for (int i = 0; i < 5; ++i) {  // the first file is named, whichever thread is first
    expect_words(error_of([&] { image_folder(train, {.threads = 4}); }), {"120.png", "5 x 4 pixels"});
  }
  scratch.write("train/a/120.png", grey_png(4, 4, 1));
  expect_words(error_of([&] { image_folders(scratch.path); }), {"150.png", "cannot decode"});
  scratch.write("train/a/150.png", grey_png(4, 4, 1));
  scratch.write("test/c/0.png", grey_png(4, 4, 1));
  expect_words(error_of([&] { image_folders(scratch.path); }), {"test/c", "2 known classes"});
  std::filesystem::remove(scratch.path / "test/c/0.png");
  std::filesystem::rename(scratch.path / "test/c", scratch.path / "test/b");
  expect_words(error_of([&] { image_folders(scratch.path); }), {"test/b", "no .png"});
}

TEST(ImageFolders, NameThatIsNotUtf8_IsTheSameClassInBothParts) {
  const ScratchFolder scratch;
  for (const std::string part : {"train/", "test/"})
    scratch.write(part +
                      "K\xe4"
                      "fer/1.png",
                  grey_png(2, 2, 1));
  EXPECT_EQ(image_folders(scratch.path).test.classes, (std::vector<std::string>{"K\\xe4"
                                                                                "fer"}));
}

/// Returns a file whose record i has label (i + first) % 10 and (i + j + first) % 251 as byte j of
/// the image.
std::string cifar_file(int records, int first) {
  std::string bytes;
  for (int i = 0; i < records; ++i) {
    bytes += static_cast<char>((i + first) % 10);
    for (int j = 0; j < 3072; ++j) bytes += static_cast<char>((i + j + first) % 251);
  }
  return bytes;
}

void write_cifar(const ScratchFolder& scratch, const std::string& folder) {
  for (int f = 1; f <= 5; ++f)
    scratch.write(fmt::format("{}data_batch_{}.bin", folder, f), cifar_file(4, 10 * f));
  scratch.write(folder + "test_batch.bin", cifar_file(3, 7));
}

TEST(Cifar10, BinaryFiles_AreRead) {
  for (const std::string folder : {"", "cifar-10-batches-bin/"}) {
    const ScratchFolder scratch;
    write_cifar(scratch, folder);
    const auto [train, test] = cifar10(scratch.path);
    train.validate();
    ASSERT_EQ(train.size(), 20);
    ASSERT_EQ(test.size(), 3);
    EXPECT_EQ(train.task(), tasks::cifar10);
    EXPECT_EQ(train.classes[9], "truck");
    for (int k = 0; k < 20; ++k) {  // image k: record k % 4 of file 1 + k / 4
      const int first = 10 * (1 + k / 4), i = k % 4;
      EXPECT_EQ(train.labels[k].item<int>(), (i + first) % 10);
      EXPECT_EQ(train.images[k][2][31][5].item<int>(), (i + (2 * 1024 + 31 * 32 + 5) + first) % 251);
      EXPECT_EQ(train.images[k][0][1][0].item<int>(), (i + 32 + first) % 251);
    }
    EXPECT_EQ(test.labels[2].item<int>(), 9);

    scratch.write(folder + "batches.meta.txt", "a\nb\nc\nd\ne\nf\ng\nh\ni\nj\n\n");
    EXPECT_EQ(cifar10(scratch.path).test.classes[9], "j");
  }
}

TEST(Cifar10, ImageFolders_AreReadAndBothLayoutsThrow) {
  const ScratchFolder scratch;
  const std::vector<std::string> names = {"airplane", "automobile", "bird",  "cat",  "deer",
                                          "dog",      "frog",       "horse", "ship", "truck"};
  for (const auto& name : names) {
    for (const auto* part : {"train/", "test/"}) scratch.write(part + name + "/1.png", grey_png(32, 32, 5));
  }
  EXPECT_EQ(cifar10(scratch.path).train.task(), tasks::cifar10);
  EXPECT_EQ(cifar10(scratch.path).test.classes, names);
  write_cifar(scratch, "");
  expect_words(error_of([&] { cifar10(scratch.path); }), {scratch.path.string(), "both"});
}

TEST(Cifar10, OtherNumberOfFolders_Throws) {
  const ScratchFolder scratch;
  for (const char* name : {"train/a/1.png", "test/a/1.png"}) scratch.write(name, grey_png(32, 32, 1));
  expect_words(error_of([&] { cifar10(scratch.path); }), {scratch.path.string(), "class folders", "got 1"});
}

TEST(Cifar10, BadFile_IsNamedInTheError) {
  const ScratchFolder scratch;
  expect_words(error_of([&] { cifar10(scratch.path / "none"); }), {"none", "download it"});
  write_cifar(scratch, "");
  const auto third = scratch.path / "data_batch_3.bin";
  const auto whole = content(third);
  scratch.write("data_batch_3.bin", whole.substr(0, whole.size() - 1));
  expect_words(error_of([&] { cifar10(scratch.path); }), {third.string(), "12291 bytes", "truncated"});
  scratch.write("data_batch_3.bin", "");
  expect_words(error_of([&] { cifar10(scratch.path); }), {third.string(), "0 bytes"});
  auto odd = whole;
  odd[2 * 3073] = 10;
  scratch.write("data_batch_3.bin", odd);
  expect_words(error_of([&] { cifar10(scratch.path); }), {third.string(), "label", "image 2", "10"});
  std::filesystem::remove(third);
  expect_words(error_of([&] { cifar10(scratch.path); }), {third.string(), "No such file"});
  scratch.write("data_batch_3.bin", whole);
  scratch.write("batches.meta.txt", "one two");
  expect_words(error_of([&] { cifar10(scratch.path); }), {"batches.meta.txt", "classes", "got 2"});
  scratch.write("batches.meta.txt", "a\nb\nc\xe9\nd\ne\nf\ng\nh\ni\nj\n");  // Latin-1
  expect_words(error_of([&] { cifar10(scratch.path); }), {"batches.meta.txt", "line 3 is not UTF-8", "0xe9"});
}

TEST(Cifar10, FileLongerThanItsKind_IsRefusedBeforeItIsRead) {
  const ScratchFolder scratch;
  write_cifar(scratch, "");
  const auto meta =
      scratch.write("batches.meta.txt", "a\nb\nc\nd\ne\nf\ng\nh\ni\nj\n" + std::string(65'516, '\n'));
  EXPECT_EQ(cifar10(scratch.path).test.classes[0], "a");
  std::filesystem::resize_file(meta, (1 << 16) + 1);
  expect_words(error_of([&] { cifar10(scratch.path); }), {meta.string(), "65537 bytes", "65536"});
  std::filesystem::remove(meta);
  const auto batch = scratch.path / "test_batch.bin";
  std::filesystem::resize_file(batch, 30'730'000);  // zeros are airplanes
  EXPECT_EQ(cifar10(scratch.path).test.size(), 10'000);
  std::filesystem::resize_file(batch, 30'730'001);
  expect_words(error_of([&] { cifar10(scratch.path); }), {batch.string(), "30730001 bytes", "30730000"});
  std::filesystem::resize_file(batch, std::uintmax_t{1} << 40);
  expect_words(error_of([&] { cifar10(scratch.path); }), {batch.string(), "1099511627776 bytes", "30730000"});
}

TEST(ReadIdx, Pipe_IsRefusedWithoutWaiting) {
  const ScratchFolder scratch;
  const auto pipe = scratch.path / "images";
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  expect_words(error_of([&] { read_idx(pipe); }), {pipe.string(), "it is a device or a pipe"});
}

std::string idx_file(std::vector<int> extents, const std::string& bytes) {
  std::string out{'\0', '\0', '\x08', static_cast<char>(extents.size())};
  for (const int e : extents) {
    for (int shift = 24; shift >= 0; shift -= 8) out += static_cast<char>(e >> shift);
  }
  return out + bytes;
}

std::string gzipped(const std::string& bytes) {
  const ScratchFolder scratch;
  const auto path = scratch.path / "x.gz";
  gzFile file = gzopen(path.c_str(), "wb");
  gzwrite(file, bytes.data(), static_cast<unsigned>(bytes.size()));
  gzclose(file);
  return content(path);
}

TEST(ReadIdx, PlainOrGzipped_IsRead) {
  const ScratchFolder scratch;
  const auto bytes = idx_file({2, 3}, "abcdef");
  for (const auto& form : {bytes, gzipped(bytes)}) {
    const auto t = read_idx(scratch.write("x", form));
    EXPECT_EQ(t.sizes(), (std::vector<std::int64_t>{2, 3}));
    EXPECT_EQ(pixels_of(t), "abcdef");
  }
  EXPECT_EQ(read_idx(scratch.write("x", idx_file({0, 3}, ""))).numel(), 0);
}

TEST(ReadIdx, TruncatedOrDamagedFile_Throws) {
  const ScratchFolder scratch;
  std::string noise;
  Random random(3);
  for (int i = 0; i < 60; ++i) noise += static_cast<char>(random());
  const auto whole = idx_file({5, 12}, noise), zipped = gzipped(whole);
  const auto refuses = [&](const std::string& bytes) {
    const auto path = scratch.write("x-idx", bytes);
    expect_words(error_of([&] { read_idx(path); }), {"cannot read " + path.string()});
  };
  for (std::size_t n = 0; n < whole.size(); ++n) refuses(whole.substr(0, n));
  for (std::size_t n = 0; n < zipped.size(); ++n) refuses(zipped.substr(0, n));
  int harmless = 0;
  for (std::size_t n = 10; n < zipped.size();
       ++n) {  // from 10: the gzip header's time and system may be anything
    auto garbled = zipped;
    garbled[n] ^= 0x10;
    try {  // a few bits of a gzip file have no meaning: then the result must still be right
      EXPECT_EQ(pixels_of(read_idx(scratch.write("x-idx", garbled))), noise) << n;
      ++harmless;
    } catch (const Error&) {
    }
  }
  EXPECT_LE(harmless, 2);
  refuses(whole + "x");
  refuses(gzipped(whole + "x"));
  refuses(idx_file({1 << 30, 1 << 30, 1 << 30}, "x"));
  auto floats = whole;
  floats[2] = 0x0d;
  refuses(floats);
  expect_words(error_of([&] { read_idx(scratch.path / "none"); }), {"none", "No such file"});
  error_of([&] { read_idx(scratch.path); });
}

TEST(ReadIdx, AtEachLimit_ReadsOnAndOneBeyondThrows) {
  const ScratchFolder scratch;
  const auto error = [&](std::vector<int> extents, std::size_t bytes) {  // zeros
    const auto path = scratch.write("x-idx", idx_file(std::move(extents), std::string(bytes, '\0')));
    return error_of([&] { read_idx(path); });
  };
  const std::string_view shorter = "shorter than its IDX header requires";
  expect_words(error({1 << 16, 1 << 16}, 0),
               {"claims 4294967296 bytes for a file of 12, more than 50 times"});
  expect_words(error({1 << 16, (1 << 16) + 1}, 0),
               {"claims 65536×65537 bytes, more than the 4294967296 allowed"});
  expect_words(error({1 << 20}, 0), {shorter});
  expect_words(error({(1 << 20) + 1}, 0), {"claims 1048577 bytes for a file of 8, more than 50 times"});
  expect_words(error({1'200'000}, 24'000 - 8), {shorter});
  expect_words(error({1'200'001}, 24'000 - 8),
               {"claims 1200001 bytes for a file of 24000, more than 50 times"});
  // The strides of an empty tensor, too, are products of the other extents.
  EXPECT_EQ(error({0, 1 << 16, 1 << 16}, 0), "");
  expect_words(error({0, -1, -1, -1}, 0), {"0×4294967295×4294967295×4294967295 bytes, more than the"});
}

TEST(FashionMnist, Images_ArePaddedAndRepeatedInThreeChannels) {
  const ScratchFolder scratch;
  std::string grey;
  for (int i = 0; i < 2 * 28 * 28; ++i) grey += static_cast<char>(i % 253 + 1);
  const auto write = [&](const std::string& part, const std::string& end) {
    const auto maybe = [&](const std::string& b) { return end.empty() ? b : gzipped(b); };
    scratch.write(part + "-images-idx3-ubyte" + end, maybe(idx_file({2, 28, 28}, grey)));
    scratch.write(part + "-labels-idx1-ubyte" + end, maybe(idx_file({2}, {'\x09', '\x00'})));
  };
  write("train", ".gz");
  expect_words(error_of([&] { fashion_mnist(scratch.path); }),
               {scratch.path.string(), "t10k-images", "install"});
  write("t10k", "");
  const auto [train, test] = fashion_mnist(scratch.path);
  train.validate();
  EXPECT_EQ(train.task(), tasks::fashion_mnist);
  EXPECT_EQ(train.classes.at(9), "Ankle boot");
  EXPECT_EQ(train.labels[0].item<int>(), 9);
  EXPECT_TRUE(train.images.equal(test.images));
  for (int i = 0; i < 2; ++i) {
    const auto got = pixels_of(test.images[i]);
    for (int c = 0; c < 3; ++c) {
      for (int y = 0; y < 32; ++y) {
        for (int x = 0; x < 32; ++x) {
          const bool inside = y >= 2 && y < 30 && x >= 2 && x < 30;
          const char expected = inside ? grey[(i * 28 + y - 2) * 28 + x - 2] : '\0';
          ASSERT_EQ(got[(c * 32 + y) * 32 + x], expected);
        }
      }
    }
  }
  scratch.write("t10k-labels-idx1-ubyte", idx_file({1}, "\x01"));
  expect_words(error_of([&] { fashion_mnist(scratch.path); }), {"t10k-labels", "2 images"});
  scratch.write("t10k-labels-idx1-ubyte", idx_file({2}, "\x01\x0a"));
  expect_words(error_of([&] { fashion_mnist(scratch.path); }), {"t10k-labels", "10"});
  scratch.write("t10k-images-idx3-ubyte", idx_file({1, 2, 2}, "abcd"));
  expect_words(error_of([&] { fashion_mnist(scratch.path); }), {"t10k-images", "28×28"});
}

TEST(FashionMnist, InstalledPackage_HasTheKnownSizesAndMean) {
  if (!std::filesystem::exists("/usr/share/datasets/fashion-mnist"))
    GTEST_SKIP() << "dataset-fashion-mnist is not installed";
  const auto [train, test] = fashion_mnist();
  EXPECT_EQ(train.size(), 60000);
  EXPECT_EQ(test.size(), 10000);
  for (const auto* set : {&train, &test}) {
    for (int c = 0; c < 10; ++c) EXPECT_EQ(set->labels.eq(c).sum().item<std::int64_t>(), set->size() / 10);
  }
  // The mean grey of the 28x28 training images is known to be 0.2860.
  EXPECT_NEAR(train.images.to(at::kFloat).mean().item<double>() / 255 * (32 * 32) / (28 * 28), 0.2860, 1e-4);
}

TEST(Synthetic, SameSeed_GivesTheSameBalancedImages) {
  const auto a = Synthetic{.train = 40, .test = 20}.make(), b = Synthetic{.train = 40, .test = 20}.make();
  a.train.validate();
  EXPECT_EQ(a.train.task(), tasks::cifar10);
  EXPECT_TRUE(a.train.images.equal(b.train.images));
  EXPECT_FALSE(a.train.images.narrow(0, 0, 20).equal(a.test.images));
  EXPECT_FALSE((Synthetic{.train = 40, .test = 20, .seed = 1}.make().train.images.equal(a.train.images)));
  for (int c = 0; c < 10; ++c) EXPECT_EQ(a.train.labels.eq(c).sum().item<int>(), 4);
  EXPECT_EQ((Synthetic{.task = {{1, 9, 12}, 3}, .train = 5, .test = 0}.make().train.task()),
            (Task{{1, 9, 12}, 3}));
  expect_words(error_of([] { Synthetic{.task = {{3, dynamic, 32}, 10}}.make(); }), {"known"});
}

/// Classifies by the nearest of the classes' mean images, at 4×4 pixels.
TEST(Synthetic, NearestMean_ClassifiesMostImages) {
  const auto [train, test] = Synthetic{.train = 400, .test = 200}.make();
  const auto features_of = [](const Dataset& set) {
    return to_float(set.images).view({set.size(), 3, 4, 8, 4, 8}).mean({3, 5}).flatten(1);
  };
  std::vector<at::Tensor> means;
  const auto features = features_of(train), probes = features_of(test);
  for (int c = 0; c < 10; ++c)
    means.push_back(features.index_select(0, train.labels.eq(c).nonzero().view({-1})).mean(0));
  std::vector<at::Tensor> distances;
  for (const auto& mean : means) distances.push_back(probes.sub(mean).square().sum(1, true));
  const auto right = at::cat(distances, 1).argmin(1).eq(test.labels).sum().item<std::int64_t>();
  EXPECT_GT(right, 170);
}

/// Trains two convolutions and a linear layer with plain momentum for sixty steps.
TEST(Synthetic, SmallNetwork_LearnsItInSixtySteps) {
  at::set_num_threads(1);  // more do not help so small a network, and wait for each other on a busy machine
  at::manual_seed(1);
  const auto [train, test] = Synthetic{}.make();
  std::vector<at::Tensor> weights = {at::randn({16, 3, 3, 3}).mul_(0.25),
                                     at::randn({32, 16, 3, 3}).mul_(0.12), at::randn({10, 32}).mul_(0.2)};
  std::vector<at::Tensor> momenta;
  for (auto& w : weights) {
    w.requires_grad_(true);
    momenta.push_back(at::zeros_like(w));
  }
  const auto logits = [&](const at::Tensor& images) {
    const auto x = to_float(images).sub_(0.5).mul_(4);
    const auto y = at::conv2d(x, weights[0], {}, 2, 1).relu();
    return at::linear(at::conv2d(y, weights[1], {}, 2, 1).relu().mean({2, 3}), weights[2]);
  };
  for (std::int64_t step = 0, epoch = 0; step < 60; ++epoch) {
    for (const Batch& batch : train | views::shuffled(default_seed, epoch) | views::batches(64)) {
      at::nll_loss(logits(batch.images).log_softmax(1), batch.labels).backward();
      for (std::size_t i = 0; i < weights.size(); ++i) {
        momenta[i].mul_(0.9).add_(weights[i].grad());
        weights[i].data().sub_(momenta[i], 0.05);
        weights[i].mutable_grad().reset();
      }
      ++step;
    }
  }
  const auto right = logits(test.images).argmax(1).eq(test.labels).sum().item<std::int64_t>();
  EXPECT_GT(right, test.size() * 8 / 10);
}

}  // namespace
}  // namespace refine::data
