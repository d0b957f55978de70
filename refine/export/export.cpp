// The compiled library (core/config.hpp).

#if !defined(REFINE_COMPILED_LIB)
#error "define REFINE_COMPILED_LIB in every file of the program, or do not compile this one"
#endif

#include <refine/export/impl/exported_classifier.ipp>
#include <refine/export/impl/onnx.ipp>
#include <refine/export/impl/pt2.ipp>
#include <refine/export/impl/torchscript.ipp>
#include <refine/export/impl/weights.ipp>
