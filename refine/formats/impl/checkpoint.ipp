#pragma once

#include <refine/formats/checkpoint.hpp>

#include <c10/core/ScalarType.h>
#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <cstddef>
#include <cstring>
#include <functional>
#include <optional>
#include <system_error>
#include <utility>

#include <refine/core/config.hpp>
#include <refine/core/file.hpp>
#include <refine/formats/archive.hpp>
#include <refine/formats/detail/objection.hpp>
#include <refine/formats/detail/pickle_machine.hpp>
#include <refine/formats/detail/zip_directory.hpp>
#include <refine/formats/inspect.hpp>
#include <refine/formats/safetensors.hpp>

namespace refine::formats::detail {

/// The first pickle of what torch.save wrote before 1.6: a number of ten bytes.
inline constexpr std::string_view legacy_magic{"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.",
                                               15};

/// PyTorch's archive: data.pkl, and a storage of key k under data/k.
REFINE_INLINE TorchFile read_zipped(const std::filesystem::path& path) {
  const Archive archive = read_archive(path);
  const auto fail = [&](std::string_view why) { throw Error("cannot load {}: {}", path.string(), why); };
  const auto is_code = [](const auto& entry) { return entry.first.starts_with("code/"); };
  if (archive.entries.contains("constants.pkl") || std::ranges::any_of(archive.entries, is_code)) {
    fail("it is a TorchScript program, not a file of tensors; load it as a model");
  }
  const auto order = archive.entries.find("byteorder");
  if (order != archive.entries.end() && order->second != "little") {
    fail("its numbers are not little-endian; save it again on a machine of that order");
  }
  const auto pickle = archive.entries.find("data.pkl");
  if (pickle == archive.entries.end()) fail("the archive has no data.pkl; save it with torch.save");
  const Storages storages = [&](std::string_view key) -> std::optional<std::string_view> {
    const auto at = archive.entries.find("data/" + std::string(key));
    return at == archive.entries.end() ? std::nullopt : std::optional<std::string_view>(at->second);
  };
  PickleMachine machine(path, pickle->second);
  const PickleNode& node = machine.run();
  if (!machine.rest().empty()) machine.fail("there are bytes behind its pickle");
  return {PickleBuilder(machine, storages).build(node, /*keep_opaque=*/true), machine.unknown_names()};
}

/// The file of PyTorch before 1.6: pickles of a magic number, a version, what the machine was, the object and
/// the storages' keys; then each storage's count of numbers (int64) and its bytes.
REFINE_INLINE TorchFile read_legacy(const std::filesystem::path& path, std::string_view bytes) {
  std::string_view rest = bytes.substr(legacy_magic.size());
  const auto plain = [&] {
    PickleMachine machine(path, rest);
    const PickleNode& node = machine.run();
    rest = machine.rest();
    const Storages none;
    return PickleBuilder(machine, none).build(node);
  };
  const Value version = plain(), system = plain();
  PickleMachine machine(path, rest);
  if (const auto* number = version.as_integer(); !number || *number != 1001) {
    machine.fail("it has an unknown version of PyTorch's older format");
  }
  const Value* little = system.find("little_endian");
  if (little && little->as_boolean() && !*little->as_boolean())
    machine.fail("its numbers are not little-endian");
  const PickleNode& node = machine.run();
  rest = machine.rest();
  const Value keys = plain();

  std::map<std::string_view, const PickleNode*> claims;
  for (const PickleNode* storage : machine.storages()) {
    const auto [at, is_new] = claims.emplace(storage->items[0]->text, storage);
    if (!is_new && (at->second->name->type != storage->name->type ||
                    at->second->items[1]->integer != storage->items[1]->integer)) {
      machine.fail("it names one storage in two ways");
    }
  }
  std::map<std::string, std::string_view, std::less<>> data;
  if (!keys.as_list()) machine.fail("it has no list of storages");
  for (const Value& key : *keys.as_list()) {
    const auto claim = key.as_text() ? claims.find(*key.as_text()) : claims.end();
    std::int64_t count = 0;
    if (claim == claims.end() || data.contains(*key.as_text()))
      machine.fail("it lists storages that it does not name");
    if (rest.size() < sizeof count) machine.fail("it is cut");
    std::memcpy(&count, rest.data(), sizeof count);
    rest.remove_prefix(sizeof count);
    const std::uint64_t width = c10::elementSize(claim->second->name->type);
    if (count != claim->second->items[1]->integer)
      machine.fail("a storage has another size than its tensors say");
    if (count < 0 || static_cast<std::uint64_t>(count) > rest.size() / width) machine.fail("it is cut");
    data.emplace(*key.as_text(), rest.substr(0, static_cast<std::uint64_t>(count) * width));
    rest.remove_prefix(static_cast<std::uint64_t>(count) * width);
  }
  if (!rest.empty()) machine.fail("there are bytes behind its last storage");
  const Storages storages = [&](std::string_view key) -> std::optional<std::string_view> {
    const auto at = data.find(key);
    return at == data.end() ? std::nullopt : std::optional<std::string_view>(at->second);
  };
  return {PickleBuilder(machine, storages).build(node, /*keep_opaque=*/true), machine.unknown_names()};
}

REFINE_INLINE TorchFile read_unzipped(const std::filesystem::path& path, std::string_view bytes) {
  if (!bytes.starts_with('\x80')) {
    if (const auto foreign = recognize(bytes.substr(0, 65536), bytes.size())) refuse_foreign(path, *foreign);
    throw Error("cannot load {}: it is no file of torch.save and no pickle; save it with torch.save",
                path.string());
  }
  if (bytes.starts_with(legacy_magic)) return read_legacy(path, bytes);
  PickleMachine machine(path, bytes);
  const PickleNode& node = machine.run();
  if (!machine.rest().empty()) machine.fail("there are bytes behind its pickle");
  const Storages none;
  return {PickleBuilder(machine, none).build(node, /*keep_opaque=*/true), machine.unknown_names()};
}

[[noreturn]] REFINE_INLINE void refuse_program(const std::filesystem::path& path, std::string_view name) {
  throw ProgramError(
      "cannot load {}: it asks for {}, which is no tensor but a way to run any program: Python would run it "
      "while it loads the file; get the weights again from whom you trust",
      path.string(), shown(name));
}

REFINE_INLINE TorchFile read_any_torch_file(const std::filesystem::path& path) {
  if (const auto foreign = recognize_file(path)) refuse_foreign(path, *foreign);
  SeekableFile file(path);
  TorchFile result = file.size() >= 4 && is_archive(file.read(0, 4)) ? read_zipped(path)
                                                                     : read_unzipped(path, read_file(path));
  for (const std::string& name : result.unknown_names) {
    if (runs_programs(name)) refuse_program(path, name);
  }
  return result;
}

REFINE_INLINE void refuse_opaque(const std::filesystem::path& path, std::string_view name) {
  throw Error(
      "cannot load {}: it asks for {}, which is no tensor and no container but an object that needs Python's "
      "code, such as a whole module; save model.state_dict() where that code is, or export the model with "
      "torch.jit.trace",
      path.string(), shown(name));
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

/// Whether a file begins as safetensors do: the header's size in eight bytes, then the header.
REFINE_INLINE bool begins_like_safetensors(SeekableFile& file) {
  constexpr std::uint64_t header_limit = 100'000'000;
  std::uint64_t header_size = 0;
  if (file.size() <= sizeof header_size) return false;
  const std::string start = file.read(0, sizeof header_size + 1);
  std::memcpy(&header_size, start.data(), sizeof header_size);
  return header_size <= header_limit && start.back() == '{';
}

/// A dict with tensors by name, and where it lies.
struct StateDict {
  std::string key = {};
  const Dict* dict = nullptr;
  std::size_t tensors = 0;
  bool has_weights = false;  ///< one is called "weight", as a layer's is
};

/// Whether it is one tensor, of whichever kind.
REFINE_INLINE bool is_tensor(const Value& value) {
  return value.as_tensor() || (value.as_opaque() && value.as_opaque()->is_tensor);
}

/// Whether it has tensors anywhere in it, down to a few levels.
REFINE_INLINE bool has_tensors(const Value& value, int depth = 0) {
  constexpr int deepest = 4;
  if (value.as_tensor()) return true;
  if (const Opaque* opaque = value.as_opaque()) return opaque->has_tensors;
  if (depth == deepest) return false;
  if (const Dict* dict = value.as_dict()) {
    return std::ranges::any_of(*dict, [&](const auto& item) { return has_tensors(item.second, depth + 1); });
  }
  const List* list = value.as_list();
  return list && std::ranges::any_of(*list, [&](const Value& item) { return has_tensors(item, depth + 1); });
}

/// A dict of tensors by name, or one that has a network's tensors among other things.
REFINE_INLINE std::optional<StateDict> as_state_dict(const Value& value, const std::string& key) {
  const Dict* dict = value.as_dict();
  if (!dict || dict->empty()) return std::nullopt;
  StateDict result{.key = key, .dict = dict};
  bool has_others = false, has_layers = false;
  for (const auto& [name, entry] : *dict) {
    if (!name.as_text()) return std::nullopt;
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

/// What has tensors by name, too, and is no network's: an optimiser's moments and the like.
REFINE_INLINE bool is_of_training(std::string_view key) {
  std::string lower(key);
  std::ranges::transform(lower, lower.begin(), [](unsigned char c) { return std::tolower(c); });
  for (const std::string_view word : {"optim", "sched", "scaler", "sampler", "rng", "callback", "loops"}) {
    if (lower.find(word) != std::string::npos) return true;
  }
  return false;
}

REFINE_INLINE void collect_state_dicts(const Value& value, const std::string& key, int depth,
                                       std::vector<StateDict>& found) {
  constexpr int deepest = 5;
  constexpr std::size_t longest_list = 16, most = 100;
  if (auto state = as_state_dict(value, key)) return found.push_back(*state);
  if (depth == deepest || found.size() >= most) return;
  const auto below = [&](const std::string& name, const Value& inner) {
    collect_state_dicts(inner, key.empty() ? name : key + "/" + name, depth + 1, found);
  };
  if (const Dict* dict = value.as_dict()) {
    for (const auto& [name, inner] : *dict) {
      if (name.as_text() && !is_of_training(*name.as_text())) below(*name.as_text(), inner);
    }
  } else if (const List* list = value.as_list(); list && list->size() <= longest_list) {
    for (std::size_t i = 0; i < list->size(); ++i) below(std::to_string(i), (*list)[i]);
  }
}

/// Whether a key is of weights that were averaged over training.
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

/// Which of several is the network's own. \throws Error when that is open
REFINE_INLINE const StateDict& choose(const std::vector<StateDict>& found,
                                      const std::filesystem::path& path) {
  if (found.size() == 1) return found.front();
  const auto last = [](const StateDict& state) {
    return std::string_view(state.key).substr(state.key.rfind('/') + 1);
  };
  for (const std::string_view usual : {"state_dict", "model_state_dict", "model", "net", "weights", "netC"}) {
    const auto at = std::ranges::find(found, usual, last);
    if (at != found.end()) return *at;
  }
  const auto is_own = [](const StateDict& state) { return !is_average(state.key); };
  if (std::ranges::count_if(found, is_own) == 1) return *std::ranges::find_if(found, is_own);
  std::string all;
  for (const StateDict& state : found) {
    all += fmt::format("{}'{}' ({} tensors)", all.empty() ? "" : ", ", shown(state.key), state.tensors);
    if (&state - found.data() == 4) break;
  }
  throw Error("cannot load {}: it has {} sets of weights: {}; choose one with --key", path.string(),
              found.size(), all);
}

/// What lies at `key`, and the rest of the key, which then is what names begin with.
struct Place {
  const Value* value;
  std::string_view rest;
  std::string path = {};  ///< the keys up to there, parted by "/"
};

REFINE_INLINE Place follow(const Value& root, std::string_view key) {
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

[[noreturn]] REFINE_INLINE void refuse_entry(const std::filesystem::path& path, std::string_view name,
                                             const Value& entry) {
  const Opaque* opaque = entry.as_opaque();
  if (opaque && opaque->is_tensor) {
    const UnreadNumbers kind = unread_numbers(opaque->name);
    throw Error("cannot load {}: '{}' is {} ({}), which refine does not read; {}", path.string(), shown(name),
                kind.what, shown(opaque->name), kind.advice);
  }
  if (opaque) {
    throw Error(
        "cannot load {}: '{}' is no tensor but an object of the class {}, which needs Python's code; save "
        "model.state_dict(), or export the model with torch.jit.trace",
        path.string(), shown(name), shown(opaque->name));
  }
  throw Error("cannot load {}: '{}' is no tensor; save model.state_dict()", path.string(), shown(name));
}

/// Without weights: says what there is in their place.
[[noreturn]] REFINE_INLINE void refuse_weightless(const Value& value, const std::filesystem::path& path) {
  if (const Opaque* whole = value.as_opaque()) refuse_opaque(path, whole->name);
  const Dict* dict = value.as_dict();
  if (!dict) {
    throw Error("cannot load {}: it is no dict of tensors by name; save model.state_dict()", path.string());
  }
  if (dict->empty()) {
    throw Error("cannot load {}: it has no tensors; save model.state_dict()", path.string());
  }
  for (const auto& [name, entry] : *dict) {  // a module that was saved whole says most
    if (name.as_text() && entry.as_opaque() && has_tensors(entry)) refuse_entry(path, *name.as_text(), entry);
  }
  for (const auto& [name, entry] : *dict) {
    if (!name.as_text()) {
      throw Error("cannot load {}: an entry without a name is no tensor; save model.state_dict()",
                  path.string());
    }
    if (!is_tensor(entry)) refuse_entry(path, *name.as_text(), entry);
  }
  throw Error("cannot load {}: it has no weights of a network; save model.state_dict()", path.string());
}

REFINE_INLINE void keep_with_prefix(Weights& weights, std::string_view prefix,
                                    const std::filesystem::path& path, std::string_view key) {
  std::map<std::string, at::Tensor> kept;
  for (auto& [name, tensor] : weights.tensors) {
    if (name.size() > prefix.size() && name.starts_with(prefix) && name[prefix.size()] == '.') {
      kept.emplace(name.substr(prefix.size() + 1), std::move(tensor));
    }
  }
  if (kept.empty()) {
    throw Error("cannot load {}: it has no weights at --key {}; refine inspect {} lists what it has",
                path.string(), shown(key), path.string());
  }
  weights.tensors = std::move(kept);
}

REFINE_INLINE Weights weights_of(const TorchFile& file, const std::filesystem::path& path,
                                 std::string_view key) {
  Weights result{.unknown_names = file.unknown_names};
  const Place place = follow(file.value, key);
  std::vector<StateDict> found;
  // What is left of the key is a prefix of names, which only a state dict has.
  if (place.rest.empty() || as_state_dict(*place.value, "")) {
    collect_state_dicts(*place.value, place.path, 0, found);
  }
  if (std::ranges::any_of(found, &StateDict::has_weights)) {
    std::erase_if(found, [](const StateDict& state) { return !state.has_weights; });
  }
  if (found.empty() && !key.empty()) {
    throw Error("cannot load {}: it has no weights at --key {}; refine inspect {} lists what it has",
                path.string(), shown(key), path.string());
  }
  if (found.empty()) refuse_weightless(file.value, path);
  const StateDict& state = choose(found, path);
  result.key = state.key;
  for (const StateDict& other : found) {
    if (other.dict != state.dict) result.other_keys.push_back(other.key);
  }
  const auto describe = [&](const Dict& dict) {
    for (const auto& [name, about] : dict) {
      if (!name.as_text()) continue;
      if (about.as_text()) result.metadata.emplace(*name.as_text(), *about.as_text());
      if (about.as_integer()) result.metadata.emplace(*name.as_text(), std::to_string(*about.as_integer()));
    }
  };
  for (const auto& [name, entry] : *state.dict) {
    if (const at::Tensor* tensor = entry.as_tensor()) {
      result.tensors.emplace(*name.as_text(), *tensor);
    } else if (has_tensors(entry)) {  // of packed parameters the tensors say what they are
      const List* parts = entry.as_list();
      const auto kind = [](const Value& part) { return part.as_opaque() && part.as_opaque()->is_tensor; };
      const auto part = parts ? std::ranges::find_if(*parts, kind) : List::const_iterator();
      refuse_entry(path, *name.as_text(), parts && part != parts->end() ? *part : entry);
    }
  }
  describe(*state.dict);
  if (const Dict* root = file.value.as_dict(); root && root != state.dict) describe(*root);
  if (!place.rest.empty()) keep_with_prefix(result, place.rest, path, key);
  return result;
}

/// What wrappers call the network that they wrap.
inline constexpr auto wrappers = std::to_array<std::string_view>(
    {"module", "_orig_mod", "model", "net", "netC", "network", "backbone", "base_model", "_forward_module",
     "ema_model", "averaged_model", "wrapped_model", "classifier_model"});

REFINE_INLINE std::string_view first_part(std::string_view name) {
  const std::size_t dot = name.find('.');
  return dot == std::string_view::npos ? std::string_view() : name.substr(0, dot);
}

/// The part of all names up to a dot; empty where they do not share it.
REFINE_INLINE std::string shared_part(const std::map<std::string, at::Tensor>& tensors) {
  if (tensors.empty()) return {};
  const std::string first(first_part(tensors.begin()->first));
  const auto has_it = [&](const auto& entry) { return first_part(entry.first) == first; };
  return std::ranges::all_of(tensors, has_it) ? first : std::string();
}

/// torch.compile and FSDP put their names between others'.
REFINE_INLINE void strip_inner_wrappers(std::map<std::string, at::Tensor>& tensors) {
  std::map<std::string, at::Tensor> renamed;
  for (const auto& [name, tensor] : tensors) {
    std::string now = "." + name;
    for (const std::string_view part :
         {"._orig_mod.", "._fsdp_wrapped_module.", "._checkpoint_wrapped_module."}) {
      for (std::size_t at; (at = now.find(part)) != std::string::npos;) now.erase(at, part.size() - 1);
    }
    if (!renamed.emplace(now.substr(1), tensor).second) return;  // two would have one name
  }
  tensors = std::move(renamed);
}

/// Drops what lies beside a wrapped network and is no part of it: a count of averages, the weights of a loss,
/// the averages of the network itself. \returns the keys of those averages
REFINE_INLINE std::vector<std::string> drop_companions(std::map<std::string, at::Tensor>& tensors) {
  std::set<std::string, std::less<>> parts;
  for (const auto& [name, tensor] : tensors) parts.emplace(first_part(name));
  const auto is_wrapper = [](std::string_view part) {
    return std::ranges::find(wrappers, part) != wrappers.end();
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
  if (detail::SeekableFile file(path); detail::begins_like_safetensors(file)) {
    SafeTensors read = read_safetensors(path);
    result.tensors = std::move(read.tensors);
    result.metadata = std::move(read.metadata);
    if (!key.empty()) detail::keep_with_prefix(result, key, path, key);
  } else {
    result = detail::weights_of(detail::read_any_torch_file(path), path, key);
  }
  if (result.tensors.empty()) {
    throw Error("cannot load {}: it has no tensors; save model.state_dict()", path.string());
  }
  detail::strip_inner_wrappers(result.tensors);
  for (const std::string& average : detail::drop_companions(result.tensors)) {
    result.other_keys.push_back(result.key.empty() ? average : result.key + "/" + average);
  }
  while (std::ranges::find(detail::wrappers, detail::shared_part(result.tensors)) != detail::wrappers.end()) {
    strip_shared_prefix(result.tensors);
  }
  return result;
}

REFINE_INLINE std::vector<std::int64_t> read_permutation(const std::filesystem::path& path) {
  const Value value = read_torch_file(path);
  const auto fail = [&](std::string_view why) {
    throw Error("cannot load {}: {}; a permutation names each of 0 to n-1 once", path.string(), why);
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
        fail("it lists something else than integers");
      }
    }
  } else {
    fail("it is no list of integers");
  }
  if (permutation.empty()) fail("it is empty");
  std::vector<bool> seen(permutation.size(), false);
  for (const std::int64_t name : permutation) {
    if (name < 0 || name >= static_cast<std::int64_t>(seen.size())) {
      fail(fmt::format("it has {} numbers, and {} among them", seen.size(), name));
    }
    if (seen[static_cast<std::size_t>(name)]) fail(fmt::format("it names {} twice", name));
    seen[static_cast<std::size_t>(name)] = true;
  }
  return permutation;
}

}  // namespace refine::formats
