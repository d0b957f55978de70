#pragma once

#include <refine/backbones/backbone.hpp>
#include <refine/backbones/freeze.hpp>
#include <refine/backbones/normalized.hpp>
#include <refine/backbones/resnet18.hpp>
