#pragma once

// Not <refine/data/download.hpp>: only what fetches data should need an HTTP client.

#include <refine/data/augmentation.hpp>
#include <refine/data/batches.hpp>
#include <refine/data/cifar10.hpp>
#include <refine/data/dataset.hpp>
#include <refine/data/decode_image.hpp>
#include <refine/data/decode_images.hpp>
#include <refine/data/fashion_mnist.hpp>
#include <refine/data/for_each_index.hpp>
#include <refine/data/idx.hpp>
#include <refine/data/image_files.hpp>
#include <refine/data/image_folder.hpp>
#include <refine/data/image_store.hpp>
#include <refine/data/left_out.hpp>
#include <refine/data/mapped_images.hpp>
#include <refine/data/open_store.hpp>
#include <refine/data/pixels.hpp>
#include <refine/data/place_image.hpp>
#include <refine/data/private_copy.hpp>
#include <refine/data/resize.hpp>
#include <refine/data/split.hpp>
#include <refine/data/synthetic.hpp>
#include <refine/data/training_set.hpp>
#include <refine/data/utf8.hpp>
