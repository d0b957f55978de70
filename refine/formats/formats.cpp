// The compiled library (core/config.hpp).

#if !defined(REFINE_COMPILED_LIB)
#error "define REFINE_COMPILED_LIB in every file of the program, or do not compile this one"
#endif

#include <refine/formats/impl/archive.ipp>
#include <refine/formats/impl/checkpoint.ipp>
#include <refine/formats/impl/exported_program.ipp>
#include <refine/formats/impl/exported_program_writer.ipp>
#include <refine/formats/impl/inspect.ipp>
#include <refine/formats/impl/onnx.ipp>
#include <refine/formats/impl/pickle_machine.ipp>
#include <refine/formats/impl/safetensors.ipp>
#include <refine/formats/impl/script_code.ipp>
#include <refine/formats/impl/script_pickle.ipp>
#include <refine/formats/impl/torchscript_check.ipp>
