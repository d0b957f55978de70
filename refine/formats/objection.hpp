#pragma once

#include <refine/core/error.hpp>

#include <string>

namespace refine::formats {

/// Something in a file for which refine does not run it or does not use it.
struct Objection {
  enum class Kind {
    harmful,      ///< not known to be arithmetic, and could do anything when it runs
    unknown,      ///< an operator of PyTorch that refine does not know
    library,      ///< an operator of another library, which is not loaded here
    quantized,    ///< computes with quantised numbers, through which no gradient passes
    unsupported,  ///< harmless, and not in a form that refine reads
  };
  Kind kind = Kind::harmful;
  std::string text = {};  ///< one clause, which names what it is about

  bool operator==(const Objection&) const = default;
};

/// A file that names a way to run programs, which Python would run while it loads the file.
struct ProgramError : Error {
  using Error::Error;
};

}  // namespace refine::formats
