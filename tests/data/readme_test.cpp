// The snippets of refine/data/README.md.

#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>
#include <refine/data/data.hpp>

#include <cstdint>
#include <filesystem>
#include <iostream>
#include <string>

#include "tests/data/image_bytes.hpp"
#include "tests/support/scratch_folder.hpp"

namespace data_readme {

using namespace refine;

namespace {

data::Dataset halves(at::Tensor dark, at::Tensor bright) {  // uint8, N×3×32×32 each
  data::Dataset set{
      .images = at::cat({dark, bright}),
      .labels = at::cat({at::zeros({dark.size(0)}, at::kLong), at::ones({bright.size(0)}, at::kLong)}),
      .classes = {"dark", "bright"}};
  set.validate();
  return set;
}

at::Tensor photographs(const std::filesystem::path& folder) {
  const auto loaded = data::load_images(data::image_files(folder), {.image = {3, 224, 224},
                                                                    .resize_mode = data::ResizeMode::crop,
                                                                    .on_error = data::OnDecodeError::skip,
                                                                    .max_images = 5000});
  for (const std::string& reason : loaded.skipped) std::cerr << reason << "\n";
  return loaded.images;  // uint8, N×3×224×224; loaded.files has the file of each image
}

data::Split imagenet50(const std::filesystem::path& root) {  // <root>/train/<class>/*.jpg, …
  return data::image_folders(root, {.image = {3, 224, 224},
                                    .resize_mode = data::ResizeMode::crop,
                                    .on_error = data::OnDecodeError::skip,
                                    .store = root / "decoded"});
}

TEST(DataReadme, FolderLargerThanMemory_IsReadThroughAStore) {
  const refine::testing::ScratchFolder scratch;
  for (const char* file : {"train/a/1.jpg", "train/b/1.jpg", "test/a/1.jpg"})
    scratch.write(file, refine::testing::jpeg(500, 375, {9, 99, 9}));
  scratch.write("test/a/2.jpg", "cut");
  for (int run = 0; run < 2; ++run) {
    ::testing::internal::CaptureStderr();
    const auto [train, test] = imagenet50(scratch.path);
    EXPECT_NE(::testing::internal::GetCapturedStderr().find("2.jpg"), std::string::npos);
    EXPECT_EQ(train.task(), (Task{{3, 224, 224}, 2}));
    EXPECT_EQ(test.size(), 1);
  }
  EXPECT_TRUE(std::filesystem::exists(scratch.path / "decoded/test.images"));
}

TEST(DataReadme, ShuffledBatches_AreIterated) {
  auto [train, test] = data::Synthetic{}.make();
  const data::Augmentation augmentation{.flip = true, .crop_padding = 4};
  std::int64_t seen = 0;
  std::uint64_t step = 0;  // counts over all epochs, so that each batch is augmented differently
  for (int epoch = 0; epoch < 2; ++epoch) {
    for (const auto& batch : train | data::views::shuffled(default_seed, epoch) | data::views::batches(128)) {
      at::Tensor images = data::to_float(batch.images);  // uint8 to [0, 1]
      images = data::augment(images, augmentation, derived_seed(default_seed, "augmentation", step++));
      seen += images.size(0);
      EXPECT_EQ(batch.labels.size(0), 128);
      EXPECT_TRUE(train.images.index_select(0, batch.indices).equal(batch.images));
    }
  }
  EXPECT_EQ(seen, 2 * train.size());

  std::int64_t predicted = 0;
  const auto predict = [&](const at::Tensor& images) { predicted += images.size(0); };
  for (const auto& batch : test.images | data::views::batches(256)) predict(batch.images);
  EXPECT_EQ(predicted, test.size());
}

TEST(DataReadme, ImagesOfAnySizeAndLayout_AreRead) {
  const refine::testing::ScratchFolder scratch;
  scratch.write("a/b/1.png", refine::testing::grey_png(300, 200, 9));
  scratch.write("2.jpg", refine::testing::jpeg(30, 40, {9, 9, 9}));
  scratch.write("3.png", "cut");
  ::testing::internal::CaptureStderr();
  EXPECT_EQ(photographs(scratch.path).sizes(), (std::vector<std::int64_t>{2, 3, 224, 224}));
  EXPECT_NE(::testing::internal::GetCapturedStderr().find("3.png"), std::string::npos);
}

TEST(DataReadme, UserSource_ReturnsADataset) {
  const auto set = halves(at::zeros({2, 3, 32, 32}, at::kByte), at::full({3, 3, 32, 32}, 255, at::kByte));
  EXPECT_EQ(set.task(), (Task{{3, 32, 32}, 2}));
  EXPECT_EQ(set.labels.sum().item<int>(), 3);
}

}  // namespace

}  // namespace data_readme
