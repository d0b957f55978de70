// The compiled library (core/config.hpp).

#if !defined(REFINE_COMPILED_LIB)
#error "define REFINE_COMPILED_LIB in every file of the program, or do not compile this one"
#endif

#include <refine/nn/impl/conv.ipp>
#include <refine/nn/impl/cuda_graph.ipp>
#include <refine/nn/impl/device.ipp>
#include <refine/nn/impl/module.ipp>
#include <refine/nn/impl/shared_batch.ipp>
