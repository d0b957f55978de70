#pragma once

#include <refine/training/checkpoint.hpp>

#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <c10/core/GradMode.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <torch/version.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <filesystem>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <refine/core/detail/untrusted_json.hpp>
#include <refine/core/error.hpp>
#include <refine/core/file.hpp>
#include <refine/core/sha256.hpp>
#include <refine/formats/safetensors.hpp>
#include <refine/nn/autocast.hpp>
#include <refine/nn/device.hpp>

namespace refine::detail {

namespace fs = std::filesystem;

/// The step in the name of a checkpoint; nothing for other files.
inline std::optional<std::int64_t> step_of(const fs::path& file) {
  const std::string stem = file.stem().string();
  if (file.extension() != ".safetensors" || stem.size() != 10) return std::nullopt;
  if (!std::ranges::all_of(stem, [](unsigned char c) { return c >= '0' && c <= '9'; })) return std::nullopt;
  return std::stoll(stem);
}

/// The same for one that was damaged, `STEP.safetensors.damaged`.
inline std::optional<std::int64_t> step_of_damaged(const fs::path& file) {
  return file.extension() == ".damaged" ? step_of(file.stem()) : std::nullopt;
}

/// Returns the wanted entries of a folder; none if it does not exist.
/// \throws Error if it cannot be listed
template <typename Wanted>
std::vector<fs::path> entries_of(const fs::path& folder, Wanted wanted) {
  std::vector<fs::path> found;
  std::error_code error;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error)) {
    if (wanted(entry->path())) found.push_back(entry->path());
  }
  if (error && error != std::errc::no_such_file_or_directory)
    throw Error("cannot list {}: {}; check the folder and its permissions", folder.string(), error.message());
  return found;
}

REFINE_INLINE std::vector<fs::path> checkpoints_in(const fs::path& folder) {
  std::vector<fs::path> files =
      entries_of(folder, [](const fs::path& file) { return step_of(file).has_value(); });
  std::ranges::sort(files, std::ranges::greater());
  return files;
}

/// Adds a text to a digest, with its length before it: two sequences of texts never give the same bytes.
inline void add_text(Sha256& hash, std::string_view text) {
  hash.add(fmt::format("{}:", text.size())).add(text);
}

/// Adds tensors to a digest: names, types, shapes and values. Tensors on a device, and those that
/// are not contiguous, are copied in parts.
inline void add_tensors(Sha256& hash, const std::map<std::string, at::Tensor>& tensors) {
  const c10::NoGradGuard no_grad;
  for (const auto& [name, tensor] : tensors) {
    if (!tensor.defined()) continue;
    add_text(hash, name);
    add_text(hash,
             fmt::format("{} [{}]", c10::toString(tensor.scalar_type()), fmt::join(tensor.sizes(), ", ")));
    const auto add = [&](const at::Tensor& part) {
      const at::Tensor host = part.detach().to(at::kCPU).contiguous();
      if (host.numel() > 0) hash.add(host.const_data_ptr(), host.nbytes());
    };
    if (tensor.dim() == 0 || tensor.numel() == 0) {
      add(tensor);
      continue;
    }
    constexpr std::int64_t part_bytes = 64 << 20;
    const std::int64_t rows = tensor.size(0);
    const std::int64_t row_bytes =
        std::max<std::int64_t>(static_cast<std::int64_t>(tensor.nbytes()) / rows, 1);
    const std::int64_t count = std::max<std::int64_t>(part_bytes / row_bytes, 1);
    for (std::int64_t row = 0; row < rows; row += count)
      add(tensor.narrow(0, row, std::min(count, rows - row)));
  }
}

inline std::string sha256_of(const std::map<std::string, at::Tensor>& tensors, std::string_view more = {}) {
  Sha256 hash;
  add_tensors(hash, tensors);
  add_text(hash, more);
  return hash.hex();
}

/// Returns the digest of a checkpoint's content, without the digest itself.
inline std::string digest_of(const formats::SafeTensors& content) {
  Sha256 hash;
  for (const auto& [key, value] : content.metadata) {
    if (key == "sha256") continue;
    add_text(hash, key);
    add_text(hash, value);
  }
  add_tensors(hash, content.tensors);
  return hash.hex();
}

