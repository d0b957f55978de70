#pragma once

// Not <refine/data/download.hpp>: only what fetches data should need an HTTP client.

#include <refine/data/augmentation.hpp>
#include <refine/data/batches.hpp>
#include <refine/data/cifar10.hpp>
#include <refine/data/dataset.hpp>
#include <refine/data/decode.hpp>
#include <refine/data/fashion_mnist.hpp>
#include <refine/data/image_files.hpp>
#include <refine/data/image_folder.hpp>
#include <refine/data/image_store.hpp>
#include <refine/data/resize.hpp>
#include <refine/data/synthetic.hpp>
#include <refine/data/training_set.hpp>
