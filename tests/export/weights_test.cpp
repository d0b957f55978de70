#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/zeros.h>
#include <c10/core/GradMode.h>
#include <fmt/core.h>
#include <gtest/gtest.h>
#include <refine/backbones/freeze.hpp>
#include <refine/backbones/normalized.hpp>
#include <refine/backbones/resnet.hpp>
#include <refine/core/sha256.hpp>
#include <refine/export/export.hpp>
#include <refine/remaps/remaps.hpp>
#include <refine/training/recipe_json.hpp>
#include <refine/transforms/transform.hpp>
#include <refine/transforms/unet.hpp>

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>

#include "tests/support/error_of.hpp"
#include "tests/support/scratch_folder.hpp"

namespace refine {
namespace {

using refine::testing::error_of;
using refine::testing::ScratchFolder;

constexpr Task task{ImageShape{3, 16, 16}, 5};
using Victim = backbones::ResNet18<task>;
using UNet = transforms::UNet<task>;

auto defense_of(std::uint64_t seed, int width = 4, int levels = 2) {
  return Pipeline{UNet{.levels = levels, .width = width, .seed = seed}, freeze(Victim{.width = 4}),
                  remaps::Derangement<task>{.seed = seed}};
}

/// Changes the BatchNorm statistics from their initial values.
template <typename Policy>
void update_statistics(const Policy& policy) {
  c10::NoGradGuard no_grad;
  policy.module->train();
  policy.forward(at::rand({8, 3, 16, 16}));
  policy.module->eval();
}

std::string bytes_of(const torch::nn::Module& module) {
  std::string all;
  for (const auto& [name, tensor] : nn::state_dict(module)) {
    const at::Tensor flat = tensor.detach().contiguous();
    all.append(static_cast<const char*>(flat.const_data_ptr()), flat.nbytes());
  }
  return all;
}

TEST(SaveVictim, Loaded_GivesBitwiseTheSameLogits) {
  const ScratchFolder scratch;
  c10::NoGradGuard no_grad;
  const Victim victim{.width = 4, .seed = 1};
  update_statistics(victim);
  save(victim, scratch.path / "victim", {{"note", "hello"}});
  Victim other{.width = 4, .seed = 2};
  const at::Tensor images = at::rand({4, 3, 16, 16});
  EXPECT_FALSE(at::equal(other.forward(images), victim.forward(images)));
  const auto metadata = load(other, scratch.path / "victim");
  EXPECT_TRUE(at::equal(other.forward(images), victim.forward(images)));
  EXPECT_EQ(metadata, (std::map<std::string, std::string>{
                          {"refine", "victim"}, {"classes", "5"}, {"constants", "{}"}, {"note", "hello"}}));
}

TEST(SaveDefense, Loaded_GivesBitwiseTheSameLogitsAndItsPermutation) {
  const ScratchFolder scratch;
  c10::NoGradGuard no_grad;
  const auto defense = defense_of(1);
  update_statistics(defense.transform());
  Recipe recipe = recipes::fast;
  recipe.seed = 77;
  save(defense, scratch.path / "defense", recipe);

  auto other = defense_of(2);
  ASSERT_NE(other.remap().permutation, defense.remap().permutation);
  const auto metadata = load(other, scratch.path / "defense");
  EXPECT_EQ(other.remap().permutation, defense.remap().permutation);
  const at::Tensor images = at::rand({4, 3, 16, 16});
  EXPECT_TRUE(at::equal(other.forward(images), defense.forward(images)));
  EXPECT_EQ(metadata.at("refine"), "defense");
  EXPECT_EQ(metadata.at("seed"), "77");
  EXPECT_EQ(metadata.at("pixel_domain"), "image");
  EXPECT_EQ(nlohmann::json::parse(metadata.at("recipe")).get<Recipe>(), recipe);
}

TEST(SaveDefense, TransformWithoutTensors_RoundTrips) {
  const ScratchFolder scratch;
  Pipeline defense{transforms::None<task.image>{}, freeze(Victim{.width = 4}), remaps::Derangement<task>{}};
  save(defense, scratch.path / "defense", recipes::fast);
  Pipeline other{transforms::None<task.image>{}, defense.backbone(), remaps::Derangement<task>{.seed = 5}};
  ASSERT_NE(other.remap().permutation, defense.remap().permutation);
  load(other, scratch.path / "defense");
  EXPECT_EQ(other.remap().permutation, defense.remap().permutation);
  const at::Tensor images = at::rand({4, 3, 16, 16});
  const c10::NoGradGuard no_grad;
  EXPECT_TRUE(at::equal(other.forward(images), defense.forward(images)));
}

TEST(LoadVictim, FileOfAnotherNetwork_IsRefusedAndChangesNothing) {
  const ScratchFolder scratch;
  const Victim victim{.width = 4, .seed = 1};
  Victim other{.width = 4, .seed = 2};
  const std::string before = bytes_of(*other.module);
  const auto state = nn::state_dict(*victim.module);
  const auto line = [&](const std::function<void(formats::SafeTensors&)>& change) {
    formats::SafeTensors content{state, {}};
    change(content);
    formats::write_safetensors(scratch.path / "v", content);
    const std::string message = error_of([&] { load(other, scratch.path / "v"); });
    testing::expect_words(message, {(scratch.path / "v").string()});
    return message;
  };
  testing::expect_words(line([](auto& c) { c.tensors.erase("layer3.0.bn1.running_var"); }),
                        {"'layer3.0.bn1.running_var' is missing"});
  testing::expect_words(line([](auto& c) { c.tensors["layer9.weight"] = at::rand({1}); }),
                        {"'layer9.weight' is unexpected"});
  testing::expect_words(line([](auto& c) { c.tensors = nn::state_dict(*Victim{.width = 8}.module); }),
                        {"has shape 8", "expected 4", "width"});
  EXPECT_EQ(bytes_of(*other.module), before);
}

TEST(LoadDefense, FileOfAnotherPipeline_IsRefusedAndChangesNothing) {
  const ScratchFolder scratch;
  const auto path = scratch.path / "d";
  auto defense = defense_of(3);
  const std::string before = bytes_of(*defense.transform().module);
  const auto permutation = defense.remap().permutation;
  const auto line = [&] { return error_of([&] { load(defense, path); }); };

  save(defense_of(1, 6), path, recipes::fast);
  testing::expect_words(line(), {path.string(), "width 6", "width 4"});
  save(defense_of(1, 4, 3), path, recipes::fast);
  testing::expect_words(line(), {path.string(), "levels 3", "levels 2"});
  save(Victim{.width = 4}, path);
  testing::expect_words(line(), {path.string(), "lacks 'pixel_domain'", "a defense that refine saved"});

  save(defense_of(1), path, recipes::fast);
  const auto content = formats::read_safetensors(path);
  for (const auto& [text, words] : std::initializer_list<std::pair<std::string, std::string>>{
           {"", "not a list"},
           {"[0,1", "not a list"},
           {"{}", "not a list"},
           {"[0,1,2,3.5,4]", "not a list"},
           {"[[0],1,2,3,4]", "not a list"},
           {"[1,0]", "got 2, expected 5"},
           {"[0,1,2,3,3]", "class 3 occurs twice"},
           {"[0,1,2,3,-4]", "class -4 is out of range; a permutation contains each of 0 to 4"},
           {"[0,1,2,3,18446744073709551615]", "class -1 is out of range"}}) {
    auto changed = content;
    changed.metadata["permutation"] = text;
    formats::write_safetensors(path, changed);
    testing::expect_words(line(), {path.string(), words});
  }
  auto changed = content;
  changed.metadata["pixel_domain"] = "reference";
  formats::write_safetensors(path, changed);
  testing::expect_words(line(), {path.string(), "pixel domain", "got 'reference'", "expected 'image'"});

  EXPECT_EQ(bytes_of(*defense.transform().module), before);
  EXPECT_EQ(defense.remap().permutation, permutation);
}

TEST(LoadVictim, AnotherNormalization_IsRefused) {
  const ScratchFolder folder;
  const auto path = folder.path / "victim.safetensors";
  constexpr Task cifar = tasks::cifar10;
  const backbones::ResNet18<cifar> bare{.width = 4};
  save(backbones::Normalized{bare, normalizations::cifar10}, path);

  auto same =
      backbones::Normalized{backbones::ResNet18<cifar>{.width = 4, .seed = 1}, normalizations::cifar10};
  load(same, path);
  auto other = backbones::Normalized{backbones::ResNet18<cifar>{.width = 4}, normalizations::imagenet};
  testing::expect_words(testing::error_of([&] { load(other, path); }), {path.string(), "normalization"});
  backbones::ResNet18<cifar> none{.width = 4};
  testing::expect_words(testing::error_of([&] { load(none, path); }), {path.string(), "normalization"});
}

/// The fingerprint of files before SHA-256, written out: 64 bits of FNV-1a over names, bytes and
/// constants.
std::string fnv1a(const torch::nn::Module& module, const std::string& constants) {
  std::uint64_t hash = 14695981039346656037u;
  const auto add = [&](const std::string& bytes) {
    for (const char c : bytes) {
      hash ^= static_cast<unsigned char>(c);
      hash *= 1099511628211u;
    }
  };
  for (const auto& [name, tensor] : nn::state_dict(module)) {
    const at::Tensor flat = tensor.detach().contiguous();
    add(name);
    add(std::string(static_cast<const char*>(flat.const_data_ptr()), flat.nbytes()));
  }
  add(constants);
  return fmt::format("{:016x}", hash);
}

/// The fingerprint of files before the code was part of it, written out: the SHA-256 of names, types and shapes,
/// bytes and constants, each after its length.
std::string sha256_of_tensors(const torch::nn::Module& module, const std::string& constants) {
  Sha256 hash;
  const auto add = [&](const std::string& text) { hash.add(std::to_string(text.size()) + ":" + text); };
  for (const auto& [name, tensor] : nn::state_dict(module)) {
    const at::Tensor flat = tensor.detach().contiguous();
    std::string sizes;
    for (const std::int64_t size : flat.sizes()) sizes += (sizes.empty() ? "" : ", ") + std::to_string(size);
    add(name);
    add(std::string(c10::toString(flat.scalar_type())) + " [" + sizes + "]");
    add(std::string(static_cast<const char*>(flat.const_data_ptr()), flat.nbytes()));
  }
  add(constants);
  return "sha256:" + hash.hex();
}

TEST(LoadDefense, Sha256AndLegacyFingerprints_AreChecked) {
  const ScratchFolder scratch;
  const auto path = scratch.path / "d";
  auto defense = defense_of(1);
  save(defense, path, recipes::fast);
  auto content = formats::read_safetensors(path);
  const std::string sha256 = content.metadata.at("victim");
  const std::string of_tensors = sha256_of_tensors(*defense.backbone().module, "{}");
  EXPECT_EQ(sha256, of_tensors + " code:" + Sha256().hex());  // its tensors show all of it

  const std::string legacy = fnv1a(*defense.backbone().module, "{}");
  for (const std::string& older : {legacy, of_tensors}) {
    content.metadata["victim"] = older;
    formats::write_safetensors(path, content);
    load(defense, path);
  }

  const auto refusal = [&](const std::string& victim) {
    content.metadata["victim"] = victim;
    formats::write_safetensors(path, content);
    return error_of([&] { load(defense, path); });
  };
  std::string wrong = legacy;
  wrong[3] = wrong[3] == '0' ? '1' : '0';
  testing::expect_words(refusal(wrong), {path.string(), "another victim"});
  std::string forged = sha256;
  forged.back() = forged.back() == '0' ? '1' : '0';
  for (const std::string& text :
       {forged, sha256.substr(7), sha256.substr(0, 23), std::string(), "sha256:" + legacy, of_tensors + " ",
        of_tensors + " graph of refine 0.0.1, LibTorch 2.4.0:" + Sha256().hex()}) {
    testing::expect_words(refusal(text), {path.string(), "another victim"});
  }
}

TEST(Fingerprint, SameBytesInAnotherDivision_Differ) {
  struct Module : torch::nn::Module {
    Module(const std::vector<std::pair<std::string, at::Tensor>>& tensors) {
      for (const auto& [name, tensor] : tensors) register_buffer(name, tensor);
    }
  };
  const auto of = [](const std::vector<std::pair<std::string, at::Tensor>>& tensors) {
    return detail::fingerprint(Module(tensors), {});
  };
  const at::Tensor x = at::rand({2, 3});
  const std::string one = of({{"x", x}});
  EXPECT_EQ(one, of({{"x", x.clone()}}));
  EXPECT_NE(one, of({{"x", x.view({3, 2})}}));
  EXPECT_NE(one, of({{"x", x.view(at::kInt)}}));
  EXPECT_NE(one, of({{"y", x}}));
  EXPECT_NE(one, detail::fingerprint(Module({{"x", x}}), {{"mean", at::zeros({1})}}));
  // "a" with the bytes "b" and no more, against "ab" with none.
  EXPECT_NE(of({{"a", at::full({1}, 98, at::kByte)}}), of({{"ab", at::empty({0}, at::kByte)}}));
}

// Whether a ResNet pools after its stem is in no tensor.
TEST(LoadDefense, SameTensorsInAnotherNetwork_AreRefused) {
  const ScratchFolder folder;
  const auto path = folder.path / "defense.safetensors";
  const auto pipeline = [](bool pools) {
    const Victim victim{.width = 4, .stem = backbones::Stem{.kernel = 3, .pooling = pools}};
    return Pipeline{UNet{.levels = 2, .width = 4}, freeze(victim), remaps::Derangement<task>{}};
  };
  ASSERT_EQ(bytes_of(*pipeline(true).backbone().module), bytes_of(*pipeline(false).backbone().module));
  for (const bool pools : {true, false}) {
    save(pipeline(pools), path, recipes::fast);
    auto same = pipeline(pools), other = pipeline(!pools);
    load(same, path);
    testing::expect_words(error_of([&] { load(other, path); }), {path.string(), "another victim", "--stem"});
  }
}

TEST(LoadDefense, AnotherVictimOrTransform_IsRefused) {
  const ScratchFolder folder;
  const auto path = folder.path / "defense.safetensors";
  constexpr Task cifar = tasks::cifar10;
  const auto pipeline = [&](std::uint64_t victim, transforms::OutputActivation squash) {
    return Pipeline{transforms::UNet<cifar>{.levels = 2, .width = 4, .activation = squash},
                    freeze(backbones::ResNet18<cifar>{.width = 4, .seed = victim}),
                    remaps::Derangement<cifar>{}};
  };
  save(pipeline(1, transforms::OutputActivation::sigmoid), path, recipes::fast);
  auto same = pipeline(1, transforms::OutputActivation::sigmoid);
  load(same, path);
  auto other_victim = pipeline(2, transforms::OutputActivation::sigmoid);
  testing::expect_words(testing::error_of([&] { load(other_victim, path); }),
                        {path.string(), "another victim"});
  auto clamped = pipeline(1, transforms::OutputActivation::clamp);
  testing::expect_words(testing::error_of([&] { load(clamped, path); }), {path.string(), "sigmoid", "clamp"});
}

}  // namespace
}  // namespace refine
