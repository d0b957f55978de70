#pragma once

#include <refine/backbones/any_backbone.hpp>
#include <refine/backbones/backbone.hpp>
#include <refine/backbones/densenet.hpp>
#include <refine/backbones/freeze.hpp>
#include <refine/backbones/inception.hpp>
#include <refine/backbones/normalized.hpp>
#include <refine/backbones/preact_resnet.hpp>
#include <refine/backbones/resnet.hpp>
#include <refine/backbones/vgg.hpp>
#include <refine/backbones/vit.hpp>
