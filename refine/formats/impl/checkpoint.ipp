#pragma once

#include <refine/formats/checkpoint.hpp>

#include <c10/core/ScalarType.h>
#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <optional>
#include <set>
#include <system_error>
#include <utility>

#include <refine/core/config.hpp>
#include <refine/core/file.hpp>
#include <refine/core/text.hpp>
#include <refine/formats/archive.hpp>
#include <refine/formats/detail/objection.hpp>
#include <refine/formats/detail/pickle_machine.hpp>
#include <refine/formats/detail/safetensors_header.hpp>
#include <refine/formats/detail/zip_directory.hpp>
#include <refine/formats/exported_program.hpp>
#include <refine/formats/inspect.hpp>
#include <refine/formats/safetensors.hpp>

namespace refine::formats::detail {

/// The first pickle of a file of torch.save before PyTorch 1.6: a number of ten bytes.
inline constexpr std::string_view legacy_magic{"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.",
                                               15};

/// Throws the ProgramError if one of the names runs programs.
REFINE_INLINE void refuse_programs(const std::filesystem::path& path, const std::set<std::string>& names) {
  for (const std::string& name : names) {
    if (runs_programs(name)) refuse_program(path, name);
  }
}

/// Goes through the instructions of a pickle without following what they do. Where `PickleMachine` stops, Python may go
/// on: it has no limits, and takes numbers and objects that the machine refuses.
class PickleScan {
 public:
  /// \param bytes begin with the pickle
  explicit PickleScan(std::string_view bytes) : rest_(bytes) {}

  /// Searches up to the end of the pickle, or to a byte that is not an instruction.
  ProgramSearch run();

 private:
  /// Reads an instruction.
  /// \return false for the last one, one that names a program, and a byte that is not one
  bool step();

  std::string_view take(std::uint64_t n);
  std::string_view take_counted(std::size_t width);
  std::string_view line();

  /// Adds a text, of which an instruction may make a name.
  /// \param has_escapes whether it is written with escapes, and may be in quotes
  void add_text(std::string_view text, bool has_escapes = false);

  void check_names();

