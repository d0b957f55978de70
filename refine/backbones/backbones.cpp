// The compiled library (core/config.hpp).

#if !defined(REFINE_COMPILED_LIB)
#error "define REFINE_COMPILED_LIB in every file of the program, or do not compile this one"
#endif

#include <refine/backbones/impl/densenet.ipp>
#include <refine/backbones/impl/inception.ipp>
#include <refine/backbones/impl/residual.ipp>
#include <refine/backbones/impl/vgg_layers.ipp>
#include <refine/backbones/impl/vit_blocks.ipp>
