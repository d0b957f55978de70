#pragma once

// What torch_file.hpp declares.

#include <refine/formats/torch_file.hpp>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include <refine/core/compiled.hpp>
#include <refine/core/file_bytes.hpp>
#include <refine/formats/archive.hpp>
#include <refine/formats/foreign_file.hpp>
#include <refine/formats/objection.hpp>
#include <refine/formats/pickle_builder.hpp>
#include <refine/formats/pickle_machine.hpp>
#include <refine/formats/pickle_names.hpp>
#include <refine/formats/pickle_stack.hpp>
#include <refine/formats/zip_directory.hpp>

namespace refine::formats::detail {

/// The first pickle of what torch.save wrote before 1.6: a number of ten bytes.
inline constexpr std::string_view legacy_magic{"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.",
                                               15};

/// PyTorch's archive: data.pkl, and a storage of key k under data/k.
REFINE_DEFINITION TorchFile read_zipped(const std::filesystem::path& path) {
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
REFINE_DEFINITION TorchFile read_legacy(const std::filesystem::path& path, std::string_view bytes) {
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

REFINE_DEFINITION TorchFile read_unzipped(const std::filesystem::path& path, std::string_view bytes) {
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

[[noreturn]] REFINE_DEFINITION void refuse_program(const std::filesystem::path& path, std::string_view name) {
  throw ProgramError(
      "cannot load {}: it asks for {}, which is no tensor but a way to run any program: Python would run it "
      "while it loads the file; get the weights again from whom you trust",
      path.string(), shown(name));
}

REFINE_DEFINITION TorchFile read_any_torch_file(const std::filesystem::path& path) {
  if (const auto foreign = recognize_file(path)) refuse_foreign(path, *foreign);
  SeekableFile file(path);
  TorchFile result = file.size() >= 4 && is_archive(file.read(0, 4)) ? read_zipped(path)
                                                                    : read_unzipped(path, file_bytes(path));
  for (const std::string& name : result.unknown_names) {
    if (runs_programs(name)) refuse_program(path, name);
  }
  return result;
}

REFINE_DEFINITION void refuse_opaque(const std::filesystem::path& path, std::string_view name) {
  throw Error(
      "cannot load {}: it asks for {}, which is no tensor and no container but an object that needs Python's "
      "code, such as a whole module; save model.state_dict() where that code is, or export the model with "
      "torch.jit.trace",
      path.string(), shown(name));
}

}  // namespace refine::formats::detail

namespace refine::formats {

REFINE_DEFINITION Value read_torch_file(const std::filesystem::path& path) {
  detail::TorchFile file = detail::read_any_torch_file(path);
  if (const Opaque* whole = file.value.as_opaque()) detail::refuse_opaque(path, whole->name);
  return std::move(file.value);
}

}  // namespace refine::formats