  std::string_view rest_;
  bool is_truncated_ = false, makes_names_ = false;
  std::set<std::string, std::less<>> texts_;
  std::vector<std::string> modules_;  // the texts that may be one
  std::string suspect_;               // a text that is enough for a name which runs programs
  ProgramSearch found_;
};

REFINE_INLINE ProgramSearch PickleScan::run() {
  while (!rest_.empty() && step() && !is_truncated_) continue;
  if (makes_names_ && found_.name.empty()) check_names();
  found_.is_truncated = found_.name.empty() && is_truncated_;
  return found_;
}

REFINE_INLINE bool PickleScan::step() {
  const char code = take(1).front();
  constexpr std::string_view plain =
                                 "(012NQRabde}l]ost)u\x81\x85\x86\x87\x88\x89\x8f\x90\x91\x92\x94\x97\x98",
                             lines = "FILPgp", texts_in_lines = "SV";
  const auto is_one_of = [code](std::string_view codes) { return codes.find(code) != codes.npos; };
  if (is_one_of(plain)) return true;
  if (is_one_of(lines)) return line(), true;
  if (is_one_of(texts_in_lines)) return add_text(line(), /*has_escapes=*/true), true;
  if (is_one_of("Khq\x80\x82")) return take(1), true;
  if (is_one_of("M\x83")) return take(2), true;
  if (is_one_of("Jjr\x84")) return take(4), true;
  if (is_one_of("G\x95")) return take(8), true;
  if (is_one_of("U\x8c")) return add_text(take_counted(1)), true;
  if (is_one_of("TX")) return add_text(take_counted(4)), true;
  if (code == '\x8d') return add_text(take_counted(8)), true;
  if (is_one_of("C\x8a")) return take_counted(1), true;
  if (is_one_of("B\x8b")) return take_counted(4), true;
  if (is_one_of("\x8e\x96")) return take_counted(8), true;
  if (is_one_of("ci")) {
    const std::string module(line()), name(line());
    if (runs_programs(module + "." + name)) found_.name = module + "." + name;
    return found_.name.empty();
  }
  makes_names_ = makes_names_ || code == '\x93';
  return code == '\x93';
}

REFINE_INLINE std::string_view PickleScan::take(std::uint64_t n) {
  is_truncated_ = is_truncated_ || n > rest_.size();
  const std::string_view bytes =
      rest_.substr(0, static_cast<std::size_t>(std::min<std::uint64_t>(n, rest_.size())));
  rest_.remove_prefix(bytes.size());
  return bytes;
}

REFINE_INLINE std::string_view PickleScan::take_counted(std::size_t width) {
  std::uint64_t size = 0;
  const std::string_view bytes = take(width);
  std::memcpy(&size, bytes.data(), bytes.size());
  return take(size);
}

REFINE_INLINE std::string_view PickleScan::line() {
  const std::size_t end = rest_.find('\n');
  const std::string_view text = take(end == rest_.npos ? rest_.size() : end);
  take(1);
  return text;
}

REFINE_INLINE void PickleScan::add_text(std::string_view text, bool has_escapes) {
  constexpr std::size_t max_size = 1 << 16;
  if (has_escapes) {
    while (text.size() > 1 && std::isspace(static_cast<unsigned char>(text.back())) != 0)
      text.remove_suffix(1);
    const bool is_quoted = text.size() > 1 && (text.front() == '\'' || text.front() == '"');
    if (is_quoted) text = text.substr(1, text.size() - 2);
  }
  const std::string name(text);
  const bool is_unclear = has_escapes && text.find('\\') != text.npos;
  if (is_unclear || runs_programs(name + ".a") || runs_programs("_." + name)) suspect_ = shorten(name);
  if (text.size() > max_size || !texts_.insert(name).second) return;
  if (has_programs(name)) modules_.push_back(name);
}

/// An instruction that makes a name takes two texts of the stack, which may come from anywhere before it.
REFINE_INLINE void PickleScan::check_names() {
  constexpr std::size_t max_texts = 20'000;
  found_.name = suspect_;
  for (const std::string& module : modules_) {
    if (texts_.size() > max_texts) found_.name = module;
    for (auto name = texts_.begin(); found_.name.empty() && name != texts_.end(); ++name) {
      if (runs_programs(module + "." + *name)) found_.name = module + "." + *name;
    }
  }
}

REFINE_INLINE ProgramSearch find_program(std::string_view bytes) {
  PickleMachine machine({}, bytes);
  std::set<std::string> harmless;  // many pickles may ask for one name
  while (!machine.rest().empty()) {
    const std::string_view pickle = machine.rest();
    bool is_pickle = true;
    try {
      machine.run_next();
    } catch (const Error&) {
      is_pickle = false;
    }
    const auto& names = machine.unknown_names();
    for (const std::string& name : names) {
      if (harmless.contains(name)) continue;
      if (runs_programs(name)) return {.name = name};
      harmless.insert(name);
    }
    if (!is_pickle && machine.is_truncated()) return {.is_truncated = true};
    if (!is_pickle) return PickleScan(pickle).run();
  }
  return {};
}

/// Returns where the numbers or objects of a NumPy array begin in its file; empty for another file. Objects are a pickle.
/// The type, which says what they are, is not read: Python evaluates it, and a type has many spellings.
REFINE_INLINE std::optional<std::uint64_t> numpy_content(std::string_view beginning) {
  constexpr std::size_t shortest = 12;
  if (!beginning.starts_with("\x93NUMPY") || beginning.size() < shortest) return std::nullopt;
  const auto byte = [&](std::size_t i) {
    return std::uint64_t{static_cast<unsigned char>(beginning[i])} << (8 * (i - 8));
  };
  const bool is_first_version = beginning[6] == 1;
  return is_first_version ? 10 + byte(8) + byte(9) : 12 + byte(8) + byte(9) + byte(10) + byte(11);
}

REFINE_INLINE ProgramSearch find_program_in_entry(std::string_view name, std::string_view bytes) {
  if (const auto content = numpy_content(bytes)) {
    return find_program(
        bytes.substr(static_cast<std::size_t>(std::min<std::uint64_t>(*content, bytes.size()))));
  }
  const std::string lower = text::lower(name);
  const bool is_pickle =
      lower.ends_with("pkl") || lower.ends_with(".pickle") ||
      (bytes.size() > 2 && bytes[0] == '\x80' && static_cast<unsigned char>(bytes[1]) <= 5);
  return is_pickle ? find_program(bytes) : ProgramSearch();
}

/// Refuses bytes that Python would run as pickles.
/// \return true if the bytes end in the middle of a pickle
REFINE_INLINE bool refuse_programs_in(const std::filesystem::path& path, std::string_view bytes) {
  const ProgramSearch search = find_program(bytes);
  if (!search.name.empty()) refuse_program(path, search.name);
  return search.is_truncated;
}

/// Refuses a tar archive with such pickles. torch.save wrote tar archives before PyTorch 0.1.10.
REFINE_INLINE void refuse_programs_in_tar(const std::filesystem::path& path, SeekableFile& file) {
  constexpr std::uint64_t block = 512, max_bytes = 1 << 28;
  constexpr int max_entries = 1000;
  std::uint64_t offset = 0;
  for (int i = 0; i < max_entries && offset + block < file.size(); ++i) {
    const std::string header = file.read(offset, block);
    std::uint64_t bytes = 0;
    const std::size_t digits = header.find_first_not_of(' ', 124);
    if (digits >= 136) return;
    const auto [end, error] = std::from_chars(header.data() + digits, header.data() + 136, bytes, 8);
    if (error != std::errc() || bytes > file.size() - offset - block) return;
    std::string content =
        file.read(offset + block, static_cast<std::size_t>(std::min<std::uint64_t>(bytes, 65536)));
    if (refuse_programs_in(path, content) && bytes > content.size() && bytes <= max_bytes) {
      content = file.read(offset + block, static_cast<std::size_t>(bytes));
      refuse_programs_in(path, content);
    }
    offset += block + (bytes + block - 1) / block * block;
  }
}

/// Refuses a ZIP archive with such pickles, also in arrays of NumPy.
REFINE_INLINE void refuse_programs_in_archive(const std::filesystem::path& path) {
  constexpr std::uint64_t max_bytes = 1 << 28;
  visit_archive(path, max_bytes, [&](std::string_view name, std::string_view bytes) {
    const ProgramSearch search = find_program_in_entry(name, bytes);
    if (!search.name.empty()) refuse_program(path, search.name);
  });
}

REFINE_INLINE void refuse_hidden_programs(const std::filesystem::path& path) {
  SeekableFile file(path);
  constexpr std::uint64_t beginning_size = 65536;
  const std::string beginning = file.read(0, static_cast<std::size_t>(std::min(file.size(), beginning_size)));
  if (beginning.starts_with('\x80')) return;
  if (is_archive(beginning)) return refuse_programs_in_archive(path);
  if (beginning.size() > 263 && std::string_view(beginning).substr(257, 5) == "ustar") {
    refuse_programs_in_tar(path, file);
  }
  const std::uint64_t begin = std::min(numpy_content(beginning).value_or(0), file.size());
  const std::uint64_t size = file.size() - begin;
  const std::string first = file.read(begin, static_cast<std::size_t>(std::min(size, beginning_size)));
  if (refuse_programs_in(path, first) && size > first.size()) {
    refuse_programs_in(path, file.read(begin, static_cast<std::size_t>(size)));
  }
}

/// Reads one pickle that takes all of `bytes`.
REFINE_INLINE TorchFile read_whole_pickle(const std::filesystem::path& path, std::string_view bytes,
                                          const Storages& storages) {
  PickleMachine machine(path, bytes);
  const PickleNode& node = machine.run();
  if (!machine.rest().empty()) {
    refuse_programs_in(path, machine.rest());
    machine.fail("there are extra bytes after the pickle");
  }
  return {PickleBuilder(machine, storages).build(node, /*keep_opaque=*/true), machine.unknown_names()};
}

REFINE_INLINE TorchFile read_zipped(const std::filesystem::path& path, const Archive& archive) {
  const auto fail = [&](std::string_view why) { throw Error("cannot load {}: {}", path.string(), why); };
  const auto is_code = [](const auto& entry) { return entry.first.starts_with("code/"); };
  if (archive.entries.contains("constants.pkl") || std::ranges::any_of(archive.entries, is_code)) {
    fail("the file is a TorchScript program, not a file of tensors; load it as a model");
  }
  if (is_exported_program(archive)) {
    fail("the file is an exported program (.pt2), not a file of tensors; load it as a model");
  }
  const auto order = archive.entries.find("byteorder");
  if (order != archive.entries.end() && order->second != "little") {
    fail("its byte order is not little-endian; save it again on a little-endian machine");
  }
  const auto pickle = archive.entries.find("data.pkl");
  if (pickle == archive.entries.end()) fail("the archive has no data.pkl; save it with torch.save");
  for (const auto& [name, bytes] : archive.entries) {
    if (name == "data.pkl") continue;
    const ProgramSearch search = find_program_in_entry(name, bytes);
    if (!search.name.empty()) refuse_program(path, search.name);
  }
  const Storages storages = [&](std::string_view key) -> std::optional<std::string_view> {
    const auto found = archive.entries.find("data/" + std::string(key));
    return found == archive.entries.end() ? std::nullopt : std::optional<std::string_view>(found->second);
  };
  return read_whole_pickle(path, pickle->second, storages);
}

/// Reads a file of torch.save before PyTorch 1.6: pickles of a magic number, a version, the
/// machine, the object and the keys of the storages; then, for each storage, the number of elements
/// (int64) and its bytes.
REFINE_INLINE TorchFile read_legacy(const std::filesystem::path& path, std::string_view bytes) {
  std::string_view rest = bytes.substr(legacy_magic.size());
  const auto read_plain = [&] {
    PickleMachine machine(path, rest);
    const PickleNode& node = machine.run();
    refuse_programs(path, machine.unknown_names());
    rest = machine.rest();
    const Storages none;
    return PickleBuilder(machine, none).build(node);
  };
  const Value version = read_plain(), machine_info = read_plain();
  PickleMachine machine(path, rest);
  if (const auto* number = version.as_integer(); !number || *number != 1001) {
    machine.fail("the file has an unknown version of the legacy PyTorch format");
  }
  const Value* little = machine_info.find("little_endian");
  if (little && little->as_boolean() && !*little->as_boolean()) {
    machine.fail("its byte order is not little-endian");
  }
  const PickleNode& node = machine.run();
  refuse_programs(path, machine.unknown_names());
  rest = machine.rest();
  const Value keys = read_plain();

  std::map<std::string_view, const PickleNode*> claims;
  for (const PickleNode* storage : machine.storages()) {
    const auto [claim, is_new] = claims.emplace(storage->items[0]->text, storage);
    if (!is_new && (claim->second->name->type != storage->name->type ||
                    claim->second->items[1]->integer != storage->items[1]->integer)) {
      machine.fail("two references to one storage disagree");
    }
  }
  std::map<std::string, std::string_view, std::less<>> data;
  if (!keys.as_list()) machine.fail("the list of storages is missing");
  for (const Value& key : *keys.as_list()) {
    const auto claim = key.as_text() ? claims.find(*key.as_text()) : claims.end();
    std::int64_t count = 0;
    if (claim == claims.end() || data.contains(*key.as_text())) {
      machine.fail("a listed storage is a duplicate or is not referenced");
    }
    if (rest.size() < sizeof count) machine.fail("the file is truncated");
    std::memcpy(&count, rest.data(), sizeof count);
    rest.remove_prefix(sizeof count);
    const std::uint64_t width = c10::elementSize(claim->second->name->type);
    if (count != claim->second->items[1]->integer) {
      machine.fail(fmt::format("a storage has {} elements, but its tensors claim {}", count,
                               claim->second->items[1]->integer));
    }
    if (count < 0 || static_cast<std::uint64_t>(count) > rest.size() / width) {
      machine.fail("the file is truncated");
    }
    data.emplace(*key.as_text(), rest.substr(0, static_cast<std::uint64_t>(count) * width));
    rest.remove_prefix(static_cast<std::uint64_t>(count) * width);
  }
  if (!rest.empty()) machine.fail("there are extra bytes after the last storage");
  const Storages storages = [&](std::string_view key) -> std::optional<std::string_view> {
    const auto found = data.find(key);
    return found == data.end() ? std::nullopt : std::optional<std::string_view>(found->second);
  };
  return {PickleBuilder(machine, storages).build(node, /*keep_opaque=*/true), machine.unknown_names()};
}

REFINE_INLINE TorchFile read_unzipped(const std::filesystem::path& path, std::string_view bytes) {
  const Storages none;
  if (bytes.starts_with(legacy_magic)) return read_legacy(path, bytes);
  if (bytes.starts_with('\x80')) return read_whole_pickle(path, bytes, none);
  if (const auto foreign = recognize(bytes.substr(0, 65536), bytes.size())) refuse_foreign(path, *foreign);
  try {  // protocols 0 and 1 have no signature
    return read_whole_pickle(path, bytes, none);
  } catch (const ProgramError&) {
    throw;
  } catch (const Error&) {
    throw Error("cannot load {}: not a file of torch.save or a pickle; save it with torch.save",
                path.string());
  }
}

/// Reads an archive. One that cannot be read may still have a program that another reader would run.
REFINE_INLINE TorchFile read_archived(const std::filesystem::path& path) {
  try {
    return read_zipped(path, read_archive(path));
  } catch (const ProgramError&) {
    throw;
  } catch (const Error&) {
    refuse_hidden_programs(path);
    throw;
  }
}

REFINE_INLINE TorchFile read_any_torch_file(const std::filesystem::path& path) {
  if (const auto foreign = recognize_file(path)) {
    std::error_code unknown;
    if (!std::filesystem::is_directory(path, unknown)) refuse_hidden_programs(path);
    refuse_foreign(path, *foreign);
  }
  SeekableFile file(path);
  TorchFile result = file.size() >= 4 && is_archive(file.read(0, 4)) ? read_archived(path)
                                                                     : read_unzipped(path, files::read(path));
  refuse_programs(path, result.unknown_names);
  return result;
}

REFINE_INLINE void refuse_opaque(const std::filesystem::path& path, std::string_view name) {
  throw Error(
      "cannot load {}: the file is an object of {}, which needs Python code, such as a whole module; "
      "ask for model.state_dict(), or convert it in a sandbox: opening it in Python can run its code",
      path.string(), shorten(name));
}

}  // namespace refine::formats::detail

