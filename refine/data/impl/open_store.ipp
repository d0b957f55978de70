#pragma once

#include <refine/data/detail/open_store.hpp>

#include <ATen/ops/from_blob.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <optional>
#include <system_error>
#include <utility>

#include <refine/core/config.hpp>
#include <refine/core/file.hpp>
#include <refine/core/random.hpp>
#include <refine/core/task.hpp>
#include <refine/core/text.hpp>
#include <refine/data/detail/pixels.hpp>

namespace refine::data::detail {

REFINE_INLINE OpenFile::OpenFile(std::filesystem::path path)
    : path_(std::move(path)), descriptor_(refine::detail::open_regular_file(path_, size_)) {}

REFINE_INLINE OpenFile::~OpenFile() {
  ::close(descriptor_);
}

REFINE_INLINE std::string OpenFile::read(std::size_t offset, std::size_t count) const {
  std::string bytes(count, '\0');
  std::size_t got = 0;
  while (got < count) {
    const auto more = ::pread(descriptor_, bytes.data() + got, count - got, static_cast<off_t>(offset + got));
    if (more < 0 && errno == EINTR) continue;
    if (more < 0) fail(errno);
    if (more == 0) break;
    got += static_cast<std::size_t>(more);
  }
  bytes.resize(got);
  return bytes;
}

REFINE_INLINE void OpenFile::fail(int reason) const {
  refine::detail::fail_to_read(path_, reason);
}

REFINE_INLINE Mapping::Mapping(std::shared_ptr<const OpenFile> source) : file(std::move(source)) {
  // Without MAP_NORESERVE the system refuses a mapping larger than its memory.
  void* const address = ::mmap(nullptr, file->size(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE,
                               file->descriptor(), 0);
  if (address == MAP_FAILED) {
    throw Error("cannot map {} ({} bytes): {}; raise the limit on address space or data (ulimit -v, -d)",
                file->path().string(), file->size(), std::strerror(errno));
  }
  begin = static_cast<std::uint8_t*>(address);
}

REFINE_INLINE Mapping::~Mapping() {
  ::munmap(begin, file->size());
}

REFINE_INLINE at::Tensor mapped_tensor(std::unique_ptr<Mapping> mapping, std::size_t offset,
                                       at::IntArrayRef sizes) {
  std::uint8_t* const data = mapping->begin + offset;
  return at::for_blob(data, sizes)
      .context(mapping.release(), &Mapping::release)
      .options(at::kByte)
      .make_tensor();
}

REFINE_INLINE const Mapping* mapping_of(const at::Tensor& tensor) {
  return tensor.storage().data_ptr().cast_context<Mapping>(&Mapping::release);
}

REFINE_INLINE std::uint64_t StoreSource::key() const {
  std::uint64_t key = static_cast<std::uint64_t>(resize_mode.kind);
  if (resize_mode.shorter_side > 0) {
    key = derived_seed(key, "shorter side", static_cast<std::uint64_t>(resize_mode.shorter_side));
  }
  for (const int extent : {wanted.channels, wanted.height, wanted.width}) {
    key = derived_seed(key, "extent", static_cast<std::uint64_t>(extent));
  }
  // Other images may have the same names, sizes and times, as clean and stamped ones of a format without compression:
  // the content of a few is part of the key, too.
  constexpr std::size_t few = 64;
  const std::size_t step = std::max<std::size_t>(1, files.size() / few);
  for (std::size_t i = 0; i < files.size(); ++i) {
    // Decoding the file reports what is wrong with it.
    std::error_code unknown;
    const auto size = std::filesystem::file_size(files[i], unknown);
    const auto time = std::filesystem::last_write_time(files[i], unknown).time_since_epoch().count();
    key = derived_seed(key, files[i].lexically_relative(folder).native(), size);
    key = derived_seed(key, "time", static_cast<std::uint64_t>(time));
    if (i % step != 0) continue;
    try {
      key = derived_seed(key, files::read(files[i], max_image_file_bytes), 0);
    } catch (const Error&) {
    }
  }
  return key;
}

REFINE_INLINE std::string StoreHeader::text() const {
  std::string text =
      fmt::format("{}1\n{:016x}\n{}x{}x{} {}\n", name, key, shape.channels, shape.height, shape.width, files);
  text.resize(bytes, '\0');
  return text;
}

REFINE_INLINE std::string StoreFooter::text() const {
  return fmt::format("{:020} {:020} end\n", images, text_bytes);
}

REFINE_INLINE std::optional<DecodedImages> open_store(const std::filesystem::path& path,
                                                      const StoreSource& source) {
  std::error_code unknown;
  if (!std::filesystem::is_regular_file(path, unknown)) return std::nullopt;
  const auto file = std::make_shared<const OpenFile>(path);
  const std::string header_text = file->read(0, StoreHeader::bytes);
  if (!header_text.starts_with(StoreHeader::name)) {
    throw Error("cannot keep images in {}: the existing file is not an image store; use another folder",
                path.string());
  }
  StoreHeader header{.key = source.key(), .files = source.files.size()};
  const auto line_end = header_text.find('\n', StoreHeader::name.size() + 2);
  if (line_end == header_text.npos ||
      std::sscanf(header_text.c_str() + line_end, "%dx%dx%d", &header.shape.channels, &header.shape.height,
                  &header.shape.width) != 3) {
    return std::nullopt;
  }
  const auto min_bytes = StoreHeader::bytes + StoreFooter::bytes;
  const auto& [channels, height, width] = header.shape;
  if (header_text != header.text() || file->size() < min_bytes || !compatible(source.wanted, header.shape) ||
      (channels != 1 && channels != 3) || height < 1 || width < 1) {
    return std::nullopt;
  }

  StoreFooter footer;
  const std::string footer_text = file->read(file->size() - StoreFooter::bytes, StoreFooter::bytes);
  if (std::sscanf(footer_text.c_str(), "%zu %zu", &footer.images, &footer.text_bytes) != 2 ||
      footer_text != footer.text() || footer.images < 1 || footer.images > header.files) {
    return std::nullopt;
  }
  const std::size_t content_bytes = file->size() - min_bytes;
  const std::size_t image_bytes =
      static_cast<std::size_t>(channels) * static_cast<std::size_t>(height) * static_cast<std::size_t>(width);
  if (image_bytes > content_bytes / footer.images ||
      footer.text_bytes != content_bytes - footer.images * image_bytes)
    return std::nullopt;

  DecodedImages stored{.images = {}, .errors = std::vector<std::string>(header.files)};
  std::size_t skipped = 0;
  const std::string text =
      file->read(file->size() - StoreFooter::bytes - footer.text_bytes, footer.text_bytes);
  for (std::string_view rest = text; !rest.empty(); ++skipped) {
    const std::string line(rest.substr(0, rest.find('\n')));
    std::size_t index = 0;
    int digits = 0;
    if (std::sscanf(line.c_str(), "%zu %n", &index, &digits) != 1 || index >= header.files ||
        !stored.errors[index].empty() || static_cast<std::size_t>(digits) >= line.size()) {
      return std::nullopt;
    }
    stored.errors[index] = line.substr(static_cast<std::size_t>(digits));
    rest.remove_prefix(std::min(line.size() + 1, rest.size()));
  }
  if (footer.images + skipped != header.files) return std::nullopt;
  stored.images = mapped_tensor(std::make_unique<Mapping>(file), StoreHeader::bytes,
                                {static_cast<std::int64_t>(footer.images), channels, height, width});
  return stored;
}

/// Throws an `Error` if the disk has too little space, before hours of decoding.
REFINE_INLINE void check_space(const std::filesystem::path& path, double bytes) {
  std::error_code unknown;
  const auto space = std::filesystem::space(path.has_parent_path() ? path.parent_path() : ".", unknown);
  if (unknown || static_cast<double>(space.available) >= bytes) return;
  throw Error(
      "cannot write {}: too little space (got {:.1f} GB, expected {:.1f} GB); free some space or use another "
      "folder for the store",
      path.string(), static_cast<double>(space.available) / 1e9, bytes / 1e9);
}

/// Decodes the source into a store at `path`, which appears once it is complete.
/// \throws Error as `decode_images` does, and if the store cannot be written
REFINE_INLINE void build_store(const std::filesystem::path& path, const StoreSource& source,
                               OnDecodeError on_error, unsigned threads, const std::string& what) {
  const std::size_t n = source.files.size();
  const ImageShape shape = resolve_shape(source.files, source.wanted, source.resize_mode, on_error, what);
  ParallelDecoder decoder(source.files, shape, source.resize_mode, on_error, threads, what);
  const std::size_t image_bytes = decoder.image_bytes();
  AtomicFile file(path);
  check_space(file.path(), static_cast<double>(image_bytes) * static_cast<double>(n));
  file.write(StoreHeader{.key = source.key(), .shape = shape, .files = n}.text());

  constexpr std::size_t max_bytes = 64 << 20;  // enough images that no thread waits long for the others
  const std::size_t block =
      std::clamp<std::size_t>(max_bytes / image_bytes, 1, 32 * std::size_t{decoder.threads()});
  std::vector<std::uint8_t> pixels(std::min(block, n) * image_bytes);
  std::vector<std::string> errors(n);
  StoreFooter footer;
  for (std::size_t begin = 0; begin < n; begin += block) {
    const std::size_t decoded = decoder.run(begin, std::min(block, n - begin), pixels.data(), errors);
    file.write(pixels.data(), decoded * image_bytes);
    footer.images += decoded;
  }
  check_any_decoded(errors, static_cast<std::int64_t>(footer.images));
  std::string text;
  for (std::size_t i = 0; i < n; ++i) {
    if (!errors[i].empty()) text += fmt::format("{} {}\n", i, text::printable(errors[i]));
  }
  footer.text_bytes = text.size();
  file.write(text);
  file.write(footer.text());
  file.commit();
  decoder.finish();
}

inline bool is_readable(const std::filesystem::path& file) {
  std::uint64_t size = 0;
  try {
    ::close(refine::detail::open_regular_file(file, size));
    return true;
  } catch (const Error&) {
    return false;
  }
}

/// True if the store lacks a file that could not be read when it was built and can be read now:
/// permissions and mounts change without a trace in the file.
REFINE_INLINE bool has_become_readable(const DecodedImages& store,
                                       const std::vector<std::filesystem::path>& files) {
  for (std::size_t i = 0; i < files.size(); ++i) {
    if (store.errors[i].starts_with("cannot read ") && is_readable(files[i])) return true;
  }
  return false;
}

REFINE_INLINE DecodedImages open_or_build_store(const std::filesystem::path& path, const StoreSource& source,
                                                OnDecodeError on_error, unsigned threads,
                                                const std::string& what) {
  const auto usable = [&](const std::optional<DecodedImages>& store) {
    return store &&
           (on_error == OnDecodeError::skip || std::ranges::all_of(store->errors, &std::string::empty));
  };
  if (auto store = open_store(path, source); usable(store) && !has_become_readable(*store, source.files))
    return std::move(*store);
  build_store(path, source, on_error, threads, what);
  if (auto store = open_store(path, source); usable(store)) return std::move(*store);
  throw Error("{}: the images changed while they were read; try again without changing them",
              source.folder.string());
}

REFINE_INLINE std::filesystem::path common_folder(const std::vector<std::filesystem::path>& files) {
  std::filesystem::path common = files.front().parent_path();
  for (const auto& file : files) {
    const std::filesystem::path folder = file.parent_path();
    const auto end = std::mismatch(common.begin(), common.end(), folder.begin(), folder.end()).first;
    if (end == common.end()) continue;
    std::filesystem::path shorter;
    for (auto part = common.begin(); part != end; ++part) shorter /= *part;
    common = std::move(shorter);
  }
  return common.empty() ? "." : common;
}

REFINE_INLINE std::filesystem::path store_path(const std::filesystem::path& folder,
                                               const std::filesystem::path& store, const std::string& part) {
  std::error_code unknown;
  std::filesystem::path whole = std::filesystem::absolute(folder, unknown).lexically_normal();
  if (!whole.has_filename()) whole = whole.parent_path();  // it ended in a slash
  return store / (whole.filename().string() + part + ".images");
}

}  // namespace refine::data::detail
