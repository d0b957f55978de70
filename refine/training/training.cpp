// The compiled library (core/config.hpp).

#if !defined(REFINE_COMPILED_LIB)
#error "define REFINE_COMPILED_LIB in every file of the program, or do not compile this one"
#endif

#include <refine/training/impl/checkpoint.ipp>
#include <refine/training/impl/muon.ipp>
#include <refine/training/impl/observers.ipp>
#include <refine/training/impl/optimizers.ipp>
#include <refine/training/impl/recipe.ipp>
#include <refine/training/impl/recipe_json.ipp>
#include <refine/training/impl/stop_on_signal.ipp>