namespace refine::formats {

REFINE_INLINE Value read_torch_file(const std::filesystem::path& path) {
  detail::TorchFile file = detail::read_any_torch_file(path);
  if (const Opaque* whole = file.value.as_opaque()) detail::refuse_opaque(path, whole->name);
  return std::move(file.value);
}

}  // namespace refine::formats

namespace refine::formats::detail {

REFINE_INLINE bool looks_like_safetensors(SeekableFile& file) {
  std::uint64_t header_size = 0;
  if (file.size() <= sizeof header_size) return false;
  const std::string start = file.read(0, sizeof header_size + 1);
  std::memcpy(&header_size, start.data(), sizeof header_size);
  return header_size <= SafeTensorsHeader::max_bytes && start.back() == '{';
}

/// A dict of tensors by name.
struct StateDict {
  std::string key = {};        ///< its keys in the file, separated by "/"
  const Dict* dict = nullptr;  ///< the dict
  std::size_t tensors = 0;     ///< number of tensors in it
  bool has_weights = false;    ///< true if the name of one ends in "weight", as in a layer
};

/// Returns true if the value is one tensor of any kind.
REFINE_INLINE bool is_tensor(const Value& value) {
  return value.as_tensor() || (value.as_opaque() && value.as_opaque()->is_tensor);
}

/// Returns true if tensors are nested in the value, down to a few levels.
REFINE_INLINE bool has_tensors(const Value& value, int depth = 0) {
  constexpr int max_depth = 4;
  if (value.as_tensor()) return true;
  if (const Opaque* opaque = value.as_opaque()) return opaque->has_tensors;
  if (depth == max_depth) return false;
  if (const Dict* dict = value.as_dict()) {
    return std::ranges::any_of(*dict, [&](const auto& item) { return has_tensors(item.second, depth + 1); });
  }
  const List* list = value.as_list();
  return list && std::ranges::any_of(*list, [&](const Value& item) { return has_tensors(item, depth + 1); });
}

/// Returns the value as a state dict: a dict of tensors by name, or one with the tensors of a
/// network among other entries.
REFINE_INLINE std::optional<StateDict> as_state_dict(const Value& value, const std::string& key) {
  const Dict* dict = value.as_dict();
  if (!dict || dict->empty()) return std::nullopt;
  StateDict result{.key = key, .dict = dict};
  bool has_others = false, has_layers = false;
  for (const auto& [name, entry] : *dict) {
    if (!name.as_text() || name.as_text()->size() > max_tensor_name) return std::nullopt;
    if (!is_tensor(entry)) {
      has_others = true;
      continue;
    }
    ++result.tensors;
    result.has_weights = result.has_weights || name.as_text()->ends_with("weight");
    has_layers = has_layers || name.as_text()->find('.') != std::string::npos;
  }
  if (result.tensors == 0 || (has_others && !has_layers)) return std::nullopt;
  return result;
}

/// Returns true for the key of training state, which has tensors by name, too: the moments of an
/// optimiser and the like.
REFINE_INLINE bool is_training_state(std::string_view key) {
  const std::string lower = text::lower(key);
  for (const std::string_view word : {"optim", "sched", "scaler", "sampler", "rng", "callback", "loops"}) {
    if (lower.find(word) != std::string::npos) return true;
  }
  return false;
}

/// Collects the state dicts in a value, searching dicts and short lists.
REFINE_INLINE void collect_state_dicts(const Value& value, const std::string& key, int depth,
                                       std::vector<StateDict>& found) {
  constexpr int max_depth = 5;
  constexpr std::size_t max_list = 16, max_found = 100;
  if (found.size() >= max_found) return;
  if (auto state = as_state_dict(value, key)) return found.push_back(*state);
  if (depth == max_depth) return;
  const auto descend = [&](const std::string& name, const Value& inner) {
    collect_state_dicts(inner, key.empty() ? name : key + "/" + name, depth + 1, found);
  };
  if (const Dict* dict = value.as_dict()) {
    for (const auto& [name, inner] : *dict) {
      const std::string* text = name.as_text();
      if (text && text->size() <= max_tensor_name && !is_training_state(*text)) descend(*text, inner);
    }
  } else if (const List* list = value.as_list(); list && list->size() <= max_list) {
    for (std::size_t i = 0; i < list->size(); ++i) descend(std::to_string(i), (*list)[i]);
  }
}

/// Returns true for the key of weights that were averaged over the training.
REFINE_INLINE bool is_average(std::string_view key) {
  std::string words = "_" + std::string(key.substr(key.rfind('/') + 1)) + "_";
  std::ranges::transform(words, words.begin(), [](unsigned char c) {
    return std::isalpha(c) != 0 ? static_cast<char>(std::tolower(c)) : '_';
  });
  for (const std::string_view word :
       {"_ema_", "_averaged_", "_average_", "_avg_", "_swa_", "_teacher_", "_shadow_"}) {
    if (words.find(word) != std::string::npos) return true;
  }
  return false;
}

/// Returns the one of several state dicts that is the network itself.
/// \throws Error if that is ambiguous
REFINE_INLINE const StateDict& choose_state_dict(const std::vector<StateDict>& found,
                                                 const std::filesystem::path& path) {
  if (found.size() == 1) return found.front();
  const auto last_key = [](const StateDict& state) {
    return std::string_view(state.key).substr(state.key.rfind('/') + 1);
  };
  for (const std::string_view usual : {"state_dict", "model_state_dict", "model", "net", "weights", "netC"}) {
    const auto match = std::ranges::find(found, usual, last_key);
    if (match != found.end()) return *match;
  }
  const auto is_not_average = [](const StateDict& state) { return !is_average(state.key); };
  if (std::ranges::count_if(found, is_not_average) == 1) return *std::ranges::find_if(found, is_not_average);
  std::string all;
  for (const StateDict& state : found) {
    all += fmt::format("{}'{}' ({} tensors)", all.empty() ? "" : ", ", shorten(state.key), state.tensors);
    if (&state - found.data() == 4) break;
  }
  throw Error("cannot load {}: the file has {} sets of weights: {}; choose one with --key", path.string(),
              found.size(), all);
}

/// The result of following a key into a value.
struct ResolvedKey {
  const Value* value;     ///< the value that was reached
  std::string_view rest;  ///< the rest of the key, which is a prefix of the names in that value
  std::string path = {};  ///< the keys that were followed, separated by "/"
};

/// Follows a key as far as possible. Keys are separated by "/" or "."; a list takes an index.
REFINE_INLINE ResolvedKey resolve_key(const Value& root, std::string_view key) {
  const Value* value = &root;
  std::string path;
  while (!key.empty()) {
    const Value* inner = value->find(key);
    std::size_t size = key.size();
    for (std::size_t i = 0; i < key.size() && !inner; ++i) {
      if (key[i] != '/' && key[i] != '.') continue;
      inner = value->find(key.substr(0, i));
      size = i;
    }
    if (const List* list = value->as_list(); !inner && list) {
      std::size_t index = 0;
      const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), index);
      if (error == std::errc() && index < list->size()) {
        inner = &(*list)[index];
        size = static_cast<std::size_t>(end - key.data());
      }
    }
    if (!inner) break;
    value = inner;
    path += (path.empty() ? "" : "/") + std::string(key.substr(0, size));
    key.remove_prefix(std::min(key.size(), size + 1));
  }
  return {value, key, path};
}

