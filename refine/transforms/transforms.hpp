#pragma once

#include <refine/transforms/none.hpp>
#include <refine/transforms/transform_network.hpp>
#include <refine/transforms/unet.hpp>
