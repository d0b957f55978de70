// The compiled library (core/config.hpp).

#if !defined(REFINE_COMPILED_LIB)
#error "define REFINE_COMPILED_LIB in every file of the program, or do not compile this one"
#endif

#include <refine/transforms/impl/encoded.ipp>
#include <refine/transforms/impl/encoder_decoder.ipp>
#include <refine/transforms/impl/unet.ipp>
