#pragma once

#include <refine/formats/archive.hpp>
#include <refine/formats/foreign_file.hpp>
#include <refine/formats/objection.hpp>
#include <refine/formats/operators.hpp>
#include <refine/formats/pickle.hpp>
#include <refine/formats/safetensors.hpp>
#include <refine/formats/torch_file.hpp>
#include <refine/formats/torchscript.hpp>
#include <refine/formats/value.hpp>
#include <refine/formats/weights.hpp>
