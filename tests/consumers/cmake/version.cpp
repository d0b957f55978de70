// A file that needs headers of the library and of its dependencies, but no LibTorch: it compiles in a few seconds.

#include <fmt/format.h>

#include <refine/core/config.hpp>
#include <refine/core/task.hpp>
#include <refine/metrics/proportion.hpp>

int main() {
  fmt::print("refine {}, {}, {:.2f}\n", refine::version, refine::tasks::cifar10,
             refine::metrics::Proportion{1, 4}.value());
}
