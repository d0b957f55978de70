#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <png.h>
#include <sys/stat.h>
#include <refine/data/data.hpp>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "tests/data/image_bytes.hpp"
#include "tests/fixtures/pytorch.hpp"
#include "tests/support/error_of.hpp"
#include "tests/support/scratch_folder.hpp"

namespace refine::data {
namespace {

namespace fs = std::filesystem;
using refine::testing::Bytes;
using refine::testing::distance;
using refine::testing::error_of;
using refine::testing::expect_words;
using refine::testing::grey_png;
using refine::testing::jpeg;
using refine::testing::png;
using refine::testing::pytorch;
using refine::testing::ScratchFolder;

using Sizes = std::vector<std::int64_t>;

/// An RGB PNG of noise, the same for the same size and seed.
std::string noise_png(int width, int height, std::uint64_t seed = 1) {
  Random random(seed);
  Bytes rows;
  for (int i = 0; i < 3 * width * height; ++i) rows.push_back(static_cast<std::uint8_t>(random()));
  return png(width, height, 8, PNG_COLOR_TYPE_RGB, rows);
}

// ---- resize, resize_to_fit ----

TEST(Resize, FloatsAndBytes_MatchPyTorchAntialiasedBilinear) {
  const at::Tensor images = pytorch().at("odd_images").narrow(0, 0, 1), bytes = to_bytes(images);
  for (const auto& [h, w] : {std::pair{16, 12}, std::pair{45, 33}, std::pair{20, 40}}) {
    const std::string size = fmt::format("{}x{}", h, w);
    EXPECT_LT(distance(resize(images, h, w), pytorch().at("resize:" + size)), 1e-5) << size;
    const at::Tensor rounded = resize(bytes, h, w);
    EXPECT_EQ(rounded.scalar_type(), at::kByte);
    // The fixed-point weights may differ by one between processors.
    EXPECT_LE(distance(rounded.to(at::kFloat), pytorch().at("resize.bytes:" + size)), 1) << size;
  }
}

TEST(Resize, HalfWidth_IsTheTriangleWeightedMean) {
  // At half the width, the triangle filter reaches two pixels in either direction: weights 1/8,
  // 3/8, 3/8, 1/8. At the ends it is cut off and normalised: 3/7, 3/7, 1/7.
  const at::Tensor image = at::rand({1, 1, 1, 8});
  const at::Tensor small = resize(image, 1, 4);
  const auto v = [&](int x) { return image[0][0][0][x].item<double>(); };
  EXPECT_NEAR(small[0][0][0][0].item<double>(), (3 * v(0) + 3 * v(1) + v(2)) / 7, 1e-6);
  EXPECT_NEAR(small[0][0][0][1].item<double>(), (v(1) + 3 * v(2) + 3 * v(3) + v(4)) / 8, 1e-6);
  EXPECT_TRUE(resize(image, 1, 8).equal(image));
  EXPECT_EQ(resize(at::zeros({0, 3, 4, 4}), 2, 2).sizes(), (Sizes{0, 3, 2, 2}));
  EXPECT_EQ(resize(at::zeros({2, 3, 4, 4}), 2, 7).sizes(), (Sizes{2, 3, 2, 7}));
}

TEST(Resize, HalfResolution_FlattensFineStripesAndKeepsWideOnes) {
  const auto stripes = [](std::int64_t width) {
    at::Tensor images = at::zeros({2, 3, 24, 24}, at::kByte);
    for (std::int64_t x = 0; x < 24; x += 2 * width) images.narrow(3, x, width).fill_(200);
    return images;
  };
  const auto contrast = [](const at::Tensor& images) {  // away from the borders
    const at::Tensor inner = images.narrow(3, 6, 12).to(at::kFloat);
    return (inner.max() - inner.min()).item<float>();
  };
  EXPECT_LT(contrast(data::at_half_resolution(stripes(1))), 10);
  EXPECT_GT(contrast(data::at_half_resolution(stripes(6))), 180);
  const at::Tensor plain = at::full({1, 3, 5, 7}, 9, at::kByte);
  EXPECT_TRUE(data::at_half_resolution(plain).equal(plain));
  EXPECT_EQ(data::at_half_resolution(plain.narrow(2, 0, 1)).sizes(), (std::vector<std::int64_t>{1, 3, 1, 7}));
}

TEST(Resize, WrongDimensionsOrNoPixels_Throws) {
  expect_words(error_of([] { resize(at::zeros({3, 4, 4}), 2, 2); }), {"3 dimensions", "N×C×H×W"});
  expect_words(error_of([] { resize(at::zeros({1, 3, 0, 4}), 2, 2); }), {"pixels", "3×0×4"});
  for (const ResizeMode fit : {ResizeMode::exact, ResizeMode::crop, ResizeMode::stretch}) {
    expect_words(error_of([&] { resize_to_fit(at::zeros({1, 3, 4, 4}), fit, 0, 2); }), {"pixels", "2 x 0"});
    expect_words(error_of([&] { resize_to_fit(at::zeros({1, 3, 4, 4}), fit, 4, -2); }), {"pixels", "-2 x 4"});
  }
  expect_words(error_of([] {
                 resize_to_fit(at::zeros({1, 3, 4, 5}), ResizeMode::exact, 5, 4);
               }),
               {"5 x 4", "4 x 5", "ResizeMode::crop"});
}

TEST(ResizeToFit, Crop_MatchesTorchvision) {
  const at::Tensor images = pytorch().at("odd_images").narrow(0, 0, 1);
  EXPECT_LT(distance(resize_to_fit(images, ResizeMode::crop, 20, 20), pytorch().at("crop:20")), 1e-5);
  const at::Tensor transposed = resize_to_fit(images.transpose(2, 3).contiguous(), ResizeMode::crop, 20, 20);
  EXPECT_LT(distance(transposed.transpose(2, 3), pytorch().at("crop:20")), 1e-5);
  // Python's round((w - 5) / 2): halves go to the even number.
  const int begins[] = {0, 1, 2, 2, 2, 3, 4};
  for (int excess = 1; excess <= 7; ++excess) {
    const at::Tensor row =
        at::arange(5 + excess).view({1, 1, 1, 5 + excess}).expand({1, 1, 5, 5 + excess}).to(at::kFloat);
    EXPECT_EQ(resize_to_fit(row, ResizeMode::crop, 5, 5)[0][0][0][0].item<int>(), begins[excess - 1])
        << excess;
    EXPECT_EQ(resize_to_fit(row.transpose(2, 3), ResizeMode::crop, 5, 5)[0][0][0][0].item<int>(),
              begins[excess - 1])
        << excess;
  }
}

TEST(ResizeToFit, ImageFiles_MatchTorchvision) {
  // tests/fixtures/make_resize_files.py
  for (const char* name : {"lying", "standing", "small", "square"}) {
    const fs::path folder = "tests/fixtures/resize", source = folder / fmt::format("{}.png", name);
    const auto expect_alike = [&](const at::Tensor& image, const char* change) {
      const auto expected = [&](const char* program) {
        return decode_image(folder / fmt::format("{}.{}.{}.png", name, change, program));
      };
      // Pillow also rounds to bytes between the passes, with weights of another precision.
      for (const char* program : {"tensor", "pillow"})
        EXPECT_LE(distance(image.to(at::kInt), expected(program).to(at::kInt)), 1) << name << ' ' << change;
      // Between processors, one byte in a thousand may differ.
      EXPECT_LT(image.ne(expected("tensor")).to(at::kFloat).mean().item<double>(), 1e-3)
          << name << ' ' << change;
    };
    expect_alike(load_images({source}, {.image = {3, 32, 32}, .resize_mode = ResizeMode::crop}).images[0],
                 "crop");
    expect_alike(load_images({source}, {.image = {3, 24, 40}, .resize_mode = ResizeMode::stretch}).images[0],
                 "stretch");
    expect_alike(
        load_images({source}, {.image = {3, 32, 32}, .resize_mode = ResizeMode::resize_crop(37)}).images[0],
        "resize_crop");
  }
}

TEST(ResizeToFit, ResizeCrop_ResizesImagesOfTheTargetSizeToo) {
  const at::Tensor images = at::rand({1, 3, 8, 16});
  EXPECT_TRUE(resize_to_fit(images, ResizeMode::resize_crop(10), 6, 4)
                  .equal(resize(images, 10, 20).narrow(2, 2, 6).narrow(3, 8, 4)));
  EXPECT_FALSE(resize_to_fit(images, ResizeMode::resize_crop(16), 8, 16).equal(images));
  expect_words(error_of([&] { resize_to_fit(images, ResizeMode::resize_crop(9), 10, 4); }),
               {"4 x 10", "9", "10 or more"});
  const ScratchFolder scratch;
  const auto file = scratch.write("a.png", grey_png(32, 32, 9));
  const at::Tensor image =
      load_images({file}, {.image = {3, 32, 32}, .resize_mode = ResizeMode::resize_crop(48)}).images;
  EXPECT_EQ(image.sizes(), (Sizes{1, 3, 32, 32}));
  expect_words(error_of([&] {
                 load_images({file}, {.image = {3, 32, 32}, .resize_mode = ResizeMode::resize_crop(20)});
               }),
               {"32 x 32", "20"});
}

TEST(ResizeToFit, OblongTarget_IsCoveredOrStretched) {
  const at::Tensor images = at::rand({2, 3, 8, 16});
  EXPECT_TRUE(resize_to_fit(images, ResizeMode::crop, 4, 6).equal(resize(images, 4, 8).narrow(3, 1, 6)));
  EXPECT_TRUE(resize_to_fit(images, ResizeMode::crop, 12, 8).equal(resize(images, 12, 24).narrow(3, 8, 8)));
  EXPECT_TRUE(resize_to_fit(images, ResizeMode::crop, 2, 16).equal(images.narrow(2, 3, 2)));
  EXPECT_TRUE(resize_to_fit(images, ResizeMode::stretch, 12, 8).equal(resize(images, 12, 8)));
  EXPECT_TRUE(resize_to_fit(images, ResizeMode::exact, 8, 16).equal(images));
}

// ---- image_files ----

TEST(ImageFiles, AnyLayout_IsListedSorted) {
  const ScratchFolder scratch;
  for (const char* name : {"b/2.png", "b/1.JPG", "b/deep/er/x.jpeg", "a.png", "c.txt", ".hidden.png",
                           ".git/y.png", "b/.thumbs/z.png", "empty/notes.md", "d.png/inside.PNG"}) {
    scratch.write(name, grey_png(2, 2, 1));
  }
  const auto in = [&](const char* name) { return scratch.path / name; };
  EXPECT_EQ(image_files(scratch.path),
            (std::vector<fs::path>{in("a.png"), in("b/1.JPG"), in("b/2.png"), in("b/deep/er/x.jpeg"),
                                   in("d.png/inside.PNG")}));
  EXPECT_EQ(image_files(in("b/2.png")), (std::vector<fs::path>{in("b/2.png")}));
  EXPECT_EQ(image_files(in("c.txt")), (std::vector<fs::path>{in("c.txt")}))
      << "its content is checked when it is read";
  expect_words(error_of([&] { image_files(in("empty")); }), {in("empty").string(), "no .png"});
  expect_words(error_of([&] { image_files(in("none")); }), {in("none").string(), "no such"});
}

TEST(ImageFiles, Links_AreFollowedWithoutCycles) {
  const ScratchFolder scratch, elsewhere;
  scratch.write("a/1.png", grey_png(2, 2, 1));
  elsewhere.write("2.png", grey_png(2, 2, 1));
  const auto in = [&](const char* name) { return scratch.path / name; };
  fs::create_directory_symlink(scratch.path, in("a/up"));
  fs::create_directory_symlink("self", in("self"));
  fs::create_directory_symlink(elsewhere.path, in("b"));
  fs::create_directory_symlink(scratch.path, elsewhere.path / "back");
  fs::create_directory_symlink(in("a"), in("z"));  // the same folder again
  fs::create_symlink(in("a/1.png"), in("c.png"));
  fs::create_symlink("nowhere.png", in("d.png"));
  ASSERT_EQ(::mkfifo(in("pipe.png").c_str(), 0600), 0);  // reading it would never end
  EXPECT_EQ(image_files(scratch.path),
            (std::vector<fs::path>{in("a/1.png"), in("b/2.png"), in("c.png"), in("d.png")}));
  expect_words(error_of([&] { load_images(image_files(scratch.path)); }), {"d.png", "No such file"});
  EXPECT_EQ(load_images(image_files(scratch.path), {.on_error = OnDecodeError::skip}).files.size(), 3u);
}

// ---- load_images ----

TEST(LoadImages, AnyNumberOfThreads_KeepsTheOrder) {
  const ScratchFolder scratch;
  std::vector<fs::path> files;
  for (int i = 0; i < 200; ++i) {
    files.push_back(
        scratch.write(fmt::format("{}.png", (i * 77) % 200), grey_png(3, 2, static_cast<std::uint8_t>(i))));
  }
  for (const unsigned threads : {0u, 1u, 3u}) {
    const auto loaded = load_images(files, {.threads = threads});
    ASSERT_EQ(loaded.images.sizes(), (Sizes{200, 3, 2, 3}));
    EXPECT_EQ(loaded.images.scalar_type(), at::kByte);
    EXPECT_TRUE(loaded.images.eq(at::arange(200).view({200, 1, 1, 1})).all().item<bool>());
    EXPECT_EQ(loaded.files, files);
    EXPECT_TRUE(loaded.skipped.empty());
  }
}

TEST(LoadImages, MixedSizes_AreResizedOneByOne) {
  const ScratchFolder scratch;
  std::vector<fs::path> files;
  const std::pair<int, int> sizes[] = {{40, 30}, {30, 40}, {16, 16}, {9, 50}, {64, 64}};
  for (const auto& [w, h] : sizes)
    files.push_back(scratch.write(fmt::format("{}x{}.png", w, h), noise_png(w, h)));
  for (const ResizeMode fit : {ResizeMode::crop, ResizeMode::stretch}) {
    const auto loaded = load_images(files, {.image = {3, 16, 16}, .resize_mode = fit, .threads = 2}).images;
    ASSERT_EQ(loaded.sizes(), (Sizes{5, 3, 16, 16}));
    for (int i = 0; i < 5; ++i) {  // compare with one at a time, in another memory format
      const at::Tensor image = decode_image(files[static_cast<std::size_t>(i)]).unsqueeze(0);
      EXPECT_LE(distance(loaded[i].to(at::kInt), resize_to_fit(image, fit, 16, 16)[0].to(at::kInt)), 1) << i;
    }
  }
}

TEST(LoadImages, OneChannel_IsTheLuma) {
  const ScratchFolder scratch;
  const auto file = scratch.write("x.png", noise_png(20, 10));
  const at::Tensor rgb = decode_image(file).to(at::kDouble);
  const at::Tensor luma = rgb[0] * 0.299 + rgb[1] * 0.587 + rgb[2] * 0.114;
  const at::Tensor grey = load_images({file}, {.image = {1, dynamic, dynamic}}).images;
  ASSERT_EQ(grey.sizes(), (Sizes{1, 1, 10, 20}));
  EXPECT_LE(distance(grey[0][0].to(at::kDouble), luma), 0.51);  // to the nearest
  EXPECT_EQ(load_images({file}, {.image = {1, 5, 5}, .resize_mode = ResizeMode::crop}).images.sizes(),
            (Sizes{1, 1, 5, 5}));
  // Grey images do not change.
  const auto same = scratch.write("y.png", grey_png(4, 4, 201));
  EXPECT_TRUE(load_images({same}, {.image = {1, 4, 4}}).images.eq(201).all().item<bool>());
}

TEST(LoadImages, BadFiles_AreSkippedOrThrow) {
  const ScratchFolder scratch;
  std::vector<fs::path> files;
  for (int i = 0; i < 100; ++i) {
    std::string bytes = grey_png(4, 4, static_cast<std::uint8_t>(i));
    if (i == 0) bytes = "no image";
    if (i == 17) bytes = bytes.substr(0, 40);
    if (i == 18) bytes = grey_png(5, 4, 1);
    if (i == 99) bytes = jpeg(4, 4, {1, 2, 3}).substr(0, 200);
    files.push_back(scratch.write(fmt::format("{:03}.png", i), bytes));
  }
  for (const unsigned threads : {1u, 4u}) {
    const auto loaded = load_images(files, {.on_error = OnDecodeError::skip, .threads = threads});
    ASSERT_EQ(loaded.images.size(0), 96);
    ASSERT_EQ(loaded.files.size(), 96u);
    for (int i = 0; i < 96; ++i) {
      const int value = std::stoi(loaded.files[static_cast<std::size_t>(i)].stem());
      EXPECT_TRUE(loaded.images[i].eq(value).all().item<bool>()) << i;
    }
    EXPECT_TRUE(std::ranges::is_sorted(loaded.files));
    ASSERT_EQ(loaded.skipped.size(), 4u);
    expect_words(loaded.skipped[0], {"000.png", "unsupported format"});
    expect_words(loaded.skipped[1], {"017.png", "cannot decode"});
    expect_words(loaded.skipped[2], {"018.png", "5 x 4 pixels", "4 x 4"});
    expect_words(loaded.skipped[3], {"099.png", "cannot decode"});
  }
  expect_words(error_of([&] { load_images(files); }), {"000.png"});
  expect_words(error_of([&] {
                 load_images({files[17], files[0]}, {.on_error = OnDecodeError::skip});
               }),
               {"000.png"});
  expect_words(error_of([&] {
                 load_images({files[17], files[0]}, {.image = {3, 4, 4}, .on_error = OnDecodeError::skip});
               }),
               {"2 files", "017.png"});
}

TEST(LoadImages, MaxImages_DrawsBeforeDecoding) {
  const ScratchFolder scratch;
  std::vector<fs::path> files;
  for (int i = 0; i < 30; ++i) {
    files.push_back(scratch.write(fmt::format("{:02}.png", i), grey_png(2, 2, static_cast<std::uint8_t>(i))));
  }
  const auto drawn = [&](std::uint64_t seed) { return load_images(files, {.max_images = 7, .seed = seed}); };
  const auto once = drawn(1);
  EXPECT_EQ(once.files.size(), 7u);
  EXPECT_TRUE(std::ranges::is_sorted(once.files));
  EXPECT_EQ(std::ranges::adjacent_find(once.files), once.files.end());
  EXPECT_TRUE(once.images.equal(drawn(1).images));
  EXPECT_NE(once.files, drawn(2).files);
  EXPECT_EQ(load_images(files, {.max_images = 30}).files, files);
  EXPECT_EQ(load_images(files, {.max_images = 31}).files, files);
  std::vector<bool> chosen(30);
  for (std::size_t i = 0; i < 30; ++i)
    chosen[i] = std::ranges::find(once.files, files[i]) != once.files.end();
  for (std::size_t i = 0; i < 30; ++i) {  // files that are not drawn are not read
    if (!chosen[i]) fs::remove(files[i]);
  }
  EXPECT_TRUE(drawn(1).images.equal(once.images));
}

TEST(LoadImages, WithStore_GivesTheSameImages) {
  const ScratchFolder scratch;
  const fs::path folder = scratch.path / "clean", store = scratch.path / "kept";
  for (int i = 0; i < 60; ++i) {
    std::string bytes = noise_png(6, 5, static_cast<std::uint64_t>(i));
    if (i == 0 || i == 31) bytes = bytes.substr(0, 60);
    scratch.write(fmt::format("clean/{}/{}/{:02}.png", i % 2, i % 3, i), bytes);
  }
  const auto load = [&](const fs::path& in, std::int64_t most, std::uint64_t seed = 1) {
    return load_images(image_files(folder), {.image = {3, 4, 4},
                                             .resize_mode = ResizeMode::crop,
                                             .on_error = OnDecodeError::skip,
                                             .store = in,
                                             .threads = 2,
                                             .max_images = most,
                                             .seed = seed});
  };
  const auto expect_same = [&](std::int64_t most) {
    const auto memory = load({}, most), stored = load(store, most);
    EXPECT_TRUE(stored.images.equal(memory.images));
    EXPECT_EQ(stored.files, memory.files);
    EXPECT_EQ(stored.skipped, memory.skipped);
    EXPECT_NE(detail::mapping_of(stored.images), nullptr);
    EXPECT_EQ(detail::mapping_of(memory.images), nullptr);
  };
  for (int run = 0; run < 2; ++run) {
    for (const std::int64_t most : {0, 20}) expect_same(most);
  }
  EXPECT_EQ(load(store, 0).files.size(), 58u);
  load(store, 20, 2);
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(store)) names.push_back(entry.path().filename().string());
  std::ranges::sort(names);
  EXPECT_EQ(names, (std::vector<std::string>{"clean.images", "clean.most20.seed1.images",
                                             "clean.most20.seed2.images"}));
  // The store is mapped, not decoded again: a pixel that it alone has is found.
  const at::Tensor before = load(store, 0).images.clone();
  before[0][0][0][0] = 255 - before[0][0][0][0].item<int>();
  std::fstream(store / "clean.images", std::ios::binary | std::ios::in | std::ios::out)
      .seekp(detail::StoreHeader::bytes)
      .put(static_cast<char>(before[0][0][0][0].item<std::uint8_t>()));
  EXPECT_TRUE(load(store, 0).images.equal(before));
  // Writing to the images does not change the file.
  load(store, 0).images.fill_(7);
  EXPECT_TRUE(load(store, 0).images.equal(before));
  expect_words(error_of([&] { load_images(image_files(folder), {.store = store}); }), {"00.png"});
}

TEST(LoadImages, OneDrawnImage_StoreIsNamedAfterTheFolderOfAll) {
  const ScratchFolder scratch;
  for (const char* name : {"clean/x/1.png", "clean/y/2.png"}) scratch.write(name, grey_png(2, 2, 1));
  load_images(image_files(scratch.path / "clean"),
              {.store = scratch.path / "kept", .max_images = 1, .seed = 1});
  EXPECT_TRUE(fs::exists(scratch.path / "kept/clean.most1.seed1.images"));
}

TEST(CommonFolder, SeveralFiles_IsTheInnermostFolderOfAll) {
  const auto common = [](const std::vector<fs::path>& files) { return detail::common_folder(files); };
  EXPECT_EQ(common({"/a/b/1.png"}), "/a/b");
  EXPECT_EQ(common({"/a/b/1.png", "/a/b/c/2.png"}), "/a/b");
  EXPECT_EQ(common({"/a/b/c/1.png", "/a/bc/2.png", "/a/b/3.png"}), "/a");
  EXPECT_EQ(common({"/a/1.png", "/b/2.png"}), "/");
  EXPECT_EQ(common({"1.png", "a/2.png"}), ".");
  const fs::path current = fs::current_path().filename();
  EXPECT_EQ(detail::store_path(".", "kept"), fs::path("kept") / (current.string() + ".images"));
}

TEST(LoadImages, InvalidOptionsOrFiles_Throw) {
  const ScratchFolder scratch;
  const auto file = scratch.write("x.png", grey_png(4, 4, 1)),
             needle = scratch.write("n.png", grey_png(1, 800, 1));
  expect_words(error_of([] { load_images({}); }), {"files", "empty"});
  expect_words(error_of([&] { load_images({file}, {.max_images = -1}); }), {"max_images", "-1"});
  expect_words(error_of([&] { load_images({file}, {.image = {2, 4, 4}}); }), {"channels", "3", "got 2"});
  expect_words(error_of([&] {
                 load_images({file}, {.image = {3, 8, 8}});
               }),
               {"x.png", "got 4 x 4", "expected 8 x 8", "ResizeMode::crop", "--fit crop"});
  for (const ResizeMode fit : {ResizeMode::crop, ResizeMode::stretch}) {
    expect_words(error_of([&] { load_images({file}, {.resize_mode = fit}); }), {"height", "width", ".image"});
  }
  expect_words(error_of([&] {
                 load_images({needle}, {.image = {3, 64, 64}, .resize_mode = ResizeMode::crop});
               }),
               {"n.png", "1 x 800", "too long and narrow"});
}

// ---- common_shape ----

TEST(CommonShape, Headers_GiveTheShape) {
  const ScratchFolder scratch;
  const std::vector<fs::path> files = {
      scratch.write("0.png", grey_png(6, 4, 1)),
      scratch.write("1.jpg", jpeg(6, 4, {1, 2, 3}, true)),
      scratch.write("2.png", noise_png(6, 4).substr(0, 60)),  // truncated after its header
      scratch.write("3.png", "no image"),
      scratch.write("4.jpg", jpeg(6, 4, {}).substr(0, 30)),
      scratch.path / "missing.png",
      scratch.write("6.png", grey_png(6, 5, 1)),
      scratch.write("7.jpg", jpeg(7, 4, {1, 2, 3})),
  };
  EXPECT_EQ(common_shape({files.begin(), files.begin() + 6}), (ImageShape{3, 4, 6}));
  EXPECT_EQ(common_shape({files.begin(), files.begin() + 7}), (ImageShape{3, dynamic, dynamic}));
  EXPECT_EQ(common_shape(files), (ImageShape{3, dynamic, dynamic}));
  EXPECT_EQ(common_shape({files[7], files[7]}), (ImageShape{3, 4, 7}));
  EXPECT_EQ(common_shape({files[3], files[5]}), (ImageShape{3, dynamic, dynamic}));
  std::string with_comment = jpeg(7, 4, {1, 2, 3});  // its size is behind 40 kB
  with_comment.insert(2, "\xff\xfe\x9c\x42" + std::string(0x9c40, 'x'));
  EXPECT_EQ(common_shape({scratch.write("8.jpg", with_comment)}), (ImageShape{3, 4, 7}));
  expect_words(error_of([] { common_shape({}); }), {"files", "empty"});
}

// ---- image_folder ----

TEST(ImageFolders, MixedSizes_AreResized) {
  const ScratchFolder scratch;
  scratch.write("train/a/1.png", noise_png(40, 30));
  scratch.write("train/a/2.png", noise_png(16, 16));
  scratch.write("train/b/1.png", noise_png(20, 33));
  scratch.write("test/b/1.png", noise_png(11, 12));
  expect_words(error_of([&] { image_folders(scratch.path); }), {"2.png", "16 x 16 pixels"});
  expect_words(error_of([&] { image_folders(scratch.path, {.resize_mode = ResizeMode::crop}); }),
               {"train", ".image"});
  const auto [train, test] =
      image_folders(scratch.path, {.image = {3, 16, 16}, .resize_mode = ResizeMode::crop});
  train.validate();
  EXPECT_EQ(train.task(), (Task{{3, 16, 16}, 2}));
  EXPECT_EQ(test.images.sizes(), (Sizes{1, 3, 16, 16}));
  EXPECT_TRUE(train.images[1].equal(decode_image(scratch.path / "train/a/2.png")));
  EXPECT_TRUE(train.images.equal(load_images(image_files(scratch.path / "train"),
                                             {.image = {3, 16, 16}, .resize_mode = ResizeMode::crop})
                                     .images));
  EXPECT_EQ(image_folder(scratch.path / "test", {.image = {1, dynamic, dynamic}}).image_shape(),
            (ImageShape{1, 12, 11}));
}

}  // namespace
}  // namespace refine::data
