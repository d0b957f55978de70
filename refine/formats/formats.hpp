#pragma once

#include <refine/formats/archive.hpp>
#include <refine/formats/checkpoint.hpp>
#include <refine/formats/inspect.hpp>
#include <refine/formats/safetensors.hpp>
#include <refine/formats/torchscript_check.hpp>
