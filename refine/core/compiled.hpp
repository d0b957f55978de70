#pragma once

/// The library is headers alone: each ends by including its `…_definitions.hpp`, where what is no template
/// stands. That need not be compiled again for each file of a program: with `REFINE_COMPILED` defined, for
/// all of them, headers only declare it, and the program links the rooms' `.cpp` files. Bazel does so by
/// itself.
#if defined(REFINE_COMPILED)
#define REFINE_DEFINITION
#else
#define REFINE_DEFINITION inline
#endif
