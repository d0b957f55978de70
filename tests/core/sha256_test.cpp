#include <refine/core/sha256.hpp>

#include <gtest/gtest.h>

#include <string>

#include "tests/support/error_of.hpp"
#include "tests/support/scratch_folder.hpp"

namespace refine {
namespace {

/// The examples of FIPS 180-2, appendix B.
TEST(Sha256, TestVectors_HaveTheirDigests) {
  EXPECT_EQ(Sha256().hex(), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(Sha256().add("abc").hex(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  Sha256 parts;
  for (const char* part : {"abcdbcdecdefdefgefghfghighij", "", "hijkijkljklmklmnlmnomnopnopq"})
    parts.add(part);
  EXPECT_EQ(parts.hex(), "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
}

TEST(FileSha256, TestVectors_HaveTheirDigests) {
  const testing::ScratchFolder scratch;
  EXPECT_EQ(files::sha256(scratch.write("a", "abc")),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(files::sha256(scratch.write("a", "")),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(files::sha256(scratch.write("a", std::string(1'000'000, 'a'))),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
  testing::expect_words(testing::error_of([&] { files::sha256(scratch.path / "none"); }), {"none"});
}

TEST(FileSha256, Folder_Throws) {
  const testing::ScratchFolder scratch;
  testing::expect_words(testing::error_of([&] { files::sha256(scratch.path); }),
                        {"cannot read " + scratch.path.string(), "Is a directory"});
}

}  // namespace
}  // namespace refine
