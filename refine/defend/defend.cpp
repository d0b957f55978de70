// The compiled library (core/config.hpp).

#if !defined(REFINE_COMPILED_LIB)
#error "define REFINE_COMPILED_LIB in every file of the program, or do not compile this one"
#endif

#include <refine/defend/impl/bench_file.ipp>
#include <refine/defend/impl/check_outputs.ipp>
#include <refine/defend/impl/defend.ipp>
#include <refine/defend/impl/images.ipp>
#include <refine/defend/impl/inspect.ipp>
#include <refine/defend/impl/load_classifier.ipp>
#include <refine/defend/impl/plan.ipp>
#include <refine/defend/impl/prepared_defense.ipp>
#include <refine/defend/impl/probe.ipp>
#include <refine/defend/impl/results.ipp>
#include <refine/defend/impl/saved_defense.ipp>
#include <refine/defend/impl/sizing.ipp>
#include <refine/defend/impl/stored_network.ipp>
#include <refine/defend/impl/train_victim.ipp>
