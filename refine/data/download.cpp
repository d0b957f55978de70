// The compiled downloads (core/config.hpp), apart from data.cpp, so that only those who download are
// linked with libcurl and libarchive.

#if !defined(REFINE_COMPILED_LIB)
#error "define REFINE_COMPILED_LIB in every file of the program, or do not compile this one"
#endif

#include <refine/data/impl/download.ipp>
