#include "tests/fuzz/readers.hpp"

#include <ATen/core/Tensor.h>
#include <ATen/ops/ones.h>
#include <sys/mman.h>
#include <unistd.h>

#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <stdexcept>
#include <utility>

#include <refine/backbones/backbone.hpp>
#include <refine/backbones/freeze.hpp>
#include <refine/core/error.hpp>
#include <refine/core/file.hpp>
#include <refine/data/detail/decoders.hpp>
#include <refine/data/detail/open_store.hpp>
#include <refine/data/image_files.hpp>
#include <refine/data/sources.hpp>
#include <refine/defend/detail/result_json.hpp>
#include <refine/defend/images.hpp>
#include <refine/defend/load_classifier.hpp>
#include <refine/defend/results.hpp>
#include <refine/defend/saved_defense.hpp>
#include <refine/export/exported_classifier.hpp>
#include <refine/export/weights.hpp>
#include <refine/formats/archive.hpp>
#include <refine/formats/checkpoint.hpp>
#include <refine/formats/exported_program.hpp>
#include <refine/formats/inspect.hpp>
#include <refine/formats/onnx.hpp>
#include <refine/formats/safetensors.hpp>
#include <refine/formats/torchscript_check.hpp>
#include <refine/programs/onnx.hpp>
#include <refine/report/render.hpp>
#include <refine/training/checkpoint.hpp>

#include "tests/report/examples.hpp"
#include "tests/support/scratch_folder.hpp"
#include "tests/training/checkpoint_digest.hpp"
#include "tools/refine/config_file.hpp"

