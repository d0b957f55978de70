#pragma once

#include <refine/nn/autocast.hpp>
#include <refine/nn/bfloat16.hpp>
#include <refine/nn/channels_last.hpp>
#include <refine/nn/convolve.hpp>
#include <refine/nn/deep_copy.hpp>
#include <refine/nn/device.hpp>
#include <refine/nn/draws.hpp>
#include <refine/nn/foldable.hpp>
#include <refine/nn/host_constant.hpp>
#include <refine/nn/keep_freed_memory.hpp>
#include <refine/nn/make_constant.hpp>
#include <refine/nn/seeded.hpp>
