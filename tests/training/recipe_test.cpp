#include <gtest/gtest.h>
#include <refine/training/detail/optimizers.hpp>
#include <refine/training/recipe.hpp>
#include <refine/training/recipe_json.hpp>

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>

#include "tests/support/error_of.hpp"

namespace refine {
namespace {

using refine::testing::error_of;

TEST(Schedule, OneCycleIsPyTorchs) {
  // torch.optim.lr_scheduler.OneCycleLR(SGD, max_lr=1.0, total_steps=n, pct_start=warmup), rates as printed.
  const struct {
    int steps;
    double warmup;
    std::vector<std::pair<int, double>> rates;
  } cases[] = {
      {20,
       0.3,
       {{0, 0.04},
        {1, 0.1316718427000253},
        {3, 0.6683281572999747},
        {5, 1},
        {6, 0.9874640062350873},
        {10, 0.7169430017913008},
        {18, 0.012539993764912554},
        {19, 4e-06}}},
      {50,
       0.25,
       {{0, 0.04},
        {1, 0.05779970207305629},
        {8, 0.7968065546151362},
        {12, 0.999561416803769},
        {16, 0.9648883833911539},
        {25, 0.7128907942239532},
        {48, 0.001757563360966314},
        {49, 4e-06}}},
  };
  for (const auto& c : cases) {
    const Optimization how{.schedule = Schedule::one_cycle, .warmup = c.warmup};
    for (const auto& [step, rate] : c.rates)
      EXPECT_NEAR(how.rate_factor(step, c.steps, 0), rate, 1e-12) << step;
  }
}

TEST(Schedule, OneCycleOfFewStepsIsFinite) {
  for (const int steps : {1, 2, 3}) {
    for (const double warmup : {0.0, 0.3, 0.99}) {
      const Optimization how{.schedule = Schedule::one_cycle, .warmup = warmup};
      for (int step = 0; step < steps; ++step) {
        const double rate = how.rate_factor(step, steps, 0);
        EXPECT_TRUE(rate > 0 && rate <= 1) << rate;
      }
    }
  }
}

TEST(Schedule, StepsFallAtTheirMilestones) {
  const Optimization how{.schedule = Schedule::steps, .milestones = {100, 130}, .decay = 0.8};
  EXPECT_DOUBLE_EQ(how.rate_factor(0, 1, 0), 1);
  EXPECT_DOUBLE_EQ(how.rate_factor(0, 1, 99), 1);
  EXPECT_DOUBLE_EQ(how.rate_factor(0, 1, 100), 0.8);
  EXPECT_DOUBLE_EQ(how.rate_factor(0, 1, 129), 0.8);
  EXPECT_DOUBLE_EQ(how.rate_factor(0, 1, 149), 0.64);
  EXPECT_DOUBLE_EQ(Optimization{}.rate_factor(7, 10, 5), 1);
}

template <typename R>
void comes_back(const R& recipe) {
  recipe.validate();
  std::ostringstream text;
  text << recipe;
  EXPECT_EQ(text.str().find('\n'), std::string::npos);
  EXPECT_TRUE((nlohmann::json::parse(text.str()).get<R>() == recipe)) << text.str();
  R changed = recipe;
  changed.seed += 1;
  EXPECT_FALSE(changed == recipe);
  changed = recipe;
  changed.augmentation.crop_padding += 1;
  EXPECT_FALSE(changed == recipe);
}

TEST(Recipe, ComesBackFromJson) {
  for (const auto& recipe : {recipes::paper, recipes::fast, recipes::two_cores, Recipe{}}) comes_back(recipe);
  for (const auto& recipe :
       {recipes::paper_classifier, recipes::fast_classifier, recipes::two_cores_classifier}) {
    comes_back(recipe);
  }
  Recipe odd;
  odd.seed = std::numeric_limits<std::uint64_t>::max();
  odd.optimization.lr = 0.1 + 0.2;
  odd.augmentation = {
      .rotation = 10, .translate = 0.1, .scale_min = 0.8, .scale_max = 0.9, .brightness = 0.3};
  comes_back(odd);
}

TEST(Recipe, KeepsDefaultsWhereJsonIsSilentAndRefusesTheRest) {
  EXPECT_EQ(nlohmann::json::parse("{}").get<Recipe>(), Recipe{});
  EXPECT_EQ(nlohmann::json::parse(R"({"optimization":{"lr":1}})").get<Recipe>().optimization.lr, 1);
  const struct {
    std::string text, says;
  } cases[] = {
      {R"({"lr":1})", "no field 'lr'"},
      {R"({"optimization":{"Lr":1}})", "no field 'Lr'"},
      {R"({"objective":"mse"})", R"(its objective is "mse"; say bce, nll or distillation)"},
      {R"({"objective":3})", "its objective is 3; say bce"},
      {R"({"teacher":"mixes"})", R"(its teacher is "mixes"; say views or images)"},
      {R"({"optimization":{"optimizer":"lion"}})", "say sgd, adam or muon"},
      {R"({"optimization":{"lr":"fast"}})", R"(its lr is "fast")"},
      {R"({"optimization":{"lr":true}})", "its lr is true"},
      {R"({"optimization":{"lr":null}})", "its lr is null"},
      {R"({"optimization":{"nesterov":1}})", "its nesterov is 1"},
      {R"({"optimization":{"epochs":2.5}})", "its epochs is 2.5"},
      {R"({"optimization":{"epochs":true}})", "its epochs is true"},
      {R"({"optimization":{"epochs":10000000000}})", "its epochs is 10000000000"},
      {R"({"optimization":{"milestones":[1]}})", "its milestones is an array"},
      {R"({"optimization":{"milestones":[1,2,3]}})", "its milestones is an array"},
      {R"({"seed":-1})", "its seed is -1"},
      {R"({"optimization":7})", "no JSON object"},
      {R"([])", "no JSON object"},
  };
  for (const auto& [text, says] : cases) {
    const std::string line = error_of([&] { (void)nlohmann::json::parse(text).get<Recipe>(); });
    EXPECT_NE(line.find(says), std::string::npos) << text << ": " << line;
  }
}

TEST(Recipe, PrintsEachKindOfAugmentation) {
  ClassifierRecipe recipe;
  recipe.augmentation = {
      .rotation = 10, .translate = 0.25, .scale_min = 0.75, .scale_max = 1.5, .brightness = 0.5};
  const nlohmann::json json = recipe;
  EXPECT_EQ(
      json["augmentation"],
      nlohmann::json::parse(R"({"flip":false,"crop_padding":0,"resized_crop_min_scale":1.0,"grayscale":0.0,
            "mix":0.0,"rotation":10.0,"translate":0.25,"scale_min":0.75,"scale_max":1.5,"brightness":0.5})"));
}

TEST(Recipe, SaysWhichFieldIsOutOfRange) {
  constexpr double nan = std::numeric_limits<double>::quiet_NaN(),
                   inf = std::numeric_limits<double>::infinity();
  const auto line = [](auto&& change) {
    Recipe recipe = recipes::fast;
    change(recipe, recipe.optimization);
    return error_of([&] { recipe.validate(); });
  };
#define EXPECT_NAMES(field, statement)                                            \
  {                                                                               \
    const auto said = line([&](Recipe& r, Optimization& o) {                      \
      (void)r, (void)o;                                                           \
      statement;                                                                  \
    });                                                                           \
    EXPECT_NE(said.find(field), std::string::npos) << #statement << ": " << said; \
  }
  EXPECT_EQ(line([](Recipe&, Optimization&) {}), "");
  EXPECT_NAMES(" lr is 0", o.lr = 0);
  EXPECT_NAMES(" lr is nan", o.lr = nan);
  EXPECT_NAMES(" lr is inf", o.lr = inf);
  EXPECT_NAMES("other_lr", o.adam_lr = -1);
  EXPECT_NAMES("momentum", o.momentum = 1);
  EXPECT_NAMES("momentum", o.momentum = nan);
  EXPECT_NAMES("with nesterov", (o.optimizer = OptimizerKind::sgd, o.nesterov = true, o.momentum = 0));
  EXPECT_NAMES("weight_decay", o.weight_decay = -1e-9);
  EXPECT_NAMES("weight_decay", o.weight_decay = inf);
  EXPECT_NAMES("warmup", o.warmup = 1);
  EXPECT_NAMES("decay", o.decay = 0);
  EXPECT_NAMES("batch_size is 0", o.batch_size = 0);
  EXPECT_NAMES("batch_size is 1; it is 2 or more", o.batch_size = 1);
  EXPECT_NAMES("epochs is 0", o.epochs = 0);
  EXPECT_NAMES("temperature", r.temperature = 0);
  EXPECT_NAMES(" temperature is inf", r.temperature = inf);
  EXPECT_NAMES("supcon_temperature", r.supcon_temperature = nan);
  EXPECT_NAMES("supcon_temperature is inf", r.supcon_temperature = inf);
  EXPECT_NAMES("supcon_weight", r.supcon_weight = -1);
  EXPECT_NAMES("supcon_weight is inf", r.supcon_weight = inf);
  // Every number that a recipe has, endless either way.
  for (const double endless : {inf, -inf}) {
    EXPECT_NAMES("other_lr", o.adam_lr = endless);
    EXPECT_NAMES("momentum", o.momentum = endless);
    EXPECT_NAMES("warmup", o.warmup = endless);
    EXPECT_NAMES("decay is", o.decay = endless);
    EXPECT_NAMES("grayscale", r.augmentation.grayscale = endless);
    EXPECT_NAMES("resized_crop_min_scale", r.augmentation.resized_crop_min_scale = endless);
    EXPECT_NAMES("mix", r.augmentation.mix = endless);
    EXPECT_NAMES("rotation", r.augmentation.rotation = endless);
    EXPECT_NAMES("translate", r.augmentation.translate = endless);
    EXPECT_NAMES("scale_max", r.augmentation.scale_max = endless);
    EXPECT_NAMES("brightness", r.augmentation.brightness = endless);
  }
  EXPECT_NAMES("grayscale", r.augmentation.grayscale = 2);
  EXPECT_NAMES("rotation", r.augmentation.rotation = -1);
  EXPECT_NAMES("brightness", r.augmentation.brightness = nan);
#undef EXPECT_NAMES
  ClassifierRecipe classifier;
  classifier.label_smoothing = 1;
  EXPECT_NE(error_of([&] { classifier.validate(); }).find("label_smoothing"), std::string::npos);
  classifier.label_smoothing = 0;
  classifier.augmentation.mix = 0.5;
  EXPECT_NE(error_of([&] { classifier.validate(); }).find("mix"), std::string::npos);
}

}  // namespace
}  // namespace refine
