#pragma once

#include <refine/distributed/c10d.hpp>
#include <refine/distributed/communicator.hpp>
#include <refine/distributed/exchange.hpp>
