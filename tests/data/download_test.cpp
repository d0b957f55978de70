#include <archive.h>
#include <archive_entry.h>
#include <fmt/core.h>
#include <gtest/gtest.h>
#include <refine/core/sha256.hpp>
#include <refine/data/detail/cifar10_archive.hpp>
#include <refine/data/download.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "loopback_server.hpp"
#include "tests/support/error_of.hpp"
#include "tests/support/scratch_folder.hpp"

namespace refine::data {
namespace {

namespace fs = std::filesystem;
using refine::testing::content;
using refine::testing::error_of;
using refine::testing::expect_words;
using refine::testing::LoopbackServer;
using refine::testing::ScratchFolder;

/// A million times "a", the long test vector of FIPS 180-2, with the digest published there.
const std::string body(1'000'000, 'a');
const std::string digest = "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0";

class DownloadTest : public ::testing::Test {
 protected:
  void SetUp() override { ::setenv("no_proxy", "127.0.0.1", 1); }

  Download from(const std::string& url) const {
    return {.url = url, .sha256 = digest, .bytes = body.size(), .to = to, .stall = std::chrono::seconds(2)};
  }

  ScratchFolder scratch;
  fs::path to = scratch.path / "sub" / "file";
  fs::path partial = scratch.path / "sub" / "file.partial";
};

/// Answers a range request. \param sent bytes after which the answer breaks off
std::string ranged(const std::string& request, std::string_view whole,
                   std::size_t sent = std::string_view::npos) {
  const auto begin = LoopbackServer::begin_of(request);
  if (begin == 0) return LoopbackServer::ok(whole, "200 OK", {}, sent);
  const auto range = "Content-Range: bytes " + std::to_string(begin) + "-" +
                     std::to_string(whole.size() - 1) + "/" + std::to_string(whole.size()) + "\r\n";
  return LoopbackServer::ok(whole.substr(begin), "206 Partial Content", range, sent);
}

TEST_F(DownloadTest, ExistingFile_IsDownloadedOnlyIfWrong) {
  LoopbackServer server([](const auto& request) { return ranged(request, body); });
  download(from(server.url()));
  EXPECT_EQ(content(to), body);
  EXPECT_FALSE(fs::exists(partial));
  download(from(server.url()));
  EXPECT_EQ(server.requests(), 1);

  scratch.write("sub/file", "something old");
  download(from(server.url()));
  EXPECT_EQ(content(to), body);
}

TEST_F(DownloadTest, InterruptedTransfer_IsContinued) {
  std::vector<std::size_t> begins;
  LoopbackServer server([&](const auto& request) {
    begins.push_back(LoopbackServer::begin_of(request));
    return ranged(request, body, begins.size() < 3 ? 400'000 : std::string_view::npos);
  });
  expect_words(error_of([&] { download(from(server.url())); }),
               {server.url(), "400000 of 1000000", "run again"});
  EXPECT_EQ(fs::file_size(partial), 400'000u);
  EXPECT_FALSE(fs::exists(to));
  error_of([&] { download(from(server.url())); });
  download(from(server.url()));
  EXPECT_EQ(begins, (std::vector<std::size_t>{0, 400'000, 800'000}));
  EXPECT_EQ(content(to), body);
  EXPECT_FALSE(fs::exists(partial));
}

TEST_F(DownloadTest, ServerWithoutRanges_IsReadFromTheStart) {
  scratch.write("sub/file.partial", body.substr(0, 300'000));
  LoopbackServer server([](const auto&) { return LoopbackServer::ok(body); });
  download(from(server.url()));
  EXPECT_EQ(content(to), body);
  EXPECT_EQ(server.requests(), 1);
}

TEST_F(DownloadTest, WrongPartialFile_IsDownloadedAgain) {
  LoopbackServer server([](const auto& request) { return ranged(request, body); });
  for (const auto& part :
       {std::string(5000, 'b'), std::string(1'000'000, 'b'), std::string(1'000'001, 'a')}) {
    fs::remove(to);
    scratch.write("sub/file.partial", part);
    download(from(server.url()));
    EXPECT_EQ(content(to), body);
  }
  fs::remove(to);
  scratch.write("sub/file.partial", body);  // the program was killed before it renamed the file
  const int before = server.requests();
  download(from(server.url()));
  EXPECT_EQ(server.requests(), before);

  LoopbackServer refusing([](const auto& request) {
    return LoopbackServer::begin_of(request) > 0 ? LoopbackServer::ok("", "416 Range Not Satisfiable")
                                                 : LoopbackServer::ok(body);
  });
  fs::remove(to);
  scratch.write("sub/file.partial", "aaa");
  download(from(refusing.url()));
  EXPECT_EQ(content(to), body);
  EXPECT_EQ(refusing.requests(), 2);
}

TEST_F(DownloadTest, WrongContent_ThrowsAndLeavesNoFile) {
  std::string reply;
  LoopbackServer server([&](const auto&) { return reply; });
  const auto refuses = [&](std::string answer, std::initializer_list<std::string_view> words) {
    reply = std::move(answer);
    const auto line = error_of([&] { download(from(server.url())); });
    expect_words(line, words);
    expect_words(line, {server.url()});
    EXPECT_FALSE(fs::exists(to));
    EXPECT_FALSE(fs::exists(partial));
  };
  refuses(LoopbackServer::ok(std::string(1'000'000, 'b')), {"SHA-256", digest});
  refuses(LoopbackServer::ok("short"), {"length", "5 bytes", "1000000"});
  refuses(LoopbackServer::ok(body + "a"), {"more than the expected length"});
  refuses(LoopbackServer::ok("gone", "404 Not Found"), {"404", "check the address"});
  refuses(LoopbackServer::ok("", "302 Found", "Location: file:///etc/passwd\r\n"), {"rotocol"});
}

TEST_F(DownloadTest, ServerThatIsBusy_KeepsThePartialFile) {
  for (const char* status : {"503 Service Unavailable", "429 Too Many Requests", "408 Request Timeout"}) {
    scratch.write(fs::relative(partial, scratch.path).string(), body.substr(0, 1000));
    LoopbackServer server([&](const auto&) { return LoopbackServer::ok("busy", status); });
    expect_words(error_of([&] { download(from(server.url())); }),
                 {std::string(status).substr(0, 3), "1000 of 1000000", "run again to continue"});
    EXPECT_EQ(fs::file_size(partial), 1000u) << status;
  }
}

TEST_F(DownloadTest, Redirection_IsFollowed) {
  LoopbackServer server([](const auto& request) {
    return request.starts_with("GET /new") ? LoopbackServer::ok(body)
                                           : LoopbackServer::ok("", "301 Moved", "Location: /new\r\n");
  });
  download(from(server.url()));
  EXPECT_EQ(content(to), body);
}

TEST_F(DownloadTest, StalledTransfer_ThrowsAfterTheTimeout) {
  LoopbackServer server([](const auto&) { return LoopbackServer::ok(body, "200 OK", {}, 1000); }, true);
  const auto start = std::chrono::steady_clock::now();
  expect_words(error_of([&] { download(from(server.url())); }),
               {server.url(), "no data for 2 s", "1000 of 1000000"});
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(6));
  EXPECT_EQ(fs::file_size(partial), 1000u);
}

TEST_F(DownloadTest, UnreachableServerOrUnwritablePath_Throws) {
  std::string url;
  {
    LoopbackServer server([](const auto&) { return ""; });
    url = server.url();
  }
  expect_words(error_of([&] { download(from(url)); }), {url, "0 of 1000000", "connection"});
  EXPECT_FALSE(fs::exists(partial));
  expect_words(error_of([&] { download(from("file:///etc/passwd")); }), {"file:///etc/passwd"});

  auto file = from(url);
  file.to = scratch.write("plain", "") / "file";
  expect_words(error_of([&] { download(file); }), {"cannot write", "plain/file.partial"});
}

struct Entry {
  std::string path, bytes;
  unsigned type = AE_IFREG;
};

fs::path tar_of(const fs::path& file, const std::vector<Entry>& entries) {
  archive* tar = archive_write_new();
  archive_write_add_filter_gzip(tar);
  archive_write_set_format_pax_restricted(tar);
  archive_write_open_filename(tar, file.c_str());
  for (const auto& [path, bytes, type] : entries) {
    archive_entry* entry = archive_entry_new();
    archive_entry_set_pathname(entry, path.c_str());
    archive_entry_set_filetype(entry, type);
    archive_entry_set_perm(entry, 0644);
    archive_entry_set_size(entry, type == AE_IFREG ? static_cast<la_int64_t>(bytes.size()) : 0);
    if (type == AE_IFLNK) archive_entry_set_symlink(entry, bytes.c_str());
    archive_write_header(tar, entry);
    if (type == AE_IFREG) archive_write_data(tar, bytes.data(), bytes.size());
    archive_entry_free(entry);
  }
  archive_write_free(tar);
  return file;
}

const std::string inner = "cifar-10-batches-bin/";

std::vector<Entry> good_entries() {
  std::vector<Entry> entries = {
      {inner, "", AE_IFDIR}, {inner + "readme.html", "<p>"}, {inner + "test_batch.bin", "t"}};
  for (int i = 1; i <= 5; ++i)
    entries.push_back({inner + "data_batch_" + std::to_string(i) + ".bin", std::string(i, 'x')});
  return entries;
}

std::vector<std::string> names_in(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

TEST(DownloadCifar10, GoodArchive_IsUnpackedAndRemoved) {
  ::setenv("no_proxy", "127.0.0.1", 1);
  const ScratchFolder scratch, elsewhere;
  auto entries = good_entries();
  entries.push_back({"../evil", "x"});
  entries.push_back({inner + "../evil", "x"});
  entries.push_back({inner + "extra.bin", "x"});
  const auto tar = tar_of(elsewhere.path / "tar.gz", entries);
  const auto bytes = content(tar);
  LoopbackServer server([&](const auto&) { return LoopbackServer::ok(bytes); });
  const auto root = scratch.path / "data" / "CIFAR10";
  download_cifar10(root, server.url(), files::sha256(tar), bytes.size());
  EXPECT_EQ(names_in(root), (std::vector<std::string>{"cifar-10-batches-bin"}));
  EXPECT_EQ(names_in(scratch.path / "data"), (std::vector<std::string>{"CIFAR10"}));
  EXPECT_EQ(
      names_in(root / inner),
      (std::vector<std::string>{"data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin",
                                "data_batch_4.bin", "data_batch_5.bin", "readme.html", "test_batch.bin"}));
  EXPECT_EQ(content(root / inner / "data_batch_3.bin"), "xxx");
  download_cifar10(root, server.url(), files::sha256(tar), bytes.size());
  EXPECT_EQ(server.requests(), 1);
}

TEST(DownloadCifar10, LargestFiles_AreUnpackedAndOneByteMoreThrows) {
  const std::vector<std::pair<std::size_t, std::size_t>> cases = {{1, 65'536}, {7, 30'730'000}};
  for (const auto& [index, bytes] : cases) {
    const ScratchFolder scratch;
    const auto file = scratch.path / "x.tar.gz";
    auto entries = good_entries();
    Entry& largest = entries.at(index);
    largest.bytes = std::string(bytes + 1, 'x');
    tar_of(file, entries);
    expect_words(
        error_of([&] { detail::cifar::extract(file, scratch.path); }),
        {largest.path.substr(inner.size()), fmt::format("has more than the {} bytes allowed", bytes)});
    largest.bytes.pop_back();
    tar_of(file, entries);
    EXPECT_EQ(error_of([&] { detail::cifar::extract(file, scratch.path); }), "");
    EXPECT_EQ(fs::file_size(scratch.path / largest.path), bytes);
  }
}

TEST(DownloadCifar10, BadArchive_ThrowsAndLeavesNothing) {
  const ScratchFolder scratch;
  const auto file = scratch.path / "x.tar.gz";
  const auto refuses = [&](std::initializer_list<std::string_view> words) {
    const auto line = error_of([&] { detail::cifar::extract(file, scratch.path); });
    expect_words(line, words);
    expect_words(line, {file.string()});
    EXPECT_EQ(names_in(scratch.path), (std::vector<std::string>{"x.tar.gz"}));
  };
  auto entries = good_entries();
  entries.pop_back();
  tar_of(file, entries);
  refuses({"missing"});
  entries.push_back({inner + "data_batch_5.bin", "/etc/passwd", AE_IFLNK});
  tar_of(file, entries);
  refuses({"data_batch_5.bin", "regular file"});
  entries = good_entries();
  entries.push_back(entries.back());
  tar_of(file, entries);
  refuses({"duplicate", "data_batch_5.bin"});
  tar_of(file, good_entries());
  const auto whole = content(file);
  scratch.write("x.tar.gz", whole.substr(0, whole.size() / 2));
  refuses({});
  scratch.write("x.tar.gz", "not an archive at all");
  refuses({});
}

}  // namespace
}  // namespace refine::data
