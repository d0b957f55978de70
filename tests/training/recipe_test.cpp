#include <gtest/gtest.h>
#include <refine/training/optimization.hpp>
#include <refine/training/recipe.hpp>
#include <refine/training/recipe_json.hpp>

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "tests/support/error_of.hpp"

namespace refine {
namespace {

using refine::testing::error_of;
using refine::testing::expect_words;

TEST(Schedule, OneCycle_MatchesPyTorch) {
  // torch.optim.lr_scheduler.OneCycleLR(SGD, max_lr=1.0, total_steps=n, pct_start=warmup), rates as
  // printed.
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
    const Optimization optimization{.schedule = Schedule::one_cycle, .warmup = c.warmup};
    for (const auto& [step, rate] : c.rates)
      EXPECT_NEAR(optimization.rate_factor(step, c.steps, 0), rate, 1e-12) << step;
  }
}

TEST(Schedule, OneCycleWithoutAWholeStepOfWarmup_BeginsAtThePeak) {
  const Optimization optimization{.schedule = Schedule::one_cycle, .warmup = 0.05};
  EXPECT_EQ(optimization.rate_factor(0, 10, 0), 1);
}

TEST(Schedule, OneCycleOfFewSteps_IsFinite) {
  for (const int steps : {1, 2, 3}) {
    for (const double warmup : {0.0, 0.3, 0.99}) {
      const Optimization optimization{.schedule = Schedule::one_cycle, .warmup = warmup};
      for (int step = 0; step < steps; ++step) {
        const double rate = optimization.rate_factor(step, steps, 0);
        EXPECT_TRUE(rate > 0 && rate <= 1) << rate;
      }
    }
  }
}

TEST(Schedule, Steps_DropAtMilestones) {
  const Optimization optimization{.schedule = Schedule::steps, .milestones = {100, 130}, .decay = 0.8};
  EXPECT_DOUBLE_EQ(optimization.rate_factor(0, 1, 0), 1);
  EXPECT_DOUBLE_EQ(optimization.rate_factor(0, 1, 99), 1);
  EXPECT_DOUBLE_EQ(optimization.rate_factor(0, 1, 100), 0.8);
  EXPECT_DOUBLE_EQ(optimization.rate_factor(0, 1, 129), 0.8);
  EXPECT_DOUBLE_EQ(optimization.rate_factor(0, 1, 149), 0.64);
  EXPECT_DOUBLE_EQ(Optimization{}.rate_factor(7, 10, 5), 1);
}

template <typename R>
void expect_round_trip(const R& recipe) {
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

TEST(RecipeJson, EveryRecipe_RoundTrips) {
  for (const auto& recipe : {recipes::paper, recipes::fast, recipes::two_cores, Recipe{}})
    expect_round_trip(recipe);
  for (const auto& recipe :
       {recipes::paper_classifier, recipes::fast_classifier, recipes::two_cores_classifier}) {
    expect_round_trip(recipe);
  }
  Recipe odd;
  odd.seed = std::numeric_limits<std::uint64_t>::max();
  odd.optimization.lr = 0.1 + 0.2;
  odd.augmentation = {
      .rotation = 10, .translate = 0.1, .scale_min = 0.8, .scale_max = 0.9, .brightness = 0.3};
  expect_round_trip(odd);
}

TEST(RecipeJson, MissingFields_KeepDefaultsAndBadOnesAreRefused) {
  EXPECT_EQ(nlohmann::json::parse("{}").get<Recipe>(), Recipe{});
  EXPECT_EQ(nlohmann::json::parse(R"({"optimization":{"lr":1}})").get<Recipe>().optimization.lr, 1);
  const struct {
    std::string text;
    std::vector<std::string> words;
  } cases[] = {
      {R"({"lr":1})", {"unknown field 'lr'"}},
      {R"({"optimization":{"Lr":1}})", {"unknown field 'Lr'"}},
      {R"({"objective":"mse"})", {"'objective'", R"(got "mse")", "bce, nll or distillation"}},
      {R"({"objective":3})", {"'objective'", "got 3", "bce"}},
      {R"({"teacher":"mixes"})", {"'teacher'", R"(got "mixes")", "views or images"}},
      {R"({"optimization":{"optimizer":"lion"}})", {"'optimizer'", "sgd, adam or muon"}},
      {R"({"optimization":{"lr":"fast"}})", {"'lr'", R"(got "fast")", "a number"}},
      {R"({"optimization":{"lr":true}})", {"'lr'", "got true", "a number"}},
      {R"({"optimization":{"lr":null}})", {"'lr'", "got null", "a number"}},
      {R"({"optimization":{"nesterov":1}})", {"'nesterov'", "got 1", "true or false"}},
      {R"({"optimization":{"epochs":2.5}})", {"'epochs'", "got 2.5", "a whole number"}},
      {R"({"optimization":{"epochs":true}})", {"'epochs'", "got true", "a whole number"}},
      {R"({"optimization":{"epochs":10000000000}})", {"'epochs'", "got 10000000000", "to 2147483647"}},
      {R"({"optimization":{"milestones":[1]}})", {"'milestones'", "got an array", "2 elements"}},
      {R"({"optimization":{"milestones":[1,2,3]}})", {"'milestones'", "got an array", "2 elements"}},
      {R"({"seed":-1})", {"'seed'", "got -1", "from 0 to 18446744073709551615"}},
      {R"({"optimization":7})", {"a JSON object", "got 7"}},
      {R"([])", {"a JSON object", "got an array"}},
  };
  for (const auto& [text, words] : cases) {
    const std::string line = error_of([&] { (void)nlohmann::json::parse(text).get<Recipe>(); });
    EXPECT_TRUE(line.starts_with("cannot read a recipe: ")) << line;
    for (const std::string& word : words) expect_words(line, {word});
  }
}

TEST(RecipeJson, Augmentation_HasEachField) {
  ClassifierRecipe recipe;
  recipe.augmentation = {
      .rotation = 10, .translate = 0.25, .scale_min = 0.75, .scale_max = 1.5, .brightness = 0.5};
  const nlohmann::json json = recipe;
  EXPECT_EQ(
      json["augmentation"],
      nlohmann::json::parse(R"({"flip":false,"crop_padding":0,"resized_crop_min_scale":1.0,"grayscale":0.0,
            "mix":0.0,"rotation":10.0,"translate":0.25,"scale_min":0.75,"scale_max":1.5,"brightness":0.5})"));
}

TEST(Recipe, FieldOutOfRange_IsNamed) {
  constexpr double nan = std::numeric_limits<double>::quiet_NaN(),
                   inf = std::numeric_limits<double>::infinity();
  const auto line = [](auto&& change) {
    Recipe recipe = recipes::fast;
    change(recipe, recipe.optimization);
    return error_of([&] { recipe.validate(); });
  };
#define EXPECT_NAMES(statement, ...)                  \
  expect_words(line([&](Recipe& r, Optimization& o) { \
                 (void)r, (void)o;                    \
                 statement;                           \
               }),                                    \
               {__VA_ARGS__})
  EXPECT_EQ(line([](Recipe&, Optimization&) {}), "");
  EXPECT_NAMES(o.lr = 0, "recipe.optimization.lr must", "got 0");
  EXPECT_NAMES(o.lr = nan, "recipe.optimization.lr must", "got nan");
  EXPECT_NAMES(o.lr = inf, "recipe.optimization.lr must", "got inf");
  EXPECT_EQ(line([](Recipe&, Optimization& o) { o.lr = 3.4e38; }), "");
  EXPECT_NAMES(o.lr = 1e39, "recipe.optimization.lr must", "got 1e+39");  // infinite as float
  EXPECT_NAMES(o.adam_lr = 1e39, "other_lr", "got 1e+39");
  EXPECT_NAMES(o.weight_decay = 1e39, "weight_decay", "got 1e+39");
  EXPECT_NAMES(r.temperature = 1e39, "recipe.temperature", "got 1e+39");
  EXPECT_NAMES(r.head_weight = 1e39, "head_weight", "got 1e+39");
  EXPECT_NAMES(r.supcon_temperature = 1e39, "supcon_temperature", "got 1e+39");
  EXPECT_NAMES(r.supcon_weight = 1e39, "supcon_weight", "got 1e+39");
  EXPECT_NAMES(o.adam_lr = -1, "adam_lr", "other_lr", "got -1");
  EXPECT_NAMES(o.momentum = 1, "momentum", "got 1");
  EXPECT_NAMES(o.momentum = nan, "momentum", "got nan");
  EXPECT_NAMES((o.optimizer = OptimizerKind::sgd, o.nesterov = true, o.momentum = 0), "momentum",
               "with nesterov");
  EXPECT_NAMES(o.weight_decay = -1e-9, "weight_decay", "got -1e-09");
  EXPECT_NAMES(o.weight_decay = inf, "weight_decay", "got inf");
  EXPECT_NAMES(o.warmup = 1, "warmup", "got 1");
  EXPECT_NAMES(o.decay = 0, "recipe.optimization.decay", "got 0");
  EXPECT_NAMES((o.milestones = {0, -5}), "recipe.optimization.milestones", "got -5");
  EXPECT_NAMES(o.batch_size = 0, "batch_size", "got 0");
  EXPECT_NAMES(o.batch_size = 1, "batch_size", "2 or more", "got 1");
  EXPECT_NAMES(o.epochs = 0, "epochs", "got 0");
  EXPECT_NAMES(r.temperature = 0, "recipe.temperature", "got 0");
  EXPECT_NAMES(r.temperature = inf, "recipe.temperature", "got inf");
  EXPECT_NAMES(r.supcon_temperature = nan, "supcon_temperature", "got nan");
  EXPECT_NAMES(r.supcon_temperature = inf, "supcon_temperature", "got inf");
  EXPECT_NAMES(r.supcon_weight = -1, "supcon_weight", "got -1");
  EXPECT_NAMES(r.supcon_weight = inf, "supcon_weight", "got inf");
  // Every floating-point field of a recipe, infinite either way.
  for (const double infinite : {inf, -inf}) {
    EXPECT_NAMES(o.adam_lr = infinite, "other_lr");
    EXPECT_NAMES(o.momentum = infinite, "momentum");
    EXPECT_NAMES(o.warmup = infinite, "warmup");
    EXPECT_NAMES(o.decay = infinite, "recipe.optimization.decay");
    EXPECT_NAMES(r.augmentation.grayscale = infinite, "grayscale");
    EXPECT_NAMES(r.augmentation.resized_crop_min_scale = infinite, "resized_crop_min_scale");
    EXPECT_NAMES(r.augmentation.mix = infinite, "mix");
    EXPECT_NAMES(r.augmentation.rotation = infinite, "rotation");
    EXPECT_NAMES(r.augmentation.translate = infinite, "translate");
    EXPECT_NAMES(r.augmentation.scale_max = infinite, "scale_max");
    EXPECT_NAMES(r.augmentation.brightness = infinite, "brightness");
  }
  EXPECT_NAMES(r.augmentation.grayscale = 2, "grayscale");
  EXPECT_NAMES(r.augmentation.rotation = -1, "rotation");
  EXPECT_NAMES(r.augmentation.brightness = nan, "brightness");
#undef EXPECT_NAMES
  ClassifierRecipe classifier;
  classifier.label_smoothing = 1;
  expect_words(error_of([&] { classifier.validate(); }), {"label_smoothing", "got 1"});
  classifier.label_smoothing = 0;
  classifier.augmentation.mix = 0.5;
  expect_words(error_of([&] { classifier.validate(); }), {"mix", "got 0.5"});
}

}  // namespace
}  // namespace refine
