#pragma once

#include <refine/core/agreement.hpp>
#include <refine/core/article.hpp>
#include <refine/core/atomic_file.hpp>
#include <refine/core/error.hpp>
#include <refine/core/file_bytes.hpp>
#include <refine/core/image_shape.hpp>
#include <refine/core/message.hpp>
#include <refine/core/one_line.hpp>
#include <refine/core/plain_name.hpp>
#include <refine/core/progress_meter.hpp>
#include <refine/core/random.hpp>
#include <refine/core/seed.hpp>
#include <refine/core/task.hpp>
#include <refine/core/version.hpp>
