#include <archive.h>
#include <archive_entry.h>
#include <fmt/core.h>
#include <gtest/gtest.h>
#include <zlib.h>
#include <refine/formats/archive.hpp>
#include <refine/formats/checkpoint.hpp>
#include <refine/formats/inspect.hpp>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <ios>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tests/formats/pickle_bytes.hpp"
#include "tests/support/error_of.hpp"
#include "tests/support/scratch_folder.hpp"

namespace refine::formats {
namespace {

using namespace std::string_literals;

using refine::testing::content;
using refine::testing::error_of;
using refine::testing::expect_words;
using refine::testing::ScratchFolder;

/// Compresses bytes with DEFLATE.
std::string deflate_bytes(const std::string& bytes) {
  z_stream stream{};
  deflateInit2(&stream, 9, Z_DEFLATED, -MAX_WBITS, 9, Z_DEFAULT_STRATEGY);
  std::string packed(deflateBound(&stream, bytes.size()), '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(bytes.data()));
  stream.avail_in = static_cast<uInt>(bytes.size());
  stream.next_out = reinterpret_cast<Bytef*>(packed.data());
  stream.avail_out = static_cast<uInt>(packed.size());
  deflate(&stream, Z_FINISH);
  packed.resize(stream.total_out);
  deflateEnd(&stream);
  return packed;
}

/// An entry in the layout of the ZIP specification; the optional fields replace the true values.
struct Member {
  std::string name = {}, bytes = {};
  bool deflate = false, zip64 = false;
  std::optional<std::string> local_name = {};
  std::optional<std::uint32_t> claimed = {}, local_claimed = {}, crc = {}, offset = {};
  std::uint16_t flags = 0, made_by = 20, method = 0;
  std::uint32_t attributes = 0;
};

std::string zip_of(const std::vector<Member>& members, std::optional<std::uint16_t> count = {}) {
  std::string file, directory;
  for (const Member& m : members) {
    const std::string packed = m.deflate ? deflate_bytes(m.bytes) : m.bytes;
    const std::uint16_t method = m.deflate ? 8 : m.method;
    const auto true_size = static_cast<std::uint32_t>(m.bytes.size());
    const std::uint32_t crc = m.crc.value_or(static_cast<std::uint32_t>(
        crc32(0, reinterpret_cast<const Bytef*>(m.bytes.data()), static_cast<uInt>(m.bytes.size()))));
    const auto common = [&](std::uint32_t size, const std::string& name, std::size_t extra) {
      const auto size_packed = static_cast<std::uint32_t>(packed.size());
      return raw<std::uint16_t>(20) + raw(m.flags) + raw(method) + raw<std::uint32_t>(0) + raw(crc) +
             raw(m.zip64 ? 0xffff'ffff : size_packed) + raw(m.zip64 ? 0xffff'ffff : size) +
             raw(static_cast<std::uint16_t>(name.size())) + raw(static_cast<std::uint16_t>(extra));
    };
    const std::string local_name = m.local_name.value_or(m.name);
    const auto offset = m.offset.value_or(static_cast<std::uint32_t>(file.size()));
    const std::string wide =  // uncompressed size, compressed size, offset
        !m.zip64 ? ""
                 : raw<std::uint16_t>(1) + raw<std::uint16_t>(24) +
                       raw<std::uint64_t>(m.claimed.value_or(true_size)) + raw<std::uint64_t>(packed.size()) +
                       raw<std::uint64_t>(offset);
    directory += "PK\1\2" + raw(m.made_by) + common(m.claimed.value_or(true_size), m.name, wide.size()) +
                 std::string(6, '\0') + raw(m.attributes) + raw(m.zip64 ? 0xffff'ffff : offset) + m.name +
                 wide;
    file += "PK\3\4" + common(m.local_claimed.value_or(m.claimed.value_or(true_size)), local_name, 0) +
            local_name + packed;
  }
  const auto n = count.value_or(static_cast<std::uint16_t>(members.size()));
  return file + directory + "PK\5\6" + std::string(4, '\0') + raw(n) + raw(n) +
         raw(static_cast<std::uint32_t>(directory.size())) + raw(static_cast<std::uint32_t>(file.size())) +
         raw<std::uint16_t>(0);
}

TEST(ReadArchive, PyTorchFile_ReturnsEntries) {
  const auto entries = read_archive("tests/fixtures/state_dict.pth").entries;
  EXPECT_EQ(entries.at("byteorder"), "little");
  EXPECT_TRUE(entries.at("data.pkl").starts_with("\x80\x02"));
  // The first weight is 0, 1 as float32.
  EXPECT_EQ(entries.at("data/0"), std::string("\0\0\0\0\0\0\x80\x3f", 8));
  EXPECT_TRUE(is_archive(content("tests/fixtures/state_dict.pth")));
  EXPECT_FALSE(is_archive(content("tests/fixtures/kinds_legacy.pth")));
  EXPECT_FALSE(is_archive("PK"));
}

TEST(ReadArchive, LibarchiveFile_ReturnsEntries) {
  const ScratchFolder scratch;
  const std::string long_text(300'000, 'x');
  const std::unique_ptr<::archive, int (*)(::archive*)> zip(archive_write_new(), &archive_write_free);
  archive_write_set_format_zip(zip.get());
  const auto path = scratch.path / "a.zip";
  ASSERT_EQ(archive_write_open_filename(zip.get(), path.c_str()), ARCHIVE_OK);
  for (const auto& [name, bytes] : std::vector<std::pair<std::string, std::string>>{
           {"töp/", ""}, {"töp/a", "one"}, {"töp/b/c", long_text}, {"töp/empty", ""}}) {
    const std::unique_ptr<archive_entry, void (*)(archive_entry*)> entry(archive_entry_new(),
                                                                         &archive_entry_free);
    archive_entry_set_pathname(entry.get(), name.c_str());
    archive_entry_set_filetype(entry.get(), name.ends_with('/') ? AE_IFDIR : AE_IFREG);
    archive_entry_set_perm(entry.get(), 0644);
    archive_entry_set_size(entry.get(), static_cast<la_int64_t>(bytes.size()));
    ASSERT_EQ(archive_write_header(zip.get(), entry.get()), ARCHIVE_OK);
    archive_write_data(zip.get(), bytes.data(), bytes.size());
  }
  ASSERT_EQ(archive_write_close(zip.get()), ARCHIVE_OK);
  const std::map<std::string, std::string> expected{{"a", "one"}, {"b/c", long_text}, {"empty", ""}};
  EXPECT_EQ(read_archive(path).entries, expected);
}

TEST(ReadArchive, HandMadeFile_ReturnsEntries) {
  const ScratchFolder scratch;
  const std::string half(100'000, '\0');
  const auto path = scratch.write("a", zip_of({{.name = "t/"},
                                               {.name = "t/a", .bytes = "one"},
                                               {.name = "t/b", .bytes = half, .deflate = true},
                                               {.name = "t/w", .bytes = "wide", .zip64 = true}}));
  const std::map<std::string, std::string> expected{{"a", "one"}, {"b", half}, {"w", "wide"}};
  EXPECT_EQ(read_archive(path).entries, expected);
}

// PyTorch's own reader would take either of two names that differ in case.
TEST(ReadArchive, NamesThatDifferInCase_Throws) {
  const ScratchFolder scratch;
  for (const auto& [first, second] :
       {std::pair("t/data.pkl", "t/DATA.PKL"), std::pair("t/data/0", "t/DATA/0"),
        std::pair("t/models/model.json", "t/MODELS/model.JSON")}) {
    const auto path =
        scratch.write("m.pt", zip_of({{.name = first, .bytes = "a"}, {.name = second, .bytes = "b"}}));
    expect_words(error_of([&] { read_archive(path); }), {second, "upper and lower case alone"});
  }
}

// Each entry of an .npz is an array, which may be of objects: those are a pickle.
TEST(ReadWeights, ArchiveThatHidesProgram_ThrowsProgramError) {
  const ScratchFolder scratch;
  const std::string program = "\x80\2cos\nsystem\nX\4\0\0\0true\x85R."s;
  const std::string header = "{'descr': 'O', 'fortran_order': False, 'shape': (1,), }\n";
  const std::string start = "\x93NUMPY\1\0"s + raw(static_cast<std::uint16_t>(header.size())) + header;
  const std::string padding(100'000, 'a');
  for (const Member& hidden :
       {Member{.name = "a.npy", .bytes = start + program}, Member{.name = "a.NPY", .bytes = start + program},
        Member{.name = "b.npy", .bytes = start + program, .deflate = true},
        Member{.name = "DATA.PKL", .bytes = program.substr(2)}, Member{.name = "a.npy", .bytes = program}}) {
    const Member plain{.name = "0.npy", .bytes = start + padding};
    const auto path = scratch.write("a.npz", zip_of({plain, hidden}));
    expect_words(error_of([&] { read_weights(path); }), {path.string(), "asks for os.system"});
    EXPECT_THROW(read_weights(path), ProgramError) << hidden.name;
  }
  const auto harmless = scratch.write("a.npz", zip_of({{.name = "a.npy", .bytes = start + "\x80\2]."}}));
  expect_words(error_of([&] { read_weights(harmless); }), {"NumPy arrays (.npz)"});
}

TEST(ReadArchive, TruncatedAnywhere_Throws) {
  const ScratchFolder scratch;
  const std::string whole = content("tests/fixtures/label_shuffle.pth");
  ASSERT_GT(whole.size(), 1000u);
  const auto path = scratch.write("cut", whole + "x");
  EXPECT_NE(error_of([&] { read_archive(path); }), "") << "longer";
  std::filesystem::resize_file(path, whole.size());
  EXPECT_EQ(error_of([&] { read_archive(path); }), "");
  for (std::size_t n = whole.size(); n-- > 0;) {
    std::filesystem::resize_file(path, n);
    EXPECT_NE(error_of([&] { read_archive(path); }), "") << n;
  }
}

TEST(ReadArchive, MaliciousEntry_Throws) {
  const ScratchFolder scratch;
  const Member good{.name = "t/good", .bytes = "abc"};
  const auto name = [&](std::string text) {
    return zip_of({good, {.name = std::move(text), .bytes = "abc"}});
  };
  const std::string zeros(4'000'000, '\0');
  const struct {
    std::string file, expected;
  } cases[] = {
      {name("t/../evil"), "'t/../evil' is an absolute path or leaves its folder"},
      {name("../evil"), "'../evil' is an absolute path"},
      {name("t/.."), "is an absolute path or leaves its folder"},
      {name("t/./evil"), "is an absolute path or leaves its folder"},
      {name("t//evil"), "is an absolute path or leaves its folder"},
      {name("/etc/passwd"), "'/etc/passwd' is an absolute path"},
      {name("t\\..\\evil"), "backslash"},
      {name(std::string("t/a\0b", 5)), "control character"},
      {name("t/a\x1b[2J"), "control character"},
      {name(""), "has an empty name"},
      {name("u/evil"), "'u/evil' lies outside the archive's top folder"},
      {name("t"), "'t' lies outside"},
      {name("t/good"), "'t/good' is a duplicate"},
      {name("t/GooD"), "'t/GooD' differs from another entry in upper and lower case alone"},
      {zip_of({good, {.name = "t/a", .bytes = "abc", .local_name = "t/b"}}), "'t/a' has another name"},
      {zip_of({good, {.name = "t/l", .bytes = "abc", .made_by = 3 << 8, .attributes = 0120777u << 16}}),
       "'t/l' is not a regular file"},
      {zip_of({good, {.name = "t/f/", .bytes = "abc"}}), "a folder with content"},
      {zip_of({good, {.name = "t/e", .bytes = "abc", .flags = 1}}), "'t/e' is encrypted"},
      {zip_of({good, {.name = "t/m", .bytes = "abc", .method = 14}}),
       "compression method that PyTorch does not use (method 14"},
      {zip_of({good, {.name = "t/s", .bytes = "abc", .claimed = 4}}),
       "'t/s' is stored uncompressed but claims 4 bytes for 3 bytes"},
      {zip_of({good, {.name = "t/s", .bytes = "abc", .local_claimed = 4}}),
       "differs between the directory and its local header"},
      {zip_of({good, {.name = "t/s", .bytes = "abc", .deflate = true, .claimed = 2}}), "more bytes than"},
      {zip_of({good, {.name = "t/s", .bytes = "abc", .deflate = true, .claimed = 4}}), "fewer bytes than"},
      {zip_of({good, {.name = "t/s", .bytes = "abc", .deflate = true, .claimed = 0xffff'fffe}}), "bomb"},
      {zip_of({good, {.name = "t/z", .bytes = zeros, .deflate = true}}), "'t/z' is a compression bomb"},
      {zip_of({good, {.name = "t/z", .bytes = zeros, .deflate = true, .claimed = 100'000}}),
       "more bytes than"},
      {zip_of({good, {.name = "t/c", .bytes = "abc", .crc = 7}}), "'t/c' has the wrong checksum"},
      {zip_of({good, {.name = "t/good", .bytes = "abc", .offset = 0}}), "overlaps another entry"},
      {zip_of({good, {.name = "t/o", .bytes = "abc", .offset = 20}}), "overlaps another entry"},
      {zip_of({good, {.name = "t/o", .bytes = "abc", .offset = 0x7fff'ffff}}), "overlaps another entry"},
      {zip_of({good}, 2), "the directory is malformed"},
      {zip_of({good}, 0), "bytes for 0 entries"},
      {zip_of({good}, 0xffff), "malformed"},
      {zip_of({}), "not a ZIP archive"},
      {zip_of({good}) + zip_of({}), "outside the file"},
      {"\x1f\x8b", "not a ZIP archive"},
  };
  for (const auto& [file, expected] : cases) {
    const auto path = scratch.write("bad", file);
    expect_words(error_of([&] { read_archive(path); }), {expected, path.string()});
  }
  expect_words(error_of([&] { read_archive(scratch.path / "none"); }), {"No such file"});
  EXPECT_NE(error_of([&] { read_archive(scratch.path); }), "");
}

// Each of these files evaded a public scanner, which read other content than the loader.
TEST(ReadArchive, AmbiguousFile_Throws) {
  const ScratchFolder scratch;
  const std::string plain =
      zip_of({{.name = "t/data.pkl", .bytes = "good"}, {.name = "t/version", .bytes = "3"}});
  const std::string other = zip_of({{.name = "t/data.pkl", .bytes = "evil"}});
  const auto error = [&](const std::string& file) {
    const auto path = scratch.write("a", file);
    return error_of([&] { read_archive(path); });
  };
  EXPECT_EQ(error(plain), "");
  std::string flagged = plain;  // encrypted by its local header only: a scanner skips the entry
  flagged[6] = 1;
  expect_words(error(flagged), {"'t/data.pkl' differs between the directory and its local header"});
  std::string method = plain;
  method[8] = 14;
  expect_words(error(method), {"'t/data.pkl' differs between the directory and its local header"});
  std::string crc = plain;
  crc[14] = static_cast<char>(crc[14] ^ 1);
  expect_words(error(crc), {"'t/data.pkl' differs between the directory and its local header"});
  expect_words(error("x" + plain), {"not a ZIP archive"});
  expect_words(error("#!/bin/sh\n" + plain), {"not a ZIP archive"});
  EXPECT_NE(error(other + plain), "") << "an archive before another";
  EXPECT_NE(error(plain + other), "") << "an archive after another";
  EXPECT_NE(error(plain + std::string(30, '\0')), "") << "bytes after the end";
  EXPECT_NE(error(plain.substr(0, plain.size() - 2) + raw<std::uint16_t>(4) + "PK\5\6"), "") << "a comment";
  const auto twice =
      zip_of({{.name = "t/data.pkl", .bytes = "good"}, {.name = "t/data.pkl", .bytes = "evil"}});
  expect_words(error(twice), {"'t/data.pkl' is a duplicate"});
}

TEST(ReadArchive, ExceedsLimits_Throws) {
  const ScratchFolder scratch;
  const auto path = scratch.write("a", zip_of({{.name = "t/a", .bytes = std::string(100, 'a')},
                                               {.name = "t/b", .bytes = std::string(100, 'b')}}));
  const auto error = [&](const ArchiveLimits& limits) {
    return error_of([&] { read_archive(path, limits); });
  };
  EXPECT_EQ(error({.entries = 2, .entry_bytes = 100, .total_bytes = 200}), "");
  expect_words(error({.entries = 1}), {"2 entries, more than the 1 allowed"});
  expect_words(error({.entry_bytes = 99}), {"'t/a' claims 100 bytes"});
  expect_words(error({.total_bytes = 199}),
               {"'t/b' brings the archive to 200 bytes, more than the 199 allowed"});

  const std::string bytes(2'000'000, '\0');
  const auto packed = scratch.write("z", zip_of({{.name = "t/z", .bytes = bytes, .deflate = true}}));
  EXPECT_EQ(read_archive(packed, {.ratio = 1032}).entries.at("z"), bytes);
}

/// An entry that claims sizes, with a hole in place of its data.
struct Claim {
  std::uint64_t packed = 0, bytes = 0;
  std::string name = {};  ///< empty: made from its number
  std::size_t extra = 0;  ///< bytes of comment in the directory
};

/// Writes an archive whose sizes are all in 64-bit fields.
/// \param more entries that the archive claims to have beyond these
std::filesystem::path write_claims(const ScratchFolder& scratch, const std::vector<Claim>& claims,
                                   std::uint64_t more = 0) {
  const auto path = scratch.path / "claims";
  std::ofstream file(path, std::ios::binary);
  std::string directory;
  std::uint64_t offset = 0;
  const std::string unset = raw(0xffff'ffff);
  for (std::size_t i = 0; i < claims.size(); ++i) {
    const auto& [packed, bytes, given, comment] = claims[i];
    const std::string name = given.empty() ? fmt::format("t/{:06}", i) : given;
    const auto method = static_cast<std::uint16_t>(packed == bytes ? 0 : 8);
    const std::string common = raw<std::uint16_t>(45) + raw<std::uint16_t>(0) + raw(method) +
                               raw<std::uint32_t>(0) + raw<std::uint32_t>(0) + unset + unset +
                               raw(static_cast<std::uint16_t>(name.size()));
    const std::string sizes =
        raw<std::uint16_t>(1) + raw<std::uint16_t>(24) + raw(bytes) + raw(packed) + raw(offset);
    directory += "PK\1\2" + raw<std::uint16_t>(45) + common + raw(static_cast<std::uint16_t>(sizes.size())) +
                 raw(static_cast<std::uint16_t>(comment)) + std::string(8, '\0') + unset + name + sizes +
                 std::string(comment, 'c');
    file << "PK\3\4" + common + raw<std::uint16_t>(0) + name;
    offset += 30 + name.size() + packed;
    if (packed > 0) file.seekp(static_cast<std::streamoff>(offset));
  }
  const std::uint64_t begin = offset, end = begin + directory.size();
  const auto count = claims.size() + more, size = std::uint64_t{directory.size()};
  file << directory
       << "PK\6\6" + raw<std::uint64_t>(44) + std::string(12, '\0') + raw(count) + raw(count) + raw(size) +
              raw(begin)
       << "PK\6\7" + std::string(4, '\0') + raw(end) + raw<std::uint32_t>(1)
       << "PK\5\6" + std::string(4, '\0') + raw<std::uint16_t>(0xffff) + raw<std::uint16_t>(0xffff) + unset +
              unset + raw<std::uint16_t>(0);
  return path;
}

TEST(ListArchive, AtEachLimit_AcceptsAndOneBeyondThrows) {
  const ScratchFolder scratch;
  const std::uint64_t mebibyte = 1 << 20, entry = std::uint64_t{16} << 30, packed = 343'597'384;  // 50 times
  const auto with = [](std::vector<Claim> claims, const Claim& last) {
    claims.push_back(last);
    return claims;
  };
  const std::vector<Claim> small(64, {.packed = 1, .bytes = mebibyte}), most(100'000);
  // The last entry brings the archive to 50 times the size of its file.
  const Claim pad = {.packed = 1'500'000, .bytes = 1'500'001};
  std::uint64_t all = 50 * std::filesystem::file_size(write_claims(scratch, with(small, pad)));
  all -= 64 * mebibyte;
  const struct {
    std::vector<Claim> within, beyond;
    std::vector<std::string_view> words;
  } cases[] = {
      {{{.name = "t/" + std::string(1022, 'a')}},
       {{.name = "t/" + std::string(1023, 'a')}},
       {"has a name of 1025 bytes, more than the 1024 allowed"}},
      {{{.name = "t/a", .extra = 4019}},
       {{.name = "t/a", .extra = 4020}},
       {"the directory has 4097 bytes for 1 entries, more than the 4096 allowed for each"}},
      {{{packed, entry}},
       {{packed, entry + 1}},
       {"'t/000000' claims 17179869185 bytes, more than the 17179869184 allowed"}},
      {{{packed, entry}, {packed, entry}},
       {{packed, entry}, {packed, entry}, {1, 1}},
       {"'t/000002' brings the archive to 34359738369 bytes, more than the 34359738368 allowed"}},
      {{{1, mebibyte}},
       {{1, mebibyte + 1}},
       {"is a compression bomb: 1048577 bytes compressed into 1, more than 50 times as many"}},
      {{{100'000, 5'000'000}},
       {{100'000, 5'000'001}},
       {"is a compression bomb: 5000001 bytes compressed into 100000, more than 50 times as many"}},
      {small,
       with(small, {1, 1}),
       {"'t/000064' makes the archive a compression bomb: 67108865 bytes in a file"}},
      {with(small, {pad.packed, all}),
       with(small, {pad.packed, all + 1}),
       {"'t/000064' makes the archive a compression bomb", "more than 50 times as many"}},
  };
  const auto path = write_claims(scratch, most);
  EXPECT_EQ(detail::list_archive(path).entries.size(), most.size());
  write_claims(scratch, most, 1);
  expect_words(error_of([&] { detail::list_archive(path); }),
               {"the archive has 100001 entries, more than the 100000 allowed"});
  for (const auto& [within, beyond, words] : cases) {
    write_claims(scratch, within);
    EXPECT_EQ(error_of([&] { detail::list_archive(path); }), "") << words.front();
    write_claims(scratch, beyond);
    const std::string line = error_of([&] { detail::list_archive(path); });
    for (const std::string_view word : words) expect_words(line, {word, path.string()});
  }
}

TEST(ReadArchive, AnyByteChanged_SameContentOrThrows) {
  const ScratchFolder scratch;
  const std::string whole = content("tests/fixtures/label_shuffle.pth");
  const auto entries = read_archive("tests/fixtures/label_shuffle.pth").entries;
  const auto path = scratch.write("changed", whole);
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  const auto write_byte = [&](std::size_t i, char c) {
    file.seekp(static_cast<std::streamoff>(i)).put(c).flush();
    ASSERT_TRUE(file);
  };
  for (std::size_t i = 0; i < whole.size(); ++i) {
    write_byte(i, static_cast<char>(whole[i] ^ 0x41));
    const std::string line = error_of([&] {
      for (const auto& [name, bytes] : read_archive(path).entries) {
        const auto found = entries.find(name);
        if (found != entries.end()) {
          EXPECT_EQ(bytes, found->second) << i;
        }
      }
    });
    if (!line.empty()) expect_words(line, {path.string()});
    write_byte(i, whole[i]);
  }
}

}  // namespace
}  // namespace refine::formats
