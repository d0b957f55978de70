#pragma once

#include <refine/defend/images.hpp>

#include <ATen/ops/tensor.h>
#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <iterator>
#include <map>
#include <set>
#include <span>
#include <string_view>
#include <utility>

#include <refine/core/config.hpp>
#include <refine/core/error.hpp>
#include <refine/core/file.hpp>
#include <refine/core/text.hpp>
#include <refine/data/image_files.hpp>
#include <refine/data/image_folder.hpp>
#include <refine/data/sources.hpp>

/// Reads folders as classes.
namespace refine::detail::class_folders {

/// Returns the encoding of a text that is not UTF-8, by its first bytes. Empty if they do not tell.
inline std::string_view encoding_of(std::string_view text) {
  using namespace std::string_view_literals;
  if (text.starts_with("\xff\xfe\0\0"sv) || text.starts_with("\0\0\xfe\xff"sv)) return "UTF-32";
  if (text.starts_with("\xff\xfe"sv) || text.starts_with("\xfe\xff"sv)) return "UTF-16";
  const std::string_view first = text.substr(0, 4096);
  return first.find('\0') != first.npos ? "UTF-16 without a byte order mark, or not text" : "";
}

inline std::string_view trim_blanks(std::string_view line) {
  constexpr std::string_view blanks = " \t\v\f\r";
  const std::size_t begin = line.find_first_not_of(blanks);
  if (begin == line.npos) return {};
  return line.substr(begin, line.find_last_not_of(blanks) + 1 - begin);
}

/// Names of folders.
using Folders = std::vector<std::string>;
/// The class of each folder.
using FolderClasses = std::map<std::string, std::int64_t>;

/// The folders that are the classes: all those at one depth.
struct Level {
  std::map<std::string, std::string>
      part_of;    ///< folder with images → the part of its path that is the class
  Folders names;  ///< the distinct parts, in text order
};

/// One way to read folders as classes.
struct Candidate {
  std::string name;  ///< for messages: "number order"
  FolderClasses classes;
  const Level* level = nullptr;
};

inline bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

/// Returns the number that a whole name consists of.
inline std::optional<std::int64_t> number_of(std::string_view name) {
  if (name.empty() || name.size() > 9 || !std::ranges::all_of(name, is_digit)) return std::nullopt;
  std::int64_t number = 0;
  std::from_chars(name.data(), name.data() + name.size(), number);
  return number;
}

/// Returns the first names: "'a', 'b', …".
inline std::string quote(const Folders& names) {
  std::string text;
  for (std::size_t i = 0; i < std::min<std::size_t>(names.size(), 3); ++i) {
    text += fmt::format("{}'{}'", i ? ", " : "", names[i]);
  }
  return names.size() > 3 ? text + ", …" : text;
}

inline Level level_of(const std::set<std::string>& folders, bool innermost) {
  Level level;
  std::set<std::string> names;
  for (const std::string& folder : folders) {
    const std::filesystem::path path(folder);
    const std::filesystem::path part = innermost ? path.filename() : *path.begin();
    names.insert(level.part_of[folder] = text::to_utf8(part.native()));
  }
  level.names.assign(names.begin(), names.end());
  return level;
}

/// True if the folders are the parts of a data set, as `train/` and `test/` are, rather than classes.
inline bool are_parts(const Level& level) {
  constexpr std::string_view known[] = {"train",      "training", "val",     "valid", "validation",
                                        "validating", "test",     "testing", "dev",   "eval"};
  return std::ranges::all_of(level.names, [&](std::string name) {
    for (char& c : name) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    return std::ranges::find(known, name) != std::end(known);
  });
}

inline FolderClasses number_in_order(const Folders& order) {
  FolderClasses classes;
  for (std::size_t i = 0; i < order.size(); ++i) classes[order[i]] = static_cast<std::int64_t>(i);
  return classes;
}

inline Candidate text_order(const Level& level) {
  return {"text order", number_in_order(level.names), &level};
}

inline Candidate number_order(const Level& level) {
  Folders order = level.names;
  std::ranges::stable_sort(order, is_before_in_number_order);
  return {"number order", number_in_order(order), &level};
}

/// Reads folders that are class numbers, counted from `first`. Returns nothing if they are not.
inline std::optional<Candidate> class_numbers(const Level& level, int classes, std::int64_t first) {
  Candidate candidate{first == 0 ? "class numbers from 0" : "class numbers from 1", {}, &level};
  std::set<std::int64_t> seen;
  for (const std::string& name : level.names) {
    const auto number = number_of(name);
    if (!number || *number < first || *number >= first + classes || !seen.insert(*number).second)
      return std::nullopt;
    candidate.classes[name] = *number - first;
  }
  return candidate;
}

/// Returns all ways to read these folders that differ.
inline std::vector<Candidate> orders_of(const Level& level, int classes, FolderLabels wanted) {
  std::vector<Candidate> all;
  const auto add = [&](Candidate candidate, FolderLabels kind) {
    if (wanted != FolderLabels::automatic && wanted != kind) return;
    const auto same = [&](const Candidate& known) { return known.classes == candidate.classes; };
    if (std::ranges::none_of(all, same)) all.push_back(std::move(candidate));
  };
  if (level.names.size() == static_cast<std::size_t>(classes)) {
    Candidate text = text_order(level), number = number_order(level);
    if (text.classes == number.classes) {  // as for words
      add(std::move(text), wanted == FolderLabels::number ? FolderLabels::number : FolderLabels::text);
    } else {
      add(std::move(number), FolderLabels::number);
      add(std::move(text), FolderLabels::text);
    }
  } else {
    for (const std::int64_t first : {0, 1}) {
      if (auto candidate = class_numbers(level, classes, first))
        add(std::move(*candidate), FolderLabels::number);
    }
  }
  return all;
}

/// Returns the class that has a folder's name, if there is one.
/// \throws Error if several classes have it
inline std::optional<std::int64_t> class_named(const std::string& folder, const Folders& names) {
  const auto found = std::ranges::find(names, folder);
  if (found == names.end()) return std::nullopt;
  const auto second = std::find(found + 1, names.end(), folder);
  if (second != names.end()) {
    throw Error(
        "class folders: '{}' is the name of two classes, {} and {}; name the folders by class numbers and specify "
        "--labels number, or specify --no_labels",
        folder, found - names.begin(), second - names.begin());
  }
  return found - names.begin();
}

/// Reads folders by the classifier's class names. Returns nothing if no folder has one.
inline std::optional<Candidate> by_names(const Level& level, const Folders& names) {
  Candidate candidate{"class names", {}, &level};
  Folders unknown;
  for (const std::string& folder : level.names) {
    if (const auto label = class_named(folder, names)) {
      candidate.classes[folder] = *label;
    } else {
      unknown.push_back(folder);
    }
  }
  if (candidate.classes.empty()) return std::nullopt;
  if (!unknown.empty()) {
    throw Error(
        "class folders: {} of {} have names of the model's classes, {} {} not ({}); rename or remove {}, or specify "
        "--no_labels, which measures no accuracy",
        candidate.classes.size(), level.names.size(), unknown.size(), unknown.size() == 1 ? "does" : "do",
        quote(unknown), unknown.size() == 1 ? "it" : "them");
  }
  return candidate;
}

inline std::vector<std::int64_t> labels_by(const Candidate& candidate, const FolderImages& images) {
  std::vector<std::int64_t> labels;
  for (const std::string& folder : images.folders)
    labels.push_back(candidate.classes.at(candidate.level->part_of.at(folder)));
  return labels;
}

inline double percentage(std::int64_t hits, std::size_t n) {
  return 100.0 * static_cast<double>(hits) / static_cast<double>(std::max<std::size_t>(n, 1));
}

/// Refuses an order of the folders if the classifier's predictions clearly fit another one.
/// \param labels those of the order
/// \param hits images on which the classifier agrees with the labels
/// \throws Error if at least a quarter more of the images fit when each folder with four images or more is the class
///   that most of them are predicted as, and no two of these folders are the same class
inline void refuse_other_order(const Candidate& order, const std::vector<std::int64_t>& labels,
                               const std::vector<std::int64_t>& victim, std::int64_t hits,
                               const FolderImages& images) {
  constexpr std::int64_t enough = 4;  // the prediction of a single image always fits some order
  std::map<std::int64_t, std::map<std::int64_t, std::int64_t>> counts;  // by label and prediction
  std::map<std::int64_t, std::string> folder_of;
  for (std::size_t i = 0; i < victim.size(); ++i) {
    ++counts[labels[i]][victim[i]];
    folder_of.emplace(labels[i], order.level->part_of.at(images.folders[i]));
  }
  std::int64_t fitting = 0;
  std::set<std::int64_t> taken;
  std::string example;
  for (const auto& [label, predictions] : counts) {
    std::int64_t total = 0;
    for (const auto& [cls, count] : predictions) total += count;
    const auto favourite =
        std::ranges::max_element(predictions, {}, [](const auto& entry) { return entry.second; });
    if (total < enough || 2 * favourite->second <= total) {
      const auto as_labelled = predictions.find(label);
      if (as_labelled != predictions.end()) fitting += as_labelled->second;
      continue;
    }
    if (!taken.insert(favourite->first).second) return;
    fitting += favourite->second;
    if (example.empty() && favourite->first != label)
      example = fmt::format("'{}' as class {}, not {}", folder_of.at(label), favourite->first, label);
  }
  const std::size_t n = victim.size();
  if (4 * (fitting - hits) < static_cast<std::int64_t>(n)) return;
  throw Error(
      "class folders: in {}, the model agrees with them on {:.0f} % of the images, in another order on {:.0f} % "
      "(most of {}); specify --class_names, a file with the model's classes in its order, or --labels text or number to "
      "insist",
      order.name, percentage(hits, n), percentage(fitting, n), example);
}

/// Returns the candidate that the classifier's predictions fit. There must be at least one.
/// \throws Error if they fit none clearly
inline const Candidate& candidate_that_fits(const std::vector<Candidate>& candidates,
                                            const FolderImages& images, const FolderLabelOptions& options) {
  const std::vector<std::int64_t> victim = options.predictions();
  std::vector<std::vector<std::int64_t>> labels;
  std::vector<std::int64_t> hits;
  for (const Candidate& candidate : candidates) {
    labels.push_back(labels_by(candidate, images));
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
      note(
          options.notify,
          fmt::format(
              "class folders are read in {}: the model agrees with it on {:.0f} % of the images, with {} on {:.0f} %",
              candidates[best].name, percentage(hits[best], n), candidates[other].name,
              percentage(hits[other], n)));
      continue;
    }
    throw Error(
        "class folders: {} and {} differ, and the model's predictions fit neither clearly (it agrees on {:.0f} % and "
        "{:.0f} % of the images); specify --labels number or --labels text, --class_names, or --no_labels",
        candidates[best].name, candidates[other].name, percentage(hits[best], n), percentage(hits[other], n));
  }
  if (n >= 20) refuse_other_order(candidates[best], labels[best], victim, hits[best], images);
  if (n >= 20 && static_cast<double>(hits[best]) * options.classes < 2.0 * static_cast<double>(n) &&
      options.classes > 3) {
    note(
        options.notify,
        fmt::format(
            "the model agrees with the labels of these folders on {:.0f} % of the images, which is about chance; if they "
            "are other classes or in another order, specify --class_names or --no_labels; if not, check --mean and --std",
            percentage(hits[best], n)));
  }
  return candidates[best];
}

}  // namespace refine::detail::class_folders