namespace refine::fuzz {
namespace {

namespace fs = std::filesystem;
using formats::Archive;

const fs::path fixtures = "tests/fixtures";

/// The contents of a folder's files with one of the extensions, in the order of their names.
std::vector<std::string> contents(const fs::path& folder, const std::set<std::string>& extensions) {
  std::set<fs::path> paths;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (extensions.contains(entry.path().extension().string()) && entry.file_size() < 200'000) {
      paths.insert(entry.path());
    }
  }
  std::vector<std::string> result;
  for (const fs::path& file : paths) result.push_back(files::read(file));
  if (result.empty()) throw std::runtime_error("no seeds in " + folder.string());
  return result;
}

/// Calls `use` with the path of a file in memory.
void with_file(std::string_view bytes, auto&& use) {
  struct File {
    int descriptor = ::memfd_create("refine-fuzz", 0);
    ~File() { ::close(descriptor); }
  } const file;
  for (std::size_t done = 0; done < bytes.size();) {
    const ssize_t n = ::write(file.descriptor, bytes.data() + done, bytes.size() - done);
    if (n <= 0) throw std::runtime_error("cannot write a file in memory");
    done += static_cast<std::size_t>(n);
  }
  use(fs::path("/proc/self/fd") / std::to_string(file.descriptor));
}

/// An archive with another content of one entry, whose checksum a mutated archive would not have.
Archive with_entry(const char* file, const char* entry, std::string_view bytes) {
  static std::map<std::string, Archive> archives;
  auto found = archives.find(file);
  if (found == archives.end()) found = archives.emplace(file, formats::read_archive(fixtures / file)).first;
  Archive archive = found->second;
  archive.entries.at(entry) = bytes;
  return archive;
}

std::vector<std::string> entry_of(const char* file, const char* entry) {
  return {formats::read_archive(fixtures / file).entries.at(entry)};
}

constexpr const char* scripted = "programs/plain.pt";
constexpr const char* exported = "exported/linear.pt2";
constexpr const char* checkpoint = "checkpoint.pth";
constexpr const char* defended = "releases/0.1.0/defended.pt";
constexpr const char* defense_parts = "releases/0.1.0/defended.safetensors";
constexpr const char* victim = "releases/0.1.0/victim.safetensors";
constexpr const char* about_entry = "extra/refine.json";
constexpr const char* source_entry = "code/__torch__.py";
constexpr const char* program_entry = "models/model.json";
constexpr const char* weights_entry = "data/weights/model_weights_config.json";

/// An objection is a refusal.
void inspect(const Archive& archive) {
  const auto listing = formats::is_exported_program(archive)
                           ? formats::inspect_exported_program(archive).objections
                           : formats::inspect_torchscript(archive).objections;
  if (!listing.empty()) throw Error("{}", listing.front().text);
}

std::vector<std::string> idx_files() {
  using namespace std::string_literals;
  return {"\0\0\x08\3\0\0\0\2\0\0\0\3\0\0\0\4"s + std::string(24, '\x7f'), "\0\0\x08\1\0\0\0\3\0\1\2"s};
}

/// Reads CIFAR-10 with these bytes as one of its files; each other file has one image.
void read_cifar10(std::string_view bytes, const char* name) {
  static std::map<std::string, testing::ScratchFolder> folders;
  const auto [found, is_new] = folders.try_emplace(name);
  const testing::ScratchFolder& folder = found->second;
  for (const char* batch : {"data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin",
                            "data_batch_5.bin", "test_batch.bin"}) {
    if (is_new) folder.write(batch, std::string(3073, '\1'));
  }
  with_file(bytes, [&](const fs::path& file) {
    fs::remove(folder.path / name);
    fs::create_symlink(file, folder.path / name);
    data::cifar10(folder.path);
  });
}

/// Reads the description of a defended file as `refine predict` does.
void read_defended(std::string_view bytes) {
  const auto about = refine::detail::json_under({{"a", std::string(bytes)}}, "a");
  refine::detail::exported_facts(about, "a.pt");
  exported_info(about, {});
}

/// Returns the parts of a defense, as those of a victim without code.
std::vector<std::string> saved_defenses() {
  formats::SafeTensors parts = formats::read_safetensors(fixtures / defense_parts);
  const auto frozen = freeze(load_classifier(fixtures / victim).backbone);
  parts.metadata["victim"] = refine::detail::fingerprint(*frozen.module, backbones::constants_of(frozen));
  const testing::ScratchFolder folder;
  formats::write_safetensors(folder.path / "a", parts);
  return {files::read(folder.path / "a")};
}

/// A run, and its state.
struct Run {
  refine::detail::RunIdentity identity = {.run = "victim",
                                          .recipe = R"({"seed":7,"optimization":{"epochs":3}})"};
  refine::detail::RunState state = {
      .tensors = {{"module.weight", at::ones({2, 3})}, {"optimizer.step", at::ones({}, at::kLong)}},
      .step = 4,
      .steps = 6,
      .collapsed = 1,
      .history = {{.epoch = 1, .loss = 0.5, .accuracy = 0.25, .lr = 0.1, .seconds = 2}},
      .seconds = 2.5};
};

/// Reads a run's checkpoint. Its digest is replaced by that of the changed content, so that the other checks are reached.
void read_run_checkpoint(std::string_view bytes) {
  static const testing::ScratchFolder folder;
  static const fs::path file = folder.write("0000000004.safetensors", "");
  formats::SafeTensors content = formats::read_safetensors("a.safetensors", bytes);
  content.metadata["sha256"] = testing::digest(content);
  fs::remove(file.string() + ".damaged");
  formats::write_safetensors(file, content);
  Run run;
  Checkpoint{.path = folder.path, .resume = true}.open()->restore(run.state, run.identity);
}

std::vector<std::string> run_checkpoints() {
  const testing::ScratchFolder folder;
  Run run;
  const auto store = Checkpoint{.path = folder.path}.open();
  store->restore(run.state, run.identity);
  store->save(run.state);
  return {files::read(store->newest())};
}

/// Files of images, of which one cannot be read, and what a store of them contains.
const data::detail::StoreSource& two_images() {
  static const testing::ScratchFolder folder;
  static const data::detail::StoreSource source = {
      .folder = folder.path,
      .files = {folder.write("a.pgm", "P5 2 2 255\nabcd"), folder.write("b.pgm", "P5 2 2 255\nab")},
      .wanted = {},
      .resize_mode = {}};
  return source;
}

const std::vector<Reader> table = {
    {"archive", [](std::string_view bytes) { formats::read_nested_archive(bytes, "a.pt"); },
     [] { return contents(fixtures, {".pth"}); }},
    {"attack",
     [](std::string_view bytes) { with_file(bytes, [](const fs::path& file) { read_attack(file); }); },
     [] {
       return std::vector<std::string>{
           R"({"attack": "BadNets", "target": 1, "seed": 7, "rate": 0.1, "dataset": "CIFAR10"})",
           R"({"attack": "SourceSpecific", "target": null, "source": 2, "seed": 18446744073709551615})"};
     }},
    {"checkpoint",
     [](std::string_view bytes) {
       const Archive archive = with_entry(checkpoint, "data.pkl", bytes);
       formats::detail::extract_weights(formats::detail::read_zipped("a.pth", archive), "a.pth", "");
     },
     [] { return entry_of(checkpoint, "data.pkl"); }},
    {"cifar10", [](std::string_view bytes) { read_cifar10(bytes, "data_batch_5.bin"); },
     [] {
       std::string two(2 * 3073, '\x7f');
       two[0] = two[3073] = 9;
       return std::vector{two};
     }},
    {"cifar10_names", [](std::string_view bytes) { read_cifar10(bytes, "batches.meta.txt"); },
     [] {
       return std::vector<std::string>{
           "airplane\nautomobile\nbird\ncat\ndeer\ndog\nfrog\nhorse\nship\ntruck\n"};
     }},
    {"class_names",
     [](std::string_view bytes) { with_file(bytes, [](const fs::path& file) { read_class_names(file); }); },
     [] {
       return std::vector<std::string>{"cat\ndog\n", "\xef\xbb\xbf chat \r\n\r\nchien\r\n"};
     }},
    {"config",
     [](std::string_view bytes) {
       std::istringstream input{std::string(bytes)};
       cli::config_file()->from_config(input);
     },
     [] {
       return std::vector<std::string>{
           "device = \"cpu\"\njson = true\n[defend]\nmodel = 'victim.pt'\nmean = [0.5, 0.25]\nepoch = 3 # few\n",
           "[attack]\nattack = \"\"\"\nBad\\u004Eets\"\"\"\npratio = 1e-1\nseed = 0x_1\ndate = 1979-05-27\n"};
     }},
    {"defended", &read_defended, [] { return entry_of(defended, about_entry); }},
    {"exported_program", [](std::string_view bytes) { inspect(with_entry(exported, program_entry, bytes)); },
     [] { return entry_of(exported, program_entry); }},
    {"exported_weights", [](std::string_view bytes) { inspect(with_entry(exported, weights_entry, bytes)); },
     [] { return entry_of(exported, weights_entry); }},
    {"idx",
     [](std::string_view bytes) { with_file(bytes, [](const fs::path& file) { data::read_idx(file); }); },
     &idx_files},
    {"image", [](std::string_view bytes) { data::decode_image_bytes(bytes, "a.png"); },
     [] {
       return contents(fixtures / "images",
                       {".png", ".jpg", ".bmp", ".webp", ".tif", ".ppm", ".pgm", ".pbm"});
     }},
    {"image_header",
     [](std::string_view bytes) {
       with_file(bytes, [](const fs::path& file) { data::detail::shape_in_header(file); });
     },
     [] {
       return contents(fixtures / "images", {".png", ".jpg"});
     }},
    {"image_store",
     [](std::string_view bytes) {
       with_file(bytes, [](const fs::path& file) {
         if (!data::detail::open_store(file, two_images())) throw Error("of another source");
       });
     },
     [] {
       const testing::ScratchFolder folder;
       data::detail::open_or_build_store(folder.path / "s", two_images(), data::OnDecodeError::skip, 1,
                                         "images");
       return std::vector{files::read(folder.path / "s")};
     }},
    {"metrics_json",
     [](std::string_view bytes) {
       with_file(bytes, [](const fs::path& file) { report::read_metrics(file); });
     },
     [] { return std::vector{report::metrics_text(report::unlabelled())}; }},
    {"onnx",
     [](std::string_view bytes) {
       auto listing = formats::inspect_onnx(bytes, "a.onnx");
       if (!listing.objections.empty()) throw Error("{}", listing.objections.front().text);
       backbones::detail::translate_onnx(std::make_shared<const formats::OnnxModel>(std::move(listing.model)),
                                         "a.onnx");
     },
     [] { return contents(fixtures / "onnx", {".onnx"}); }},
    {"pickle", [](std::string_view bytes) { formats::detail::read_unzipped("a.pth", bytes); },
     [] {
       std::vector<std::string> seeds;
       for (const char* file : {"kinds_legacy.pth", "arrays_protocol2.pth", "arrays_protocol4.pth",
                                "arrays_protocol5.pth", "label_shuffle_list.pth"}) {
         seeds.push_back(files::read(fixtures / file));
       }
       return seeds;
     }},
    {"pickle_programs", [](std::string_view bytes) { formats::detail::find_program(bytes); },
     [] { return entry_of(checkpoint, "data.pkl"); }},
    {"recognize",
     [](std::string_view bytes) {
       with_file(bytes, [](const fs::path& file) { formats::recognize_file(file); });
     },
     [] {
       return contents(fixtures, {".pth", ".safetensors"});
     }},
    {"run_checkpoint", &read_run_checkpoint, &run_checkpoints},
    {"safetensors", [](std::string_view bytes) { formats::read_safetensors("a.safetensors", bytes); },
     [] { return contents(fixtures, {".safetensors"}); }},
    {"saved_defense",
     [](std::string_view bytes) {
       with_file(bytes, [](const fs::path& file) { load_saved_defense(fixtures / victim, file); });
     },
     &saved_defenses},
    {"stored_network",
     [](std::string_view bytes) { with_file(bytes, [](const fs::path& file) { load_classifier(file); }); },
     [] { return std::vector{files::read(fixtures / victim)}; }},
    {"torchscript_pickle", [](std::string_view bytes) { inspect(with_entry(scripted, "data.pkl", bytes)); },
     [] { return entry_of(scripted, "data.pkl"); }},
    {"torchscript_source", [](std::string_view bytes) { inspect(with_entry(scripted, source_entry, bytes)); },
     [] { return entry_of(scripted, source_entry); }},
};

}  // namespace

const std::vector<Reader>& readers() {
  return table;
}

bool read_or_refuse(const Reader& reader, std::string_view bytes) {
  try {
    reader.read(bytes);
    return true;
  } catch (const Error& error) {
    const std::string_view line = error.what();
    if (line.empty() || line.find('\n') != std::string_view::npos) {
      throw std::logic_error("a refusal is one line: " + std::string(line));
    }
    return false;
  }
}

}  // namespace refine::fuzz
