// What this room's headers declare, compiled once for a program (core/compiled.hpp).

#include <refine/data/augmentation_definitions.hpp>
#include <refine/data/cifar10_definitions.hpp>
#include <refine/data/dataset_definitions.hpp>
#include <refine/data/decode_image_definitions.hpp>
#include <refine/data/decode_images_definitions.hpp>
#include <refine/data/decoders_definitions.hpp>
#include <refine/data/exif_definitions.hpp>
#include <refine/data/fashion_mnist_definitions.hpp>
#include <refine/data/idx_definitions.hpp>
#include <refine/data/image_files_definitions.hpp>
#include <refine/data/image_folder_definitions.hpp>
#include <refine/data/image_size_definitions.hpp>
#include <refine/data/image_store_definitions.hpp>
#include <refine/data/left_out_definitions.hpp>
#include <refine/data/listing_definitions.hpp>
#include <refine/data/mapped_images_definitions.hpp>
#include <refine/data/open_store_definitions.hpp>
#include <refine/data/place_image_definitions.hpp>
#include <refine/data/resize_definitions.hpp>
#include <refine/data/rgb_definitions.hpp>
#include <refine/data/synthetic_definitions.hpp>
#include <refine/data/utf8_definitions.hpp>
