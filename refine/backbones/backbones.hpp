#pragma once

#include <refine/backbones/any_backbone.hpp>
#include <refine/backbones/backbone.hpp>
#include <refine/backbones/densenet121.hpp>
#include <refine/backbones/form.hpp>
#include <refine/backbones/freeze.hpp>
#include <refine/backbones/inception_v3.hpp>
#include <refine/backbones/normalized.hpp>
#include <refine/backbones/preact_resnet18.hpp>
#include <refine/backbones/resnet18.hpp>
#include <refine/backbones/resnet50.hpp>
#include <refine/backbones/vgg16.hpp>
#include <refine/backbones/vgg19.hpp>
#include <refine/backbones/vit.hpp>
