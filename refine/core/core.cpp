// The compiled library (core/config.hpp).

#if !defined(REFINE_COMPILED_LIB)
#error "define REFINE_COMPILED_LIB in every file of the program, or do not compile this one"
#endif

#include <refine/core/impl/file.ipp>
#include <refine/core/impl/progress_meter.ipp>
#include <refine/core/impl/text.ipp>
