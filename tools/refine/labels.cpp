#include "tools/refine/labels.hpp"

#include <ATen/ops/tensor.h>
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <filesystem>
#include <iostream>
#include <map>
#include <set>
#include <string_view>
#include <utility>

#include <refine/core/error.hpp>
#include <refine/core/text.hpp>
#include <refine/data/detail/bytes.hpp>

namespace refine::cli {
namespace {

namespace fs = std::filesystem;

using Folders = std::vector<std::string>;
using Label = std::map<std::string, std::int64_t>;

/// One way to read folders as classes.
struct Candidate {
  std::string how;  ///< for messages: "number order"
  Label label;      ///< of each folder
};

void tell(const std::string& line) {
  std::cerr << "" << printable(line) << '\n';
}

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

/// The number that a whole name is.
std::optional<std::int64_t> number_of(std::string_view name) {
  if (name.empty() || name.size() > 9 || !std::ranges::all_of(name, is_digit)) return std::nullopt;
  std::int64_t number = 0;
  std::from_chars(name.data(), name.data() + name.size(), number);
  return number;
}

/// "'a', 'b', …"
std::string quoted(const Folders& names) {
  std::string text;
  for (std::size_t i = 0; i < std::min<std::size_t>(names.size(), 3); ++i) {
    text += fmt::format("{}'{}'", i ? ", " : "", names[i]);
  }
  return names.size() > 3 ? text + ", …" : text;
}

/// The folder by which images are labelled, for each folder that has images below the root.
struct Level {
  std::map<std::string, std::string> of;  ///< folder with images → the part of its path that is the class
  Folders names;                          ///< the different ones, in text order
};

Level level_of(const std::set<std::string>& folders, bool innermost) {
  Level level;
  std::set<std::string> names;
  for (const std::string& folder : folders) {
    const fs::path path(folder);
    const fs::path part = innermost ? path.filename() : *path.begin();
    names.insert(level.of[folder] = data::to_utf8(part.native()));
  }
  level.names.assign(names.begin(), names.end());
  return level;
}

Label places(const Folders& order) {
  Label label;
  for (std::size_t i = 0; i < order.size(); ++i) label[order[i]] = static_cast<std::int64_t>(i);
  return label;
}

Candidate text_order(const Level& level) {
  return {"text order", places(level.names)};
}

Candidate number_order_of(const Level& level) {
  Folders order = level.names;
  std::ranges::stable_sort(order, number_order);
  return {"number order", places(order)};
}

/// Folders that are class numbers, counted from `first`; nothing if they are not.
std::optional<Candidate> class_numbers(const Level& level, int classes, std::int64_t first) {
  Candidate candidate{first == 0 ? "class numbers from 0" : "class numbers from 1", {}};
  std::set<std::int64_t> seen;
  for (const std::string& name : level.names) {
    const auto number = number_of(name);
    if (!number || *number < first || *number >= first + classes || !seen.insert(*number).second)
      return std::nullopt;
    candidate.label[name] = *number - first;
  }
  return candidate;
}

/// All ways to read these folders, leaving out those that come to the same.
std::vector<Candidate> orders_of(const Level& level, int classes, const std::string& wanted) {
  std::vector<Candidate> all;
  const auto add = [&](Candidate candidate, const char* kind) {
    if (wanted != "auto" && wanted != kind) return;
    const auto same = [&](const Candidate& known) { return known.label == candidate.label; };
    if (std::ranges::none_of(all, same)) all.push_back(std::move(candidate));
  };
  if (level.names.size() == static_cast<std::size_t>(classes)) {
    add(number_order_of(level), "number");
    add(text_order(level), "text");
  } else {
    for (const std::int64_t first : {0, 1}) {
      if (auto candidate = class_numbers(level, classes, first)) add(std::move(*candidate), "number");
    }
  }
  return all;
}

/// The class that a folder's name means; nothing if none has it. \throws Error if several have it
std::optional<std::int64_t> class_called(const std::string& folder, const Folders& names) {
  const auto found = std::ranges::find(names, folder);
  if (found == names.end()) return std::nullopt;
  const auto second = std::find(found + 1, names.end(), folder);
  if (second != names.end()) {
    throw Error(
        "class folders: '{}' is the name of two classes, {} and {}; name the folders by class numbers and "
        "give --labels number, or give --no_labels",
        folder, found - names.begin(), second - names.begin());
  }
  return found - names.begin();
}

/// By the model's class names. Nothing if no folder has one.
std::optional<Candidate> by_names(const Level& level, const Folders& names) {
  Candidate candidate{"class names", {}};
  Folders strangers;
  for (const std::string& folder : level.names) {
    if (const auto label = class_called(folder, names)) {
      candidate.label[folder] = *label;
    } else {
      strangers.push_back(folder);
    }
  }
  if (candidate.label.empty()) return std::nullopt;
  if (!strangers.empty()) {
    throw Error(
        "class folders: {} of {} are called as the model's classes, and {} {} not ({}); rename or remove "
        "{}, or give --no_labels, which measures no accuracy",
        candidate.label.size(), level.names.size(), strangers.size(), strangers.size() == 1 ? "is" : "are",
        quoted(strangers), strangers.size() == 1 ? "it" : "them");
  }
  return candidate;
}

std::vector<std::int64_t> labels_by(const Candidate& candidate, const Level& level, const Images& images) {
  std::vector<std::int64_t> labels;
  for (const std::string& folder : images.folders) labels.push_back(candidate.label.at(level.of.at(folder)));
  return labels;
}

double share(std::int64_t hits, std::size_t n) {
  return 100.0 * static_cast<double>(hits) / static_cast<double>(std::max<std::size_t>(n, 1));
}

/// The candidate that the victim's answers fit; the only one if there is one.
/// \throws Error if they fit none clearly
std::vector<std::int64_t> fitting(const std::vector<Candidate>& candidates, const Level& level,
                                  const Images& images, int classes,
                                  const std::function<std::vector<std::int64_t>()>& answers) {
  const std::vector<std::int64_t> victim = answers();
  std::vector<std::vector<std::int64_t>> labels;
  std::vector<std::int64_t> hits;
  for (const Candidate& candidate : candidates) {
    labels.push_back(labels_by(candidate, level, images));
    hits.push_back(0);
    for (std::size_t i = 0; i < victim.size(); ++i) hits.back() += victim[i] == labels.back()[i];
  }
  const auto best = static_cast<std::size_t>(std::ranges::max_element(hits) - hits.begin());
  const std::size_t n = victim.size();
  for (std::size_t other = 0; other < candidates.size(); ++other) {
    if (other == best || labels[other] == labels[best]) continue;
    std::int64_t more = 0, less = 0;  // of the images on which the two differ
    for (std::size_t i = 0; i < n; ++i) {
      more += victim[i] == labels[best][i] && victim[i] != labels[other][i];
      less += victim[i] == labels[other][i] && victim[i] != labels[best][i];
    }
    const auto clear = 3 * std::sqrt(static_cast<double>(more + less));
    if (static_cast<double>(more - less) >= std::max(clear, 3.0)) {
      tell(fmt::format(
          "class folders are read in {}: the model agrees with it on {:.0f} % of the images, with {} on {:.0f} %",
          candidates[best].how, share(hits[best], n), candidates[other].how, share(hits[other], n)));
      continue;
    }
    throw Error(
        "class folders: {} and {} differ, and the model's answers fit neither clearly (it agrees on {:.0f} % "
        "and {:.0f} % of the images); give --labels number or --labels text, --class_names, or --no_labels",
        candidates[best].how, candidates[other].how, share(hits[best], n), share(hits[other], n));
  }
  if (n >= 20 && static_cast<double>(hits[best]) * classes < 2.0 * static_cast<double>(n) && classes > 3) {
    tell(fmt::format(
        "the model agrees with the labels of these folders on {:.0f} % of the images, which is about chance: "
        "if they are other classes or in another order, give --class_names or --no_labels; if not, check "
        "--mean and --std",
        share(hits[best], n)));
  }
  return labels[best];
}

}  // namespace

void LabelOptions::add_to(CLI::App& command) {
  command
      .add_option("--labels", order,
                  "how class folders become labels: names (the model's class names), text or number (their "
                  "place in text or number order, as 0, 1, 10, 2 or 0, 1, 2, 10), none; auto: names, or the "
                  "order that fits the model's answers")
      ->check(CLI::IsMember({"auto", "names", "text", "number", "none"}))
      ->capture_default_str();
  command.add_flag("--no_labels", none, "folders are no classes; the same as --labels none");
}

bool number_order(const std::string& a, const std::string& b) {
  std::size_t i = 0, j = 0;
  while (i < a.size() && j < b.size()) {
    if (!is_digit(a[i]) || !is_digit(b[j])) {
      if (a[i] != b[j]) return static_cast<unsigned char>(a[i]) < static_cast<unsigned char>(b[j]);
      ++i, ++j;
      continue;
    }
    const auto run = [](const std::string& text, std::size_t& at) {
      while (at + 1 < text.size() && text[at] == '0' && is_digit(text[at + 1])) ++at;
      const std::size_t begin = at;
      while (at < text.size() && is_digit(text[at])) ++at;
      return std::string_view(text).substr(begin, at - begin);
    };
    const std::string_view x = run(a, i), y = run(b, j);
    if (x.size() != y.size()) return x.size() < y.size();
    if (x != y) return x < y;
  }
  const std::size_t rest_of_a = a.size() - i, rest_of_b = b.size() - j;
  return rest_of_a != rest_of_b ? rest_of_a < rest_of_b : a < b;
}

std::optional<data::Dataset> labelled(const Images& images, const std::vector<std::string>& names,
                                      int classes, const LabelOptions& options,
                                      const std::function<std::vector<std::int64_t>()>& answers) {
  const std::string wanted = options.none ? "none" : options.order;
  if (wanted == "none") return std::nullopt;
  std::set<std::string> folders = images.all_folders;
  const bool loose = folders.erase("") + folders.erase(".") > 0;
  if (folders.empty() || loose) {
    const std::string why = folders.empty() ? "the images lie in no class folders"
                                            : "some images lie beside the folders, in none of them";
    if (wanted != "auto") throw Error("--labels {}: {}; use <class>/<image>", wanted, why);
    if (loose && !folders.empty()) {
      tell(fmt::format("no accuracy is measured: {}, so the folders ({}) are not read as classes", why,
                       quoted(Folders(folders.begin(), folders.end()))));
    }
    return std::nullopt;
  }

  const Level levels[] = {level_of(folders, /*innermost=*/false), level_of(folders, /*innermost=*/true)};
  const auto result = [&](std::vector<std::int64_t> labels, Folders order) {
    return data::Dataset{.images = images.images, .labels = at::tensor(labels), .classes = std::move(order)};
  };
  if (!names.empty() && (wanted == "auto" || wanted == "names")) {
    std::string refused;
    for (const Level& level : levels) {
      try {
        if (const auto candidate = by_names(level, names)) {
          return result(labels_by(*candidate, level, images), names);
        }
      } catch (const Error& error) {
        if (refused.empty()) refused = error.what();
      }
    }
    if (!refused.empty()) throw Error(refused);
  }
  if (wanted == "names") {
    throw Error("--labels names: {}; give --class_names, a file with the model's classes in its order",
                names.empty() ? "the model's class names are not known"
                              : fmt::format("none of the folders ({}) is called as a class of the model",
                                            quoted(levels[0].names)));
  }
  for (const Level& level : levels) {
    // Names that the folders do not have: then only numbers can mean the model's classes.
    const bool numbers =
        std::ranges::all_of(level.names, [](const std::string& name) { return number_of(name).has_value(); });
    if (!names.empty() && !numbers && wanted == "auto") continue;
    const auto candidates = orders_of(level, classes, wanted);
    if (candidates.empty()) continue;
    Folders order = names;
    const std::vector<std::int64_t> labels = wanted != "auto" && candidates.size() == 1
                                                 ? labels_by(candidates.front(), level, images)
                                                 : fitting(candidates, level, images, classes, answers);
    for (int c = 0; order.size() < static_cast<std::size_t>(classes); ++c) {
      order.push_back("class " + std::to_string(c));
    }
    if (names.empty()) {  // folders name their classes
      for (std::size_t i = 0; i < labels.size(); ++i) {
        order[static_cast<std::size_t>(labels[i])] = level.of.at(images.folders[i]);
      }
    }
    return result(labels, std::move(order));
  }
  const std::size_t count = levels[0].names.size();
  if (wanted != "auto") {
    throw Error(
        "--labels {}: the model predicts {} classes and there are {} folders ({}); give --class_names with "
        "folders of these names, or --no_labels",
        wanted, classes, count, quoted(levels[0].names));
  }
  tell(
      names.empty()
          ? fmt::format(
                "no accuracy is measured: there are {} folders ({}) and the model predicts {} classes, whose "
                "names are not known; --class_names gives them",
                count, quoted(levels[0].names), classes)
          : fmt::format(
                "no accuracy is measured: none of the {} folders ({}) is called as a class of the model ({})",
                count, quoted(levels[0].names), quoted(names)));
  return std::nullopt;
}

}  // namespace refine::cli
