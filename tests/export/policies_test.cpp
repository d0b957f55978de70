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
#include <refine/export/export.hpp>
#include <refine/remaps/permutations.hpp>
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

/// Moves the BatchNorm statistics from where a fresh module has them.
template <typename Policy>
void enliven(const Policy& policy) {
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

TEST(SavedVictim, AnswersBitwiseTheSame) {
  const ScratchFolder scratch;
  c10::NoGradGuard no_grad;
  const Victim victim{.width = 4, .seed = 1};
  enliven(victim);
  save(victim, scratch.path / "victim", {{"note", "hello"}});
  Victim other{.width = 4, .seed = 2};
  const at::Tensor images = at::rand({4, 3, 16, 16});
  EXPECT_FALSE(at::equal(other.forward(images), victim.forward(images)));
  const auto metadata = load(other, scratch.path / "victim");
  EXPECT_TRUE(at::equal(other.forward(images), victim.forward(images)));
  EXPECT_EQ(metadata, (std::map<std::string, std::string>{
                          {"refine", "victim"}, {"classes", "5"}, {"constants", "{}"}, {"note", "hello"}}));
}

TEST(SavedDefense, AnswersBitwiseTheSameAndBringsItsPermutation) {
  const ScratchFolder scratch;
  c10::NoGradGuard no_grad;
  const auto defense = defense_of(1);
  enliven(defense.transform());
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

TEST(SavedDefense, MayHaveNoTensors) {
  const ScratchFolder scratch;
  Pipeline defense{transforms::None<task.image>{}, freeze(Victim{.width = 4}), remaps::Derangement<task>{}};
  save(defense, scratch.path / "defense", recipes::fast);
  load(defense, scratch.path / "defense");
}

TEST(SavedVictim, OfAnotherNetworkIsRefusedByNameAndChangesNothing) {
  const ScratchFolder scratch;
  const Victim victim{.width = 4, .seed = 1};
  Victim other{.width = 4, .seed = 2};
  const std::string before = bytes_of(*other.module);
  const auto state = nn::state_dict(*victim.module);
  const auto line = [&](const std::function<void(formats::SafeTensors&)>& change) {
    formats::SafeTensors content{state, {}};
    change(content);
    formats::write_safetensors(scratch.path / "v", content);
    const std::string said = error_of([&] { load(other, scratch.path / "v"); });
    EXPECT_NE(said.find((scratch.path / "v").string()), std::string::npos) << said;
    return said;
  };
  EXPECT_NE(line([](auto& c) {
              c.tensors.erase("layer3.0.bn1.running_var");
            }).find("'layer3.0.bn1.running_var' is not in it"),
            std::string::npos);
  EXPECT_NE(
      line([](auto& c) { c.tensors["layer9.weight"] = at::rand({1}); }).find("no tensor 'layer9.weight'"),
      std::string::npos);
  EXPECT_NE(line([](auto& c) {
              c.tensors = nn::state_dict(*Victim{.width = 8}.module);
            }).find("is 8, the network's is 4; give the network the width"),
            std::string::npos);
  EXPECT_EQ(bytes_of(*other.module), before);
}

TEST(SavedDefense, OfAnotherPipelineIsRefusedAndChangesNothing) {
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
  EXPECT_NE(line().find("no defense that refine saved"), std::string::npos) << line();

  save(defense_of(1), path, recipes::fast);
  const auto content = formats::read_safetensors(path);
  for (const auto& [text, says] : std::initializer_list<std::pair<std::string, std::string>>{
           {"", "no list"},
           {"[0,1", "no list"},
           {"{}", "no list"},
           {"[0,1,2,3.5,4]", "no list"},
           {"[[0],1,2,3,4]", "no list"},
           {"[1,0]", "it renames 2 classes"},
           {"[0,1,2,3,3]", "class 3 twice"},
           {"[0,1,2,3,-4]", "class -4 of 5"},
           {"[0,1,2,3,18446744073709551615]", "class -1 of 5"}}) {
    auto changed = content;
    changed.metadata["permutation"] = text;
    formats::write_safetensors(path, changed);
    EXPECT_NE(line().find(says), std::string::npos) << text << ": " << line();
  }
  auto changed = content;
  changed.metadata["pixel_domain"] = "reference";
  formats::write_safetensors(path, changed);
  EXPECT_NE(line().find("pixel domain 'reference'"), std::string::npos) << line();

  EXPECT_EQ(bytes_of(*defense.transform().module), before);
  EXPECT_EQ(defense.remap().permutation, permutation);
}

TEST(Victim, IsRefusedBehindAnotherNormalisation) {
  const ScratchFolder folder;
  const auto path = folder.path / "victim.safetensors";
  constexpr Task cifar = tasks::cifar10;
  const backbones::ResNet18<cifar> bare{.width = 4};
  save(backbones::Normalized{bare, normalizations::cifar10}, path);

  auto same =
      backbones::Normalized{backbones::ResNet18<cifar>{.width = 4, .seed = 1}, normalizations::cifar10};
  load(same, path);
  auto other = backbones::Normalized{backbones::ResNet18<cifar>{.width = 4}, normalizations::imagenet};
  testing::expect_words(testing::error_of([&] { load(other, path); }), {path.string(), "normalisation"});
  backbones::ResNet18<cifar> none{.width = 4};
  testing::expect_words(testing::error_of([&] { load(none, path); }), {path.string(), "normalisation"});
}

/// The rule of files before SHA-256, written out: FNV-1a, 64 bits, over names and bytes, then the constants.
std::string fnv_of(const torch::nn::Module& module, const std::string& constants) {
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

TEST(SavedDefense, Fingerprint_IsSha256AndOlderOnesLoad) {
  const ScratchFolder scratch;
  const auto path = scratch.path / "d";
  auto defense = defense_of(1);
  save(defense, path, recipes::fast);
  auto content = formats::read_safetensors(path);
  const std::string now = content.metadata.at("victim");
  EXPECT_TRUE(now.starts_with("sha256:") && now.size() == 7 + 64) << now;

  const std::string old = fnv_of(*defense.backbone().module, "{}");
  content.metadata["victim"] = old;
  formats::write_safetensors(path, content);
  load(defense, path);

  const auto refusal = [&](const std::string& victim) {
    content.metadata["victim"] = victim;
    formats::write_safetensors(path, content);
    return error_of([&] { load(defense, path); });
  };
  std::string wrong = old;
  wrong[3] = wrong[3] == '0' ? '1' : '0';
  testing::expect_words(refusal(wrong), {path.string(), "another victim"});
  std::string forged = now;
  forged.back() = forged.back() == '0' ? '1' : '0';
  for (const std::string& text : {forged, now.substr(7), now.substr(0, 23), std::string(), "sha256:" + old}) {
    testing::expect_words(refusal(text), {path.string(), "another victim"});
  }
}

TEST(Fingerprint, TellsApartWhatHasTheSameBytesInARow) {
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

TEST(Defense, IsRefusedInFrontOfAnotherVictimOrInAnotherTransform) {
  const ScratchFolder folder;
  const auto path = folder.path / "defense.safetensors";
  constexpr Task cifar = tasks::cifar10;
  const auto pipeline = [&](std::uint64_t victim, transforms::OutputActivation squash) {
    return Pipeline{transforms::UNet<cifar>{.levels = 2, .width = 4, .squash = squash},
                    freeze(backbones::ResNet18<cifar>{.width = 4, .seed = victim}),
                    remaps::Derangement<cifar>{}};
  };
  save(pipeline(1, transforms::OutputActivation::sigmoid), path, recipes::fast);
  auto same = pipeline(1, transforms::OutputActivation::sigmoid);
  load(same, path);
  auto stranger = pipeline(2, transforms::OutputActivation::sigmoid);
  testing::expect_words(testing::error_of([&] { load(stranger, path); }), {path.string(), "another victim"});
  auto clamped = pipeline(1, transforms::OutputActivation::clamp);
  testing::expect_words(testing::error_of([&] { load(clamped, path); }), {path.string(), "sigmoid", "clamp"});
}

}  // namespace
}  // namespace refine