/// Returns a path that stays the same when the program changes its working folder.
inline fs::path absolute_path(const fs::path& path) {
  std::error_code error;
  fs::path absolute = fs::absolute(path, error);
  return error ? path : absolute;
}

/// Deletes what killed writers left behind. Only for the holder of the lock.
inline void remove_partial_files(const fs::path& folder) {
  std::error_code ignored;
  for (const fs::path& file : entries_of(folder, AtomicFile::is_partial)) fs::remove(file, ignored);
}

/// A lock on a folder: an `flock`, which the system releases when the process ends, however it ends. Within the
/// process it is shared, and one run at a time may use the folder.
class FolderLock {
 public:
  /// Takes the lock, or shares that of this process.
  /// \throws Error if another process holds it, or the folder cannot be written to
  static std::shared_ptr<FolderLock> take(const fs::path& folder) {
    static std::mutex mutex;
    static std::map<fs::path, std::weak_ptr<FolderLock>> held;
    std::error_code error;
    fs::path name = fs::weakly_canonical(absolute_path(folder), error);
    if (!name.has_filename()) name = name.parent_path();  // "checkpoints/", which does not exist yet
    const std::lock_guard guard(mutex);
    if (auto lock = held[name].lock(); lock && lock->is_shared()) return lock;
    auto lock = std::make_shared<FolderLock>(folder);
    held[name] = lock;
    return lock;
  }

  /// Takes the lock. Creates the folder if it is missing.
  /// \throws Error if another process holds it, the folder cannot be written to, or something else has the name of
  ///   the lock's file
  explicit FolderLock(const fs::path& folder) : file_(absolute_path(folder) / ".refine-lock") {
    made_ = !files::exists(folder);
    if (const int reason = create_folders(file_.parent_path()); reason != 0) fail(reason);
    // The holder may delete the file that is opened here: the lock is on the file that has the name.
    constexpr int max_attempts = 100;
    bool is_current = false;
    for (int attempt = 0; !is_current; ++attempt) {
      release();
      // Never through a link: the file that it leads to is not a lock.
      descriptor_ = ::open(file_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
      const int reason = descriptor_ < 0 ? errno : ESTALE;
      if (reason == ELOOP || reason == EISDIR || reason == ENXIO) refuse_file();
      if (attempt == max_attempts) fail(reason);
      if (reason == ENOENT && create_folders(file_.parent_path()) == 0)
        continue;  // just removed by another run
      if (descriptor_ < 0) fail(reason);
      if (::flock(descriptor_, LOCK_EX | LOCK_NB) != 0) {
        if (errno != EWOULDBLOCK) break;  // a file system without locks
        const std::string holder = read_holder();
        release();
        refuse(holder);
      }
      struct ::stat opened = {}, named = {};
      is_current = ::fstat(descriptor_, &opened) == 0 && ::lstat(file_.c_str(), &named) == 0 &&
                   opened.st_ino == named.st_ino && opened.st_dev == named.st_dev;
    }
    if (!is_lock_file()) refuse_file();
    const std::string mine = std::to_string(::getpid()) + "\n";
    [[maybe_unused]] const bool noted =
        ::ftruncate(descriptor_, 0) == 0 && ::pwrite(descriptor_, mine.data(), mine.size(), 0) > 0;
  }

  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

  /// Removes the folder if the lock has made it and nothing else is in it.
  ~FolderLock() {
    if (made_ && owner_ == ::getpid() && is_alone()) remove_folder();
    release();
  }

  /// \throws Error if another run of this process uses the folder
  void begin_use() {
    if (is_used_.exchange(true)) refuse(read_holder());
  }

  void end_use() { is_used_ = false; }

  /// Deletes the file of the lock, while it is held, and the folder if nothing else is in it.
  void remove_folder() {
    std::error_code ignored;
    fs::remove(file_, ignored);
    ::rmdir(file_.parent_path().c_str());  // fails for a link, which stays
    made_ = false;                         // from now on, both may be another process's
    is_removed_ = true;
  }

  /// True if this process, and not its parent, holds the lock, and the folder was not removed since.
  bool is_shared() const { return owner_ == ::getpid() && !is_removed_; }

 private:
  void release() {
    if (descriptor_ >= 0) ::close(descriptor_);
    descriptor_ = -1;
  }

  /// True if the folder has nothing but the lock.
  bool is_alone() const {
    try {
      return entries_of(file_.parent_path(), [&](const fs::path& entry) { return entry != file_; }).empty();
    } catch (const Error&) {
      return false;
    }
  }

  /// True if the open file is new, or has what a lock writes: digits and a newline.
  bool is_lock_file() const {
    struct ::stat opened = {};
    if (::fstat(descriptor_, &opened) != 0 || !S_ISREG(opened.st_mode)) return false;
    char text[16] = {};
    const ::ssize_t size = ::pread(descriptor_, text, sizeof text, 0);
    if (size <= 0) return size == 0;
    const std::string_view bytes(text, static_cast<std::size_t>(size));
    return opened.st_size == size && bytes.find_first_not_of("0123456789") == bytes.size() - 1 &&
           bytes.back() == '\n' && bytes.size() > 1;
  }

  std::string read_holder() const {
    char text[16] = {};
    const ::ssize_t size = ::pread(descriptor_, text, sizeof text - 1, 0);
    const std::string_view digits(text, size > 0 ? static_cast<std::size_t>(size) : 0);
    const auto end = digits.find_first_not_of("0123456789");
    return digits.empty() || end == 0 ? "" : fmt::format(" (process {})", digits.substr(0, end));
  }

  [[noreturn]] void refuse(const std::string& holder) const {
    throw Error("checkpoints in {}: another run uses the folder{}; wait for it, or specify another folder",
                file_.parent_path().string(), holder);
  }

  [[noreturn]] void refuse_file() {
    release();
    throw Error("checkpoints in {}: {} is not a lock of refine; move it away, or specify another folder",
                file_.parent_path().string(), file_.filename().string());
  }

  [[noreturn]] void fail(int reason) {
    release();
    throw Error("cannot write {}: {}; {}", file_.string(), std::strerror(reason), writing_advice(reason));
  }

  fs::path file_;
  int descriptor_ = -1;
  ::pid_t owner_ = ::getpid();
  bool made_ = false;
  std::atomic<bool> is_removed_ = false;
  std::atomic<bool> is_used_ = false;
};

/// The use of a locked folder by one run.
class FolderUse {
 public:
  /// \throws Error if another run of this process uses it
  explicit FolderUse(FolderLock& lock) : lock_(lock) { lock_.begin_use(); }

