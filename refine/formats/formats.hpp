#pragma once

/// \namespace refine::formats
///
/// Readers of model and weight files from untrusted sources: safetensors, PyTorch checkpoints,
/// pickles, ZIP archives, TorchScript and torch.export. A reader never executes what a file contains. A file of
/// the wrong kind, a truncated, damaged or malicious file ends in one `refine::Error` that names
/// it, before memory is allocated for what the file claims. `recognize_file` names files of other
/// formats; limits are in `ArchiveLimits`.
///
/// \code{.cpp}
/// auto weights = formats::read_weights("checkpoint.pth");   // safetensors, or anything torch.save wrote
/// for (const auto& [name, tensor] : weights.tensors) fmt::print("{}: {}\n", name, tensor.numel());
///
/// auto program = formats::load_torchscript("model.pt");     // checked before it is loaded
/// program.module.forward({images});
///
/// auto exported = formats::read_exported_program("model.pt2");  // nodes and tensors; programs/ runs it
/// \endcode

#include <refine/formats/archive.hpp>
#include <refine/formats/checkpoint.hpp>
#include <refine/formats/exported_program.hpp>
#include <refine/formats/exported_program_writer.hpp>
#include <refine/formats/inspect.hpp>
#include <refine/formats/onnx.hpp>
#include <refine/formats/safetensors.hpp>
#include <refine/formats/torchscript_check.hpp>
#include <refine/formats/value.hpp>