namespace refine {

REFINE_INLINE const char* to_text(FolderLabels labels) {
  switch (labels) {
    case FolderLabels::automatic:
      return "auto";
    case FolderLabels::names:
      return "names";
    case FolderLabels::text:
      return "text";
    case FolderLabels::number:
      return "number";
    case FolderLabels::none:
      return "none";
  }
  return "";
}

REFINE_INLINE std::vector<std::string> read_class_names(const std::filesystem::path& path) {
  constexpr std::uintmax_t max_bytes = std::uintmax_t{16} << 20;
  std::string text = files::read(path, max_bytes);
  if (text.starts_with("\xef\xbb\xbf")) text.erase(0, 3);
  if (const auto encoding = detail::class_folders::encoding_of(text); !encoding.empty()) {
    throw Error("class names {}: the file is not UTF-8 (got {}); save it as UTF-8", path.string(), encoding);
  }
  if (const std::size_t bad = text::find_invalid_utf8(text); bad != std::string::npos) {
    const auto line = 1 + std::count(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(bad), '\n');
    throw Error(
        "class names {}: line {} is not UTF-8 (got the byte 0x{:02x}, as in Latin-1 and Windows-1252); "
        "save the file as UTF-8",
        path.string(), line, static_cast<unsigned char>(text[bad]));
  }
  std::vector<std::string> names;
  for (std::string_view rest = text; !rest.empty();) {
    const std::size_t end = std::min(rest.find_first_of("\r\n"), rest.size());
    if (const auto name = detail::class_folders::trim_blanks(rest.substr(0, end)); !name.empty())
      names.emplace_back(name);
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  if (names.empty()) {
    throw Error("class names {}: the file has no names; write one on each line, in the model's order",
                path.string());
  }
  return names;
}

REFINE_INLINE bool is_before_in_number_order(const std::string& a, const std::string& b) {
  std::size_t i = 0, j = 0;
  while (i < a.size() && j < b.size()) {
    if (!detail::class_folders::is_digit(a[i]) || !detail::class_folders::is_digit(b[j])) {
      if (a[i] != b[j]) return static_cast<unsigned char>(a[i]) < static_cast<unsigned char>(b[j]);
      ++i, ++j;
      continue;
    }
    const auto run = [](const std::string& text, std::size_t& place) {
      while (place + 1 < text.size() && text[place] == '0' &&
             detail::class_folders::is_digit(text[place + 1]))
        ++place;
      const std::size_t begin = place;
      while (place < text.size() && detail::class_folders::is_digit(text[place])) ++place;
      return std::string_view(text).substr(begin, place - begin);
    };
    const std::string_view x = run(a, i), y = run(b, j);
    if (x.size() != y.size()) return x.size() < y.size();
    if (x != y) return x < y;
  }
  const std::size_t rest_of_a = a.size() - i, rest_of_b = b.size() - j;
  return rest_of_a != rest_of_b ? rest_of_a < rest_of_b : a < b;
}

REFINE_INLINE std::optional<data::Dataset> label_by_folders(const FolderImages& images,
                                                            const FolderLabelOptions& options) {
  using namespace detail::class_folders;
  const FolderLabels wanted = options.labels;
  const std::vector<std::string>& names = options.class_names;
  const int classes = options.classes;
  if (wanted == FolderLabels::none) return std::nullopt;
  std::set<std::string> folders = images.all_folders;
  const bool loose = folders.erase("") + folders.erase(".") > 0;
  if (folders.empty() || loose) {
    const std::string why = folders.empty() ? "the images are not in class folders"
                                            : "some images are beside the folders, not in one of them";
    if (wanted != FolderLabels::automatic) {
      throw Error("--labels {}: {}; use <class>/<image>", to_text(wanted), why);
    }
    if (loose && !folders.empty()) {
      detail::note(options.notify,
                   fmt::format("no accuracy is measured: {}, so the folders ({}) are not read as classes",
                               why, quote(Folders(folders.begin(), folders.end()))));
    }
    return std::nullopt;
  }

  const Level levels[] = {level_of(folders, /*innermost=*/false), level_of(folders, /*innermost=*/true)};
  const bool is_one_level = levels[0].part_of == levels[1].part_of;
  const auto result = [&](std::vector<std::int64_t> labels, Folders order) {
    return data::Dataset{.images = images.images, .labels = at::tensor(labels), .classes = std::move(order)};
  };
  if (!names.empty() && (wanted == FolderLabels::automatic || wanted == FolderLabels::names)) {
    std::string problem;
    for (const Level& level : levels) {
      if (are_parts(level) && !is_one_level) continue;
      try {
        if (const auto candidate = by_names(level, names)) {
          return result(labels_by(*candidate, images), names);
        }
      } catch (const Error& error) {
        if (problem.empty()) problem = error.what();
      }
    }
    if (!problem.empty()) throw Error(problem);
  }
  if (wanted == FolderLabels::names) {
    throw Error("--labels names: {}; specify --class_names, a file with the model's classes in its order",
                names.empty() ? "the model's class names are not known"
                              : fmt::format("none of the folders ({}) has the name of a class of the model",
                                            quote(levels[0].names)));
  }
  // Folders at both depths may be the classes, as in <camera>/<class>/: the predictions decide, unless an order is
  // specified.
  std::vector<Candidate> candidates;
  for (const Level& level : std::span(levels, is_one_level ? 1 : 2)) {
    if (are_parts(level)) continue;
    // If the folders do not have the class names, only numbers can mean the classes.
    const bool numbers =
        std::ranges::all_of(level.names, [](const std::string& name) { return number_of(name).has_value(); });
    if (!names.empty() && !numbers && wanted == FolderLabels::automatic) continue;
    // Some of the class numbers, as subfolders may have, are classes only if no other folders are.
    if (!candidates.empty() &&
        (wanted != FolderLabels::automatic || level.names.size() != static_cast<std::size_t>(classes)))
      continue;
    for (Candidate& candidate : orders_of(level, classes, wanted)) {
      if (!is_one_level)
        candidate.name += &level == levels ? " of the outer folders" : " of the inner folders";
      candidates.push_back(std::move(candidate));
    }
  }
  if (!candidates.empty()) {
    const Candidate& order = wanted != FolderLabels::automatic && candidates.size() == 1
                                 ? candidates.front()
                                 : candidate_that_fits(candidates, images, options);
    const std::vector<std::int64_t> labels = labels_by(order, images);
    Folders classes_in_order = names;
    for (int c = 0; classes_in_order.size() < static_cast<std::size_t>(classes); ++c) {
      classes_in_order.push_back("class " + std::to_string(c));
    }
    if (names.empty()) {  // folders name their classes
      for (std::size_t i = 0; i < labels.size(); ++i) {
        classes_in_order[static_cast<std::size_t>(labels[i])] = order.level->part_of.at(images.folders[i]);
      }
    }
    return result(labels, std::move(classes_in_order));
  }
  const std::size_t count = levels[0].names.size();
  if (are_parts(levels[0]) && is_one_level) {
    const std::string why =
        fmt::format("the folders ({}) are parts of a data set, not classes", quote(levels[0].names));
    if (wanted != FolderLabels::automatic)
      throw Error("--labels {}: {}; use <class>/<image>", to_text(wanted), why);
    detail::note(options.notify, "no accuracy is measured: " + why);
    return std::nullopt;
  }
  if (wanted != FolderLabels::automatic) {
    throw Error(
        "--labels {}: the model predicts {} classes and there are {} folders ({}); specify --class_names with folders of "
        "these names, or --no_labels",
        to_text(wanted), classes, count, quote(levels[0].names));
  }
  detail::note(
      options.notify,
      names.empty()
          ? fmt::format(
                "no accuracy is measured: there are {} folders ({}) and the model predicts {} classes, whose names are not "
                "known; specify them by --class_names",
                count, quote(levels[0].names), classes)
          : fmt::format(
                "no accuracy is measured: none of the {} folders ({}) has the name of a class of the model ({})",
                count, quote(levels[0].names), quote(names)));
  return std::nullopt;
}

}  // namespace refine

namespace refine::detail {

/// True for a file that is an image by its name, of a format that is not read.
inline bool is_unread_image(const std::filesystem::path& file) {
  constexpr std::string_view known[] = {".gif", ".heic", ".heif", ".avif", ".jp2", ".j2k", ".jxl",
                                        ".tga", ".psd",  ".dng",  ".raw",  ".exr", ".hdr", ".npy"};
  return std::ranges::find(known, files::lower_extension(file)) != std::end(known);
}

}  // namespace refine::detail

namespace refine {

REFINE_INLINE FolderImages read_folder_images(const std::filesystem::path& path, const ImageShape& shape,
                                              const FolderOptions& options) {
  std::vector<std::filesystem::path> ignored;
  const std::vector<std::filesystem::path> files = data::image_files(path, &ignored);
  data::warn_ignored(ignored);
  const auto folder_of = [&](const std::filesystem::path& file) {
    return file.lexically_relative(path).parent_path().string();
  };
  auto loaded = data::load_images(files, {.image = shape,
                                          .resize_mode = options.resize.value_or(data::ResizeMode::crop),
                                          .on_error = data::OnDecodeError::skip,
                                          .store = options.store,
                                          .max_images = options.max_images,
                                          .seed = options.seed});
  data::warn_skipped(loaded.skipped);
  FolderImages result{
      .images = std::move(loaded.images), .files = std::move(loaded.files), .skipped = loaded.skipped.size()};
  for (const auto& file : result.files) result.folders.push_back(folder_of(file));
  for (const auto& file : files) result.all_folders.insert(folder_of(file));
  for (const auto& file : ignored) {  // a class whose images are not read is a class
    if (!folder_of(file).empty() && detail::is_unread_image(file)) result.all_folders.insert(folder_of(file));
  }
  return result;
}

REFINE_INLINE std::pair<FolderImages, at::Tensor> read_image_pairs(const std::filesystem::path& clean,
                                                                   const std::filesystem::path& triggered,
                                                                   const ImageShape& shape,
                                                                   const FolderOptions& options) {
  FolderImages originals = read_folder_images(clean, shape, options);
  const auto key = [](const std::filesystem::path& file, const std::filesystem::path& root) {
    return file.lexically_relative(root).replace_extension().string();
  };
  const auto by_key = [&](const std::vector<std::filesystem::path>& files,
                          const std::filesystem::path& root) {
    std::map<std::string, std::filesystem::path> found;
    for (const auto& file : files) {
      if (!found.emplace(key(file, root), file).second) {
        throw Error("cannot pair the images: {} and another file differ in their extension alone; rename one",
                    file.string());
      }
    }
    return found;
  };
  const auto others = by_key(data::image_files(triggered), triggered);
  by_key(originals.files, clean);
  std::vector<std::filesystem::path> counterparts;
  for (const auto& file : originals.files) {
    const auto found = others.find(key(file, clean));
    if (found == others.end()) {
      throw Error(
          "cannot pair the images: {} has no counterpart in {}; give both folders the same file names",
          file.string(), triggered.string());
    }
    counterparts.push_back(found->second);
  }
  auto loaded =
      data::load_images(std::move(counterparts),
                        {.image = shape, .resize_mode = options.resize.value_or(data::ResizeMode::crop)});
  return {std::move(originals), std::move(loaded.images)};
}

REFINE_INLINE bool is_named_dataset(std::string_view name) {
  return name == "CIFAR10" || name == "FashionMNIST";
}

REFINE_INLINE NamedDataset read_dataset(const std::string& name, const NamedDatasetOptions& options) {
  if (!options.store.empty() && is_named_dataset(name)) {
    throw Error("cannot keep {} in a store: only the images of a folder are kept; leave --store out", name);
  }
  const auto root_or = [&](const char* other) {
    return options.root.empty() ? std::filesystem::path(other) : options.root;
  };
  if (name == "CIFAR10") {
    const std::filesystem::path folder = root_or("data/CIFAR10");
    if (options.root.empty() && options.download && !data::holds_cifar10(folder)) options.download(folder);
    return {name, data::cifar10(folder), normalizations::cifar10};
  }
  if (name == "FashionMNIST") {
    const std::filesystem::path folder = root_or(
        files::exists("data/FashionMNIST") ? "data/FashionMNIST" : "/usr/share/datasets/fashion-mnist");
    return {name, data::fashion_mnist(folder), normalizations::fashion_mnist};
  }
  if (!files::exists(name)) {
    throw Error(
        "cannot read the data set {}: it is neither CIFAR10 nor FashionMNIST nor a folder; check the path",
        name);
  }
  data::ImageFolderOptions folder{.image = options.image,
                                  .resize_mode = options.resize,
                                  .on_error = options.on_error,
                                  .store = options.store};
  if (options.resize != data::ResizeMode::exact && !options.image.is_static()) {
    std::vector<std::filesystem::path> files = data::image_files(std::filesystem::path(name) / "train");
    for (auto& file : data::image_files(std::filesystem::path(name) / "test"))
      files.push_back(std::move(file));
    const ImageShape common = data::common_shape(files);
    if (!common.is_static()) {
      throw Error(
          "cannot read the data set {}: its images have several sizes; specify --image, the size they become",
          name);
    }
    folder.image = merged(options.image, common);
  }
  std::vector<std::string> skipped;
  data::Split split = data::image_folders(name, folder, &skipped);
  data::warn_skipped(skipped);
  return {dataset_name(name), std::move(split), std::nullopt, skipped.size()};
}

REFINE_INLINE std::string dataset_name(const std::string& name) {
  if (is_named_dataset(name)) return name;
  const std::filesystem::path folder = std::filesystem::path(name).lexically_normal();
  return (folder.has_filename() ? folder : folder.parent_path()).filename().string();
}

}  // namespace refine