  FolderUse(const FolderUse&) = delete;
  FolderUse& operator=(const FolderUse&) = delete;

  ~FolderUse() { lock_.end_use(); }

 private:
  FolderLock& lock_;
};

/// Describes a field in which two recipes differ, for a message. Prefers the number of epochs, since other fields
/// depend on it.
inline std::string describe_difference(const std::string& run, const std::string& checkpoint) {
  constexpr std::size_t max_bytes = 64 << 10;  // a recipe has about 1 KB; each number of a list gets a name
  if (checkpoint.size() > max_bytes)
    return fmt::format("the checkpoint's recipe has more than {} bytes", max_bytes);
  const auto parse = [](const std::string& text) {
    const auto json = refine::detail::parse_untrusted_json(text);
    return json.is_object() ? json.flatten() : nlohmann::json::object();
  };
  const nlohmann::json now = parse(run), then = parse(checkpoint);
  const auto text = [](const nlohmann::json& json, const std::string& key) {
    return json.contains(key) ? json[key].dump() : std::string("missing");
  };
  std::vector<std::string> keys = {"/optimization/epochs"};
  for (const auto* side : {&now, &then}) {
    for (const auto& item : side->items()) keys.push_back(item.key());
  }
  const auto differs = [&](const std::string& key) { return text(now, key) != text(then, key); };
  const auto key = std::ranges::find_if(keys, differs);
  if (key == keys.end()) return "the recipes differ";
  std::string field = "recipe" + *key;
  std::ranges::replace(field, '/', '.');
  return fmt::format("{} is {}, the checkpoint has {}", field, text(now, *key), text(then, *key));
}

inline nlohmann::json history_json(const std::vector<EpochInfo>& history) {
  nlohmann::json json = nlohmann::json::array();
  for (const EpochInfo& e : history) json.push_back({e.epoch, e.loss, e.accuracy, e.lr, e.seconds});
  return json;
}

/// The store of a `Checkpoint`.
class CheckpointStore final : public RunStore {
 public:
  explicit CheckpointStore(const Checkpoint& options)
      : options_(options), lock_(FolderLock::take(options.path)), use_(*lock_) {
    options_.path = absolute_path(options_.path);
    remove_partial_files(options_.path);
  }

