// The compiled library (core/config.hpp).

#if !defined(REFINE_COMPILED_LIB)
#error "define REFINE_COMPILED_LIB in every file of the program, or do not compile this one"
#endif

#include <refine/report/impl/html.ipp>
#include <refine/report/impl/images.ipp>
#include <refine/report/impl/json.ipp>
#include <refine/report/impl/scan_summary.ipp>
#include <refine/report/impl/terminal.ipp>
#include <refine/report/impl/verdict.ipp>
