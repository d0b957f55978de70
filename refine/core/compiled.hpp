#pragma once

/// The library is headers alone. What takes long to compile need not be compiled again for each file of a
/// program: with `REFINE_COMPILED` defined, for all of them, headers only declare it, and the program links
/// what the few `.cpp` files beside the headers come to. Bazel does so by itself.
#if defined(REFINE_COMPILED)
#define REFINE_DEFINITION
#else
#define REFINE_DEFINITION inline
#endif
