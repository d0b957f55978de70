#include <refine/winograd/convolution_definitions.hpp>
