#include "tools/refine/program.hpp"

int main(int argc, char** argv) {
  return refine::cli::run_program(argc, argv);
}
