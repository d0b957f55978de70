#pragma once

#include <refine/backbones/any_backbone.hpp>
#include <refine/backbones/backbone.hpp>
#include <refine/backbones/freeze.hpp>
#include <refine/backbones/normalized.hpp>
#include <refine/backbones/resnet18.hpp>
#include <refine/backbones/scripted.hpp>
