#pragma once

#include <refine/attacks/any_attack.hpp>
#include <refine/attacks/attack.hpp>
#include <refine/attacks/benign.hpp>
#include <refine/attacks/catalogue.hpp>
#include <refine/attacks/clean_label.hpp>
#include <refine/attacks/covered.hpp>
#include <refine/attacks/demand.hpp>
#include <refine/attacks/dirty_label.hpp>
#include <refine/attacks/pgd.hpp>
#include <refine/attacks/surrogate.hpp>
#include <refine/attacks/wanet_with_noise.hpp>
