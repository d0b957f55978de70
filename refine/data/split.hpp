#pragma once

#include <refine/data/dataset.hpp>

namespace refine::data {

/// What every source of images gives: `auto [train, test] = data::cifar10("data/CIFAR10");`
struct Split {
  Dataset train;
  Dataset test;
};

}  // namespace refine::data
