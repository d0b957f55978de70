// The compiled library (core/config.hpp).

#if !defined(REFINE_COMPILED_LIB)
#error "define REFINE_COMPILED_LIB in every file of the program, or do not compile this one"
#endif

#include <refine/evaluation/impl/bench.ipp>
#include <refine/evaluation/impl/inference_meters.ipp>
#include <refine/evaluation/impl/scan.ipp>