/// Throws the Error for an entry of a state dict that is not a tensor of a supported kind.
[[noreturn]] REFINE_INLINE void refuse_entry(const std::filesystem::path& path, std::string_view name,
                                             const Value& entry) {
  const Opaque* opaque = entry.as_opaque();
  if (opaque && opaque->is_tensor) {
    const UnsupportedTensor kind = describe_unsupported_tensor(opaque->name);
    throw Error("cannot load {}: '{}' is {} ({}), which refine does not read; {}", path.string(),
                shorten(name), kind.what, shorten(opaque->name), kind.advice);
  }
  if (opaque) {
    throw Error(
        "cannot load {}: '{}' is not a tensor but an object of class {}, which needs Python code; "
        "ask for model.state_dict(), or convert it in a sandbox: opening it in Python can run its code",
        path.string(), shorten(name), shorten(opaque->name));
  }
  throw Error("cannot load {}: '{}' is not a tensor; save model.state_dict()", path.string(), shorten(name));
}

/// Throws the Error for a file without weights, which says what it has instead.
[[noreturn]] REFINE_INLINE void explain_weightless(const Value& value, const std::filesystem::path& path) {
  if (const Opaque* whole = value.as_opaque()) refuse_opaque(path, whole->name);
  const Dict* dict = value.as_dict();
  if (!dict) {
    throw Error("cannot load {}: not a dict of tensors by name; save model.state_dict()", path.string());
  }
  if (dict->empty()) {
    throw Error("cannot load {}: the file has no tensors; save model.state_dict()", path.string());
  }
  for (const auto& [name, entry] : *dict) {  // a whole module explains the file best
    if (name.as_text() && entry.as_opaque() && has_tensors(entry)) refuse_entry(path, *name.as_text(), entry);
  }
  for (const auto& [name, entry] : *dict) {
    if (!name.as_text()) {
      throw Error("cannot load {}: an entry has a key that is not text; save model.state_dict()",
                  path.string());
    }
    if (!is_tensor(entry)) refuse_entry(path, *name.as_text(), entry);
    if (const std::size_t size = name.as_text()->size(); size > max_tensor_name) {
      throw Error("cannot load {}: the name of a tensor has {} bytes, more than the {} allowed",
                  path.string(), size, max_tensor_name);
    }
  }
  throw Error("cannot load {}: the file has no weights of a network; save model.state_dict()", path.string());
}

