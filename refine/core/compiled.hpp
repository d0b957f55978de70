#pragma once

/// The library is headers alone: each ends by including its `…_definitions.hpp`, where what is no template
/// stands. That need not be compiled again for each file of a program: with `REFINE_COMPILED` defined, for
/// all of them, headers only declare it, and the program links the rooms' `.cpp` files. Bazel does so by
/// itself. Virtual members are declared with REFINE_DEFINITION too: else every file that has the headers
/// alone would hold the class's vtable, and all that is virtual. The same `JSON_*` macros for all files,
/// please: they are part of the names of nlohmann-json's types.
#if defined(REFINE_COMPILED)
#define REFINE_DEFINITION
#else
#define REFINE_DEFINITION inline
#endif
