// The library where Gloo's headers are missing. Compiled with REFINE_GLOO=0.

#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

#include <refine/distributed/distributed.hpp>

namespace refine {
namespace {

TEST(WithoutGloo, FromEnvironment_SeveralRanks_IsRefused) {
  EXPECT_FALSE(distributed::C10d::is_available());
  ::setenv("RANK", "0", 1);
  ::setenv("MASTER_ADDR", "127.0.0.1", 1);
  ::setenv("MASTER_PORT", "29500", 1);
  ::setenv("WORLD_SIZE", "2", 1);
  try {
    distributed::C10d::from_environment();
    ADD_FAILURE();
  } catch (const Error& error) {
    const std::string line = error.what();
    EXPECT_NE(line.find("Gloo's headers"), std::string::npos) << line;
    EXPECT_NE(line.find("libgloo-dev"), std::string::npos) << line;
  }
  ::setenv("WORLD_SIZE", "1", 1);
  EXPECT_EQ(distributed::C10d::from_environment().size(), 1);
}

}  // namespace
}  // namespace refine