/// Throws the Error for a file without weights.
/// \throws NoWeightsError if the file has only plain values
/// \throws Error otherwise
[[noreturn]] REFINE_INLINE void refuse_weightless(const TorchFile& file, const std::filesystem::path& path) {
  try {
    explain_weightless(file.value, path);
  } catch (const Error& error) {
    if (file.unknown_names.empty()) throw NoWeightsError("{}", error.what());
    throw;
  }
}

/// Keeps the tensors whose names begin with `prefix` and a dot, and removes the prefix.
/// \throws Error if none does
REFINE_INLINE void keep_with_prefix(Weights& weights, std::string_view prefix,
                                    const std::filesystem::path& path, std::string_view key) {
  std::map<std::string, at::Tensor> kept;
  for (auto& [name, tensor] : weights.tensors) {
    if (name.size() > prefix.size() && name.starts_with(prefix) && name[prefix.size()] == '.') {
      kept.emplace(name.substr(prefix.size() + 1), std::move(tensor));
    }
  }
  if (kept.empty()) {
    throw Error("cannot load {}: the file has no weights at --key {}; list them with: refine inspect {}",
                path.string(), shorten(key), text::quote_for_shell(path.string()));
  }
  weights.tensors = std::move(kept);
}

REFINE_INLINE Weights extract_weights(const TorchFile& file, const std::filesystem::path& path,
                                      std::string_view key) {
  Weights result{.unknown_names = file.unknown_names};
  const ResolvedKey resolved = resolve_key(file.value, key);
  std::vector<StateDict> found;
  // The rest of the key is a prefix of names, which only a state dict has.
  if (resolved.rest.empty() || as_state_dict(*resolved.value, "")) {
    collect_state_dicts(*resolved.value, resolved.path, 0, found);
  }
  if (std::ranges::any_of(found, &StateDict::has_weights)) {
    std::erase_if(found, [](const StateDict& state) { return !state.has_weights; });
  }
  if (found.empty() && !key.empty()) {
    throw Error("cannot load {}: the file has no weights at --key {}; list them with: refine inspect {}",
                path.string(), shorten(key), text::quote_for_shell(path.string()));
  }
  if (found.empty()) refuse_weightless(file, path);
  const StateDict& state = choose_state_dict(found, path);
  result.key = state.key;
  for (const StateDict& other : found) {
    if (other.dict != state.dict) result.other_keys.push_back(other.key);
  }
  const auto add_metadata = [&](const Dict& dict) {
    for (const auto& [name, value] : dict) {
      if (!name.as_text()) continue;
      if (value.as_text()) result.metadata.emplace(*name.as_text(), *value.as_text());
      if (value.as_integer()) result.metadata.emplace(*name.as_text(), std::to_string(*value.as_integer()));
    }
  };
  for (const auto& [name, entry] : *state.dict) {
    if (const at::Tensor* tensor = entry.as_tensor()) {
      result.tensors.emplace(*name.as_text(), *tensor);
    } else if (has_tensors(entry)) {  // packed parameters: report the tensor among them
      const List* parts = entry.as_list();
      const auto is_opaque_tensor = [](const Value& part) {
        return part.as_opaque() && part.as_opaque()->is_tensor;
      };
      const auto part = parts ? std::ranges::find_if(*parts, is_opaque_tensor) : List::const_iterator();
      refuse_entry(path, *name.as_text(), parts && part != parts->end() ? *part : entry);
    }
  }
  add_metadata(*state.dict);
  if (const Dict* root = file.value.as_dict(); root && root != state.dict) add_metadata(*root);
  if (!resolved.rest.empty()) keep_with_prefix(result, resolved.rest, path, key);
  return result;
}

