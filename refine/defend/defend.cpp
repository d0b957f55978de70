// The compiled library (core/config.hpp).

#if !defined(REFINE_COMPILED_LIB)
#error "define REFINE_COMPILED_LIB in every file of the program, or do not compile this one"
#endif

#include <refine/defend/impl/check_outputs.ipp>
#include <refine/defend/impl/class_folders.ipp>
#include <refine/defend/impl/defend.ipp>
#include <refine/defend/impl/evaluate_folder.ipp>
#include <refine/defend/impl/folder_images.ipp>
#include <refine/defend/impl/inspect.ipp>
#include <refine/defend/impl/load_classifier.ipp>
#include <refine/defend/impl/named_dataset.ipp>
#include <refine/defend/impl/predict_files.ipp>
#include <refine/defend/impl/probe.ipp>
#include <refine/defend/impl/probe_victim.ipp>
#include <refine/defend/impl/results.ipp>
#include <refine/defend/impl/saved_defense.ipp>
#include <refine/defend/impl/sizing.ipp>
#include <refine/defend/impl/stored_network.ipp>
#include <refine/defend/impl/train_victim.ipp>
