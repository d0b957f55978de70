// The compiled library (core/config.hpp): the instances of templates for AnyPipeline.

#if !defined(REFINE_COMPILED_LIB)
#error "define REFINE_COMPILED_LIB in every file of the program, or do not compile this one"
#endif

#include <refine/detail/any_pipeline_instances.hpp>

REFINE_ANY_PIPELINE_INSTANCES(template);