/// The attribute names under which wrappers hold the network.
inline constexpr auto wrapper_names = std::to_array<std::string_view>(
    {"module", "_orig_mod", "model", "net", "netC", "network", "backbone", "base_model", "_forward_module",
     "ema_model", "averaged_model", "wrapped_model", "classifier_model"});

/// Returns the part of a name before the first dot, or an empty string.
REFINE_INLINE std::string_view first_part(std::string_view name) {
  const std::size_t dot = name.find('.');
  return dot == std::string_view::npos ? std::string_view() : name.substr(0, dot);
}

/// Returns the first part that all names share, or an empty string.
REFINE_INLINE std::string shared_part(const std::map<std::string, at::Tensor>& tensors) {
  if (tensors.empty()) return {};
  const std::string first(first_part(tensors.begin()->first));
  const auto has_it = [&](const auto& entry) { return first_part(entry.first) == first; };
  return std::ranges::all_of(tensors, has_it) ? first : std::string();
}

/// Removes the names that torch.compile and FSDP insert in the middle of names, unless two names
/// would become equal.
REFINE_INLINE void strip_inner_wrappers(std::map<std::string, at::Tensor>& tensors) {
  std::map<std::string, at::Tensor> renamed;
  for (const auto& [name, tensor] : tensors) {
    std::string stripped = "." + name;
    for (const std::string_view part :
         {"._orig_mod.", "._fsdp_wrapped_module.", "._checkpoint_wrapped_module."}) {
      for (std::size_t i; (i = stripped.find(part)) != std::string::npos;) stripped.erase(i, part.size() - 1);
    }
    if (!renamed.emplace(stripped.substr(1), tensor).second) return;
  }
  tensors = std::move(renamed);
}

