#pragma once

#include <refine/export/torchscript.hpp>
#include <refine/export/weights.hpp>
#include <refine/nn/module.hpp>

/// \file
/// Victims and defenses as files. `save` and `load` keep the weights as safetensors, to go on in
/// this library; `export_torchscript` writes a whole defended classifier as one program that serves
/// without it. `ExportedClassifier` (`refine/export/exported_classifier.hpp`, not included here)
/// reads such a program back.
///
///     save(victim, "victim.safetensors");
///     save(defense, "defense.safetensors", recipes::fast);
///     export_torchscript(defense, "defended.pt");
