#pragma once

#include <refine/defend/probe.hpp>
