#pragma once

#include <refine/transforms/any_transform.hpp>
#include <refine/transforms/encoder_decoder.hpp>
#include <refine/transforms/freeze.hpp>
#include <refine/transforms/transform.hpp>
#include <refine/transforms/unet.hpp>
