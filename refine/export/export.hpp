#pragma once

#include <refine/export/export_defense.hpp>
#include <refine/export/onnx.hpp>
#include <refine/export/pt2.hpp>
#include <refine/export/torchscript.hpp>
#include <refine/export/weights.hpp>
#include <refine/nn/module.hpp>

/// \file
/// Victims and defenses as files. `save` and `load` keep the weights as safetensors, to go on in
/// this library; `export_defense` writes a whole defended classifier as one file that serves without
/// it: a .pt2 of torch.export, ONNX or TorchScript. `ExportedClassifier`
/// (`refine/export/exported_classifier.hpp`, not included here) reads such a file back.
///
///     save(victim, "victim.safetensors");
///     save(defense, "defense.safetensors", recipes::fast);
///     export_defense(defense, "defended.pt2");
