#pragma once

#include <refine/transforms/any_transform.hpp>
#include <refine/transforms/can_freeze.hpp>
#include <refine/transforms/encoder_decoder.hpp>
#include <refine/transforms/freeze.hpp>
#include <refine/transforms/none.hpp>
#include <refine/transforms/squash.hpp>
#include <refine/transforms/transform_network.hpp>
#include <refine/transforms/unet.hpp>
