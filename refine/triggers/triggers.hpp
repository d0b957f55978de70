#pragma once

#include <refine/triggers/any_trigger.hpp>
#include <refine/triggers/blend.hpp>
#include <refine/triggers/disturbed.hpp>
#include <refine/triggers/figures.hpp>
#include <refine/triggers/none.hpp>
#include <refine/triggers/overlay.hpp>
#include <refine/triggers/parts.hpp>
#include <refine/triggers/patch.hpp>
#include <refine/triggers/patches.hpp>
#include <refine/triggers/patterns.hpp>
#include <refine/triggers/reference_rotate.hpp>
#include <refine/triggers/rotate.hpp>
#include <refine/triggers/stamp.hpp>
#include <refine/triggers/trigger_policy.hpp>
#include <refine/triggers/warp.hpp>
