#pragma once

#include <torch/csrc/jit/frontend/tree.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace refine::formats::detail::script {

/// What a pickle would build, as far as it must be known to tell that it fits.
struct Pickled {
  enum class Kind {
    none,
    boolean,
    integer,
    real,
    text,
    device,
    tuple,
    list,
    dict,
    name,
    blank,
    object,
    storage,
    tensor
  };
  using Ref = std::shared_ptr<Pickled>;

  Kind kind = Kind::none;
  std::string text = {};    ///< a string, a name, an object's class, the type that a list or dict was given
  std::int64_t number = 0;  ///< an integer; of a storage its elements
  std::vector<Ref> parts = {};      ///< of a dict keys and values in turn
  std::size_t depth = 0, size = 1;  ///< levels below; values in it, on all paths
  bool is_shared = false;           ///< the memo has it: it must not change any more
};

/// Whether LibTorch may believe that the value is of the type, which it does without a look.
/// \param untyped whether lists and dicts say no type of their own: LibTorch then gives them the type by which
/// it comes to them, here the first, and another would be believed of what the first let in
bool fits(Pickled& value, const torch::jit::TreeRef& type, bool untyped = false);

}  // namespace refine::formats::detail::script

#if !defined(REFINE_COMPILED)
#include <refine/formats/script_pickled_definitions.hpp>
#endif
