#pragma once

// Apart from <refine/data/data.hpp>, so that only what fetches data needs an HTTP client.

#include <refine/data/download_cifar10.hpp>
#include <refine/data/fetch.hpp>
#include <refine/data/sha256.hpp>
