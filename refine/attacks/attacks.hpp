#pragma once

#include <refine/attacks/attack.hpp>
#include <refine/attacks/by_name.hpp>
#include <refine/attacks/clean_label.hpp>
#include <refine/attacks/covered.hpp>
#include <refine/attacks/dirty_label.hpp>
#include <refine/attacks/pgd.hpp>
#include <refine/attacks/published.hpp>
