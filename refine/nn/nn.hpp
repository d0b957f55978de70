#pragma once

#include <refine/nn/autocast.hpp>
#include <refine/nn/clone.hpp>
#include <refine/nn/conv.hpp>
#include <refine/nn/cuda_graph.hpp>
#include <refine/nn/device.hpp>
#include <refine/nn/fold.hpp>
#include <refine/nn/torch_random.hpp>
#include <refine/nn/transfer.hpp>