  ~CheckpointStore() override {
    if (writing_.valid()) writing_.wait();
  }

  void restore(RunState& state, const RunIdentity& identity) override;

  bool is_due() override {
    return std::chrono::steady_clock::now() - last_ >= options_.every && !is_writing();
  }

  void begin_save(const RunState& state) override {
    finish_writing();
    last_ = std::chrono::steady_clock::now();
    // The copy needs memory and the writing a thread; without either, training continues.
    warn_of_failure([&] {
      writing_ = std::async(std::launch::async, [this, copy = snapshot(state), step = state.step] {
        warn_of_failure([&] { write(copy, step); });
      });
    });
  }

  void save(const RunState& state) override {
    finish_writing();
    if (written_ != state.step) write(snapshot(state), state.step);
  }

  bool has_diverged() override { return diverged_; }

  fs::path newest() override {
    finish_writing();
    return newest_;
  }

  std::vector<RunMessage> take_messages() override {
    if (!has_messages_) return {};
    const std::lock_guard lock(mutex_);
    has_messages_ = false;
    return std::exchange(messages_, {});
  }

 private:
  fs::path file_of(std::int64_t step) const {
    return options_.path / fmt::format("{:010}.safetensors", step);
  }

  std::string duration() const {
    return fmt::format("{} s", std::chrono::duration<double>(options_.every).count());
  }

  bool is_writing() const {
    return writing_.valid() && writing_.wait_for(std::chrono::seconds(0)) != std::future_status::ready;
  }

  void finish_writing() {
    if (writing_.valid()) writing_.get();
  }

  /// Calls a function, and makes its failure a message.
  template <typename Work>
  void warn_of_failure(const Work& work) {
    try {
      work();
    } catch (const std::exception& error) {
      add_message(true, fmt::format("{}; training continues, and the next checkpoint is tried after {}",
                                    reason_of(error), duration()));
    }
  }

  static std::string reason_of(const std::exception& error) {
    if (dynamic_cast<const Error*>(&error)) return error.what();
    return fmt::format("cannot write a checkpoint: {}", nn::is_out_of_memory(error)
                                                            ? "memory is too short for a copy of the state"
                                                            : nn::describe_error(error));
  }

  void add_message(bool is_warning, std::string text) {
    const std::lock_guard lock(mutex_);
    messages_.push_back({is_warning, std::move(text)});
    has_messages_ = true;
  }

  formats::SafeTensors snapshot(const RunState& state) const;

  /// Writes a snapshot, and deletes files that are not kept. Uses no parallel operators of LibTorch:
  /// they would start another team of threads.
  void write(formats::SafeTensors content, std::int64_t step);

  /// Reads a checkpoint.
  /// \param damage becomes what is wrong with its content
  /// \return nothing if it is damaged
  /// \throws Error if it cannot be read, which tells nothing about its content
  static std::optional<formats::SafeTensors> read(const fs::path& file, std::string& damage);

  void check_identity(const fs::path& file, const formats::SafeTensors& content) const;
  void apply(const fs::path& file, const formats::SafeTensors& content, RunState& state) const;
  void note_other_machine(const std::map<std::string, std::string>& metadata);

