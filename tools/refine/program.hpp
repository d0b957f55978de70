#pragma once

namespace refine::cli {

/// Runs the program.
/// \param argc, argv as for `main`
/// \return the exit status
int run_program(int argc, char** argv);

}  // namespace refine::cli
