// Files that a release of refine has written are read by every later version. What they answer was computed by PyTorch.

#include <ATen/core/Tensor.h>
#include <ATen/ops/allclose.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include <refine/core/config.hpp>
#include <refine/defend/load_classifier.hpp>
#include <refine/defend/saved_defense.hpp>
#include <refine/export/exported_classifier.hpp>
#include <refine/formats/safetensors.hpp>
#include <refine/metrics/gated.hpp>

namespace refine {
namespace {

namespace fs = std::filesystem;

const fs::path releases = "tests/fixtures/releases";

std::vector<std::string> versions() {
  std::vector<std::string> found;
  for (const auto& folder : fs::directory_iterator(releases)) {
    found.push_back(folder.path().filename().string());
  }
  return found;
}

class Releases : public ::testing::TestWithParam<std::string> {
 protected:
  fs::path folder = releases / GetParam();
  std::map<std::string, at::Tensor> answers =
      formats::read_safetensors(folder / "answers.safetensors").tensors;
  at::Tensor images = answers.at("images");

  void expect_answer(const std::string& name, const at::Tensor& answer) const {
    EXPECT_TRUE(at::allclose(answer, answers.at(name), 1e-4, 1e-4)) << name;
  }

 private:
  c10::NoGradGuard no_grad_;
};

TEST_P(Releases, ServingFiles_GiveTheirAnswers) {
  const ExportedClassifier defended(folder / "defended.pt");
  expect_answer("pt.forward", defended.forward(images));
  expect_answer("pt.transform", defended.transformed(images));
  expect_answer("pt.undefended", defended.undefended(images));
  expect_answer("pt.alarm", defended.alarm(images));
  const ExportedClassifier gated(folder / "defended.pt", formats::Trust::checked, Answer::gated);
  expect_answer("pt.gated", gated.forward(images));
  EXPECT_TRUE(exported_info(defended.about()).alarm);
  expect_answer("pt2.forward", ExportedClassifier(folder / "defended.pt2").forward(images));
}

TEST_P(Releases, Parts_GiveTheSameDefense) {
  const SavedDefense saved = load_saved_defense(folder / "victim.pt", folder / "defended.safetensors");
  expect_answer("pt.forward", saved.defense.forward(images));
}

TEST_P(Releases, Victims_GiveTheirAnswers) {
  for (const char* file : {"victim.pt", "victim.safetensors"}) {
    SCOPED_TRACE(file);
    expect_answer("pt.undefended", load_classifier(folder / file).backbone.forward(images));
  }
}

INSTANTIATE_TEST_SUITE_P(All, Releases, ::testing::ValuesIn(versions()), [](const auto& info) {
  std::string name = "v" + info.param;
  for (char& c : name) {
    if (c == '.') c = '_';
  }
  return name;
});

TEST(ReleaseFiles, OfThisVersion_AreThere) {
  EXPECT_TRUE(fs::exists(releases / version)) << "tests/fixtures/make_release_files.py writes them";
}

}  // namespace
}  // namespace refine