  Checkpoint options_;
  std::shared_ptr<FolderLock> lock_;
  FolderUse use_;
  std::map<std::string, std::string> identity_;  ///< metadata that all checkpoints of the run share
  std::set<std::string> finite_;                 ///< `RunState::finite`
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
  std::future<void> writing_;
  std::atomic<bool> diverged_ = false, has_messages_ = false;
  std::mutex mutex_;
  std::vector<RunMessage> messages_;
  fs::path newest_;            ///< read and written while nothing is being written
  std::int64_t written_ = -1;  ///< its step, likewise
};

/// Returns the instructions on which the results of a processor depend in their last bits.
inline std::string describe_processor() {
  return at::get_cpu_capability() +
         (default_device().is_cpu() && nn::has_bfloat16(default_device()) ? " with bfloat16" : "");
}

REFINE_INLINE void CheckpointStore::restore(RunState& state, const RunIdentity& identity) {
  finite_ = state.finite;
  std::map<std::string, at::Tensor> start;
  for (const auto& [name, tensor] : state.tensors) {
    if (name.starts_with("module.") && !identity.computed.contains(name)) start.emplace(name, tensor);
  }
  for (const auto& [name, tensor] : identity.constants) start.emplace("constant." + name, tensor);
  identity_ = {{"refine", "checkpoint"},
               {"version", std::string(version)},
               {"run", identity.run},
               {"recipe", identity.recipe},
               {"objective", identity.objective},
               {"domain", identity.domain},
               {"data", sha256_of(identity.data, identity.required)},
               {"victim", identity.victim.empty() ? "" : sha256_of(identity.victim)},
               {"start", sha256_of(start, identity.network)},
               {"statistics", identity.statistics_of > 1 ? std::to_string(identity.statistics_of) : ""},
               {"ranks", std::to_string(identity.ranks)},
               {"device", default_device().str()},
               {"processor", describe_processor()},
               {"threads", std::to_string(at::get_num_threads())},
               {"libtorch", TORCH_VERSION}};

  const std::vector<fs::path> files = checkpoints_in(options_.path);
  if (files.empty()) return;
  std::vector<std::pair<fs::path, std::string>> damaged;
  for (const fs::path& file : files) {
    std::string damage;
    const std::optional<formats::SafeTensors> content = read(file, damage);
    if (!content) {
      damaged.emplace_back(file, damage);
      continue;
    }
    check_identity(file, *content);
    apply(file, *content, state);
    newest_ = file;
    written_ = state.step;
    for (const auto& [other, why] : damaged) {
      std::error_code ignored;
      fs::rename(other, fs::path(other).concat(".damaged"), ignored);
      add_message(true, fmt::format("{}; {} is used instead", why, file.string()));
    }
    add_message(false,
                fmt::format("resumed after step {} of {} from {}", state.step, state.steps, file.string()));
    note_other_machine(content->metadata);
    return;
  }
  throw Error("cannot resume from {}: no checkpoint is intact; delete the folder to start again ({})",
              options_.path.string(), damaged.front().second);
}

REFINE_INLINE std::optional<formats::SafeTensors> CheckpointStore::read(const fs::path& file,
                                                                        std::string& damage) {
  const std::string bytes = files::read(file);
  try {
    formats::SafeTensors content = formats::read_safetensors(file, bytes);
    const auto digest = content.metadata.find("sha256");
    const auto kind = content.metadata.find("refine");
    if (digest == content.metadata.end() || kind == content.metadata.end() || kind->second != "checkpoint") {
      throw Error("cannot load {}: it is not a checkpoint of a training run; remove it", file.string());
    }
    if (digest->second != digest_of(content)) {
      throw Error("cannot load {}: its SHA-256 does not match, the file is damaged", file.string());
    }
    return content;
  } catch (const Error& error) {
    damage = error.what();
    return std::nullopt;
  }
}

REFINE_INLINE void CheckpointStore::check_identity(const fs::path& file,
                                                   const formats::SafeTensors& content) const {
  const auto then = [&](const char* key) {
    const auto found = content.metadata.find(key);
    return found == content.metadata.end() ? std::string("nothing") : found->second;
  };
  const auto same = [&](const char* key) { return then(key) == identity_.at(key); };
  const auto refuse = [&](const std::string& why, const char* hint) {
    throw Error("cannot resume from {}: {}; {}", file.string(), why, hint);
  };
  const auto digests = [&](const char* what, const char* key) {
    return fmt::format("the {} (SHA-256 {}, the checkpoint has {})", what, identity_.at(key).substr(0, 12),
                       then(key).substr(0, 12));
  };
  constexpr const char* same_options =
      "give the options of the interrupted run, or delete the folder to start again";
  if (!same("version")) {
    refuse(fmt::format("this is refine {}, the checkpoint is of {}", version, then("version")),
           "resume with that version, or delete the folder to start again");
  }
  if (!same("run")) {
    refuse(fmt::format("this run trains a {}, the checkpoint's a {}", identity_.at("run"), then("run")),
           "specify another folder");
  }
  if (!same("recipe")) refuse(describe_difference(identity_.at("recipe"), then("recipe")), same_options);
  if (!same("objective")) {
    refuse(fmt::format("the objective is {}, the checkpoint's is {}", identity_.at("objective"),
                       then("objective")),
           "pass the same objective");
  }
  const auto optional = [&](const char* key) { return then(key) == "nothing" ? std::string() : then(key); };
  if (const std::string others = optional("domain"); others != identity_.at("domain")) {
    const auto name = [](const std::string& domain) { return domain.empty() ? "image" : domain; };
    refuse(fmt::format("the pixel domain is {}, the checkpoint has {}", name(identity_.at("domain")),
                       name(others)),
           "give the pipeline the PixelDomain of the interrupted run");
  }
  if (!same("data")) {
    refuse(digests("training images or labels differ", "data"), "give the images of the interrupted run");
  }
  if (!same("victim")) refuse(digests("victim differs", "victim"), "give the victim of the interrupted run");
  if (const std::string others = optional("statistics"); others != identity_.at("statistics")) {
    const auto describe = [](const std::string& ranks) {
      return ranks.empty() ? std::string("those of the batch") : "of each of " + ranks + " ranks";
    };
    refuse(fmt::format("the statistics of BatchNorm are {}, the checkpoint's {}",
                       describe(identity_.at("statistics")), describe(others)),
           "start as many ranks as for the interrupted run");
  }
  if (!same("start")) {
    refuse(digests("network, or its initial weights, differ", "start"),
           "construct it as for the interrupted run, with the same seed");
  }
}

REFINE_INLINE void CheckpointStore::apply(const fs::path& file, const formats::SafeTensors& content,
                                          RunState& state) const {
  const c10::NoGradGuard no_grad;
  const auto malformed = [&](const std::string& what) {
    throw Error("cannot resume from {}: {}; delete the folder to start again", file.string(), what);
  };
  if (content.tensors.size() != state.tensors.size()) malformed("it has other tensors than the run");
  for (const auto& [name, tensor] : state.tensors) {
    const auto found = content.tensors.find(name);
    if (found == content.tensors.end() || found->second.sizes() != tensor.sizes() ||
        found->second.scalar_type() != tensor.scalar_type()) {
      malformed(fmt::format("tensor '{}' is missing or has another shape", name));
    }
  }
  try {
    const auto number = [&]<typename Number>(const char* key, Number) {
      const std::optional<Number> read = parse_number<Number>(content.metadata.at(key));
      if (!read) malformed(fmt::format("its {} is not a number", key));
      return *read;
    };
    const std::int64_t step = number("step", std::int64_t{});
    if (number("steps", std::int64_t{}) != state.steps || step < 1 || step > state.steps)
      malformed("its step is out of range");
    state.step = step;
    state.collapsed = number("collapsed", std::int64_t{});
    state.seconds = number("seconds", double{});
    state.history.clear();
    for (const auto& e : refine::detail::parse_untrusted_json(content.metadata.at("history"))) {
      int epoch = 0;
      if (!refine::detail::read_integer(e.at(0), epoch))
        malformed("an epoch of its history is not a whole number");
      state.history.push_back({.epoch = epoch,
                               .loss = e.at(1).get<double>(),
                               .accuracy = e.at(2).get<double>(),
                               .lr = e.at(3).get<double>(),
                               .seconds = e.at(4).get<double>()});
    }
  } catch (const Error&) {
    throw;
  } catch (const std::exception&) {
    malformed("its step or history is missing");
  }
  for (const auto& [name, tensor] : state.tensors) at::Tensor(tensor).copy_(content.tensors.at(name));
}

REFINE_INLINE void CheckpointStore::note_other_machine(const std::map<std::string, std::string>& metadata) {
  for (const char* key : {"device", "processor", "ranks", "threads", "libtorch"}) {
    const auto found = metadata.find(key);
    const std::string then = found == metadata.end() ? "unknown" : found->second;
    if (then == identity_.at(key)) continue;
    add_message(
        false,
        fmt::format("{}: {}, when the checkpoint was written: {}; the result may differ in the last bits",
                    key, identity_.at(key), then));
  }
}

REFINE_INLINE formats::SafeTensors CheckpointStore::snapshot(const RunState& state) const {
  const c10::NoGradGuard no_grad;
  formats::SafeTensors content{.metadata = identity_};
  content.metadata["step"] = std::to_string(state.step);
  content.metadata["steps"] = std::to_string(state.steps);
  content.metadata["collapsed"] = std::to_string(state.collapsed);
  content.metadata["seconds"] = fmt::format("{}", state.seconds);
  content.metadata["history"] = history_json(state.history).dump();
  for (const auto& [name, tensor] : state.tensors) {
    const at::Tensor source = tensor.detach();
    content.tensors[name] =
        source.is_cpu() ? source.clone(at::MemoryFormat::Contiguous) : source.to(at::kCPU).contiguous();
  }
  return content;
}

/// True if all values of a floating-point tensor on the host are finite; true for other types.
inline bool has_finite_values(const at::Tensor& tensor) {
  const auto are_finite = [&]<typename Value>(Value) {
    const Value* begin = tensor.const_data_ptr<Value>();
    return std::all_of(begin, begin + tensor.numel(),
                       [](Value value) { return std::isfinite(static_cast<double>(value)); });
  };
  switch (tensor.scalar_type()) {
    case at::kFloat:
      return are_finite(float{});
    case at::kDouble:
      return are_finite(double{});
    case at::kHalf:
      return are_finite(c10::Half{});
    case at::kBFloat16:
      return are_finite(c10::BFloat16{});
    default:
      return true;
  }
}

REFINE_INLINE void CheckpointStore::write(formats::SafeTensors content, std::int64_t step) {
  for (const std::string& name : finite_) {
    if (has_finite_values(content.tensors.at(name))) continue;
    diverged_ = true;
    return;
  }
  content.metadata["sha256"] = digest_of(content);
  const fs::path file = file_of(step);
  formats::write_safetensors(file, content);
  newest_ = file;
  written_ = step;
  std::vector<fs::path> files;
  try {
    files = checkpoints_in(options_.path);
  } catch (const Error& error) {
    add_message(true, fmt::format("{}; older checkpoints are kept", error.what()));
  }
  std::erase_if(files, [&](const fs::path& other) { return step_of(other) > step; });
  for (std::size_t i = static_cast<std::size_t>(options_.keep); i < files.size(); ++i) {
    std::error_code ignored;
    fs::remove(files[i], ignored);
  }
}

/// Longer ones overflow the nanoseconds of the clock.
inline constexpr std::chrono::milliseconds max_time_between = std::chrono::hours(24 * 365 * 100);

inline void check_options(const Checkpoint& options) {
  if (options.path.empty()) throw Error("checkpoint.path must name a folder, got an empty path");
  if (options.keep < 1) throw Error("checkpoint.keep must be 1 or more, got {}", options.keep);
  if (options.every.count() < 0 || options.every > max_time_between) {
    throw Error("checkpoint.every must be 0 to {} ms, got {} ms", max_time_between.count(),
                options.every.count());
  }
}

/// \throws Error if the folder holds an earlier run that is not to be resumed
inline void check_unused(const Checkpoint& options) {
  if (options.resume) return;
  const std::vector<fs::path> files = checkpoints_in(options.path);
  if (files.empty()) return;
  throw Error(
      "checkpoints in {}: an interrupted run is there, saved after step {}; resume it (--resume, .resume = true), or "
      "delete the folder to start again",
      options.path.string(), *step_of(files.front()));
}

}  // namespace refine::detail

