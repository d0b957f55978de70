#pragma once

#include <refine/triggers/blend.hpp>
#include <refine/triggers/patch.hpp>
#include <refine/triggers/patterns.hpp>
#include <refine/triggers/rotate.hpp>
#include <refine/triggers/trigger.hpp>
#include <refine/triggers/warp.hpp>
