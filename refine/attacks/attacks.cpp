// The compiled library (core/config.hpp).

#if !defined(REFINE_COMPILED_LIB)
#error "define REFINE_COMPILED_LIB in every file of the program, or do not compile this one"
#endif

#include <refine/attacks/impl/input_gradient.ipp>
#include <refine/attacks/impl/pgd.ipp>