namespace refine {

REFINE_INLINE void Checkpoint::check() const {
  detail::check_options(*this);
  if (!files::exists(path)) return;
  [[maybe_unused]] const auto held = hold();
}

REFINE_INLINE std::shared_ptr<const void> Checkpoint::hold() const {
  detail::check_options(*this);
  auto lock = detail::FolderLock::take(path);
  const detail::FolderUse use(*lock);
  detail::check_unused(*this);
  return lock;
}

REFINE_INLINE std::unique_ptr<detail::RunStore> Checkpoint::open() const {
  detail::check_options(*this);
  auto store = std::make_unique<detail::CheckpointStore>(*this);
  detail::check_unused(*this);
  return store;
}

REFINE_INLINE void Checkpoint::remove() const {
  if (!files::exists(path)) return;
  const auto lock = detail::FolderLock::take(path);
  const detail::FolderUse use(*lock);
  detail::remove_partial_files(path);
  std::error_code error;
  for (const auto& file : detail::entries_of(path, [](const std::filesystem::path& entry) {
         return detail::step_of(entry) || detail::step_of_damaged(entry);
       })) {
    if (!std::filesystem::remove(file, error) && error) {
      throw Error("cannot delete {}: {}; delete the folder", file.string(), error.message());
    }
  }
  lock->remove_folder();
}

}  // namespace refine
