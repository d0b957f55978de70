#pragma once

#include <refine/attacks/any_attack.hpp>
#include <refine/attacks/attack.hpp>
#include <refine/attacks/benign.hpp>
#include <refine/attacks/catalogue.hpp>
#include <refine/attacks/dirty_label.hpp>
