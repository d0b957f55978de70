// The compiled library (core/config.hpp).

#if !defined(REFINE_COMPILED_LIB)
#error "define REFINE_COMPILED_LIB in every file of the program, or do not compile this one"
#endif

#include <refine/programs/impl/encoder.ipp>
#include <refine/programs/impl/exported_module.ipp>
#include <refine/programs/impl/onnx.ipp>
#include <refine/programs/impl/scripted_module.ipp>
