// The compiled library (core/config.hpp).

#if !defined(REFINE_COMPILED_LIB)
#error "define REFINE_COMPILED_LIB in every file of the program, or do not compile this one"
#endif

#include <refine/data/impl/augmentation.ipp>
#include <refine/data/impl/decoders.ipp>
#include <refine/data/impl/image_files.ipp>
#include <refine/data/impl/image_folder.ipp>
#include <refine/data/impl/near_duplicates.ipp>
#include <refine/data/impl/open_store.ipp>
#include <refine/data/impl/parallel_decoder.ipp>
#include <refine/data/impl/sources.ipp>
