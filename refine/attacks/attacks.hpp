#pragma once

#include <refine/attacks/attack.hpp>
#include <refine/attacks/catalogue.hpp>
#include <refine/attacks/dirty_label.hpp>