/// Drops tensors that lie beside a wrapped network: a count of averages, the weights of a loss, the
/// averages of the network.
/// \return the keys of those averages
REFINE_INLINE std::vector<std::string> drop_companions(std::map<std::string, at::Tensor>& tensors) {
  std::set<std::string, std::less<>> parts;
  for (const auto& [name, tensor] : tensors) parts.emplace(first_part(name));
  const auto is_wrapper = [](std::string_view part) {
    return std::ranges::find(wrapper_names, part) != wrapper_names.end();
  };
  std::vector<std::string> averages;
  std::string wrapped;
  for (const std::string& part : parts) {
    if (is_average(part)) {
      averages.push_back(part);
    } else if (is_wrapper(part) && wrapped.empty()) {
      wrapped = part;
    } else if (part != "criterion" && part != "loss" && part != "loss_fn" && part != "loss_func" &&
               !part.empty()) {
      return {};
    }
  }
  if (wrapped.empty()) return {};
  for (const auto& [name, tensor] : tensors) {
    if (first_part(name).empty() && name != "n_averaged") return {};
  }
  std::erase_if(tensors, [&](const auto& entry) { return first_part(entry.first) != wrapped; });
  return averages;
}

}  // namespace refine::formats::detail

namespace refine::formats {

REFINE_INLINE bool strip_shared_prefix(std::map<std::string, at::Tensor>& tensors) {
  const std::string part = detail::shared_part(tensors);
  if (part.empty()) return false;
  std::map<std::string, at::Tensor> stripped;
  for (auto& [name, tensor] : tensors) stripped.emplace(name.substr(part.size() + 1), std::move(tensor));
  tensors = std::move(stripped);
  return true;
}

REFINE_INLINE Weights read_weights(const std::filesystem::path& path, std::string_view key) {
  Weights result;
  std::error_code unknown;
  if (std::filesystem::is_directory(path, unknown)) {
    if (const auto foreign = recognize_file(path)) detail::refuse_foreign(path, *foreign);
  }
  if (detail::SeekableFile file(path); detail::looks_like_safetensors(file)) {
    detail::refuse_hidden_programs(path);
    SafeTensors read = read_safetensors(path);
    result.tensors = std::move(read.tensors);
    result.metadata = std::move(read.metadata);
    if (!key.empty()) detail::keep_with_prefix(result, key, path, key);
  } else {
    result = detail::extract_weights(detail::read_any_torch_file(path), path, key);
  }
  if (result.tensors.empty()) {
    throw Error("cannot load {}: the file has no tensors; save model.state_dict()", path.string());
  }
  detail::strip_inner_wrappers(result.tensors);
  for (const std::string& average : detail::drop_companions(result.tensors)) {
    result.other_keys.push_back(result.key.empty() ? average : result.key + "/" + average);
  }
  while (std::ranges::find(detail::wrapper_names, detail::shared_part(result.tensors)) !=
         detail::wrapper_names.end()) {
    strip_shared_prefix(result.tensors);
  }
  return result;
}

REFINE_INLINE std::vector<std::int64_t> read_permutation(const std::filesystem::path& path) {
  const Value value = read_torch_file(path);
  const auto fail = [&](std::string_view why) {
    throw Error("cannot load {}: {}; a permutation has each of 0 to n-1 once", path.string(), why);
  };
  const auto is_integral = [](const at::Tensor& tensor) {
    return c10::isIntegralType(tensor.scalar_type(), /*includeBool=*/false);
  };
  std::vector<std::int64_t> permutation;
  if (const at::Tensor* tensor = value.as_tensor(); tensor && is_integral(*tensor) && tensor->dim() == 1) {
    const at::Tensor numbers = tensor->to(at::kLong).contiguous();
    const auto* first = numbers.const_data_ptr<std::int64_t>();
    permutation.assign(first, first + numbers.numel());
  } else if (const List* list = value.as_list()) {
    for (const Value& item : *list) {
      const at::Tensor* scalar = item.as_tensor();
      if (item.as_integer()) {
        permutation.push_back(*item.as_integer());
      } else if (scalar && is_integral(*scalar) && scalar->dim() == 0) {
        permutation.push_back(scalar->item().toLong());
      } else {
        fail("the list has an element that is not an integer");
      }
    }
  } else {
    fail("not a list of integers");
  }
  if (permutation.empty()) fail("the list is empty");
  std::vector<bool> seen(permutation.size(), false);
  for (const std::int64_t name : permutation) {
    if (name < 0 || name >= static_cast<std::int64_t>(seen.size())) {
      fail(fmt::format("the list has {} elements and the value {}", seen.size(), name));
    }
    if (seen[static_cast<std::size_t>(name)]) fail(fmt::format("the list has {} twice", name));
    seen[static_cast<std::size_t>(name)] = true;
  }
  return permutation;
}

}  // namespace refine::formats
