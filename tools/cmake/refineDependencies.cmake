# The libraries behind refine's targets, for CMakeLists.txt and for the installed package.
include(CMakeFindDependencyMacro)

# LibTorch: from Torch_DIR or CMAKE_PREFIX_PATH; otherwise the one of python3, if it has one.
if(NOT TARGET torch)
  find_package(Torch QUIET)
  if(NOT Torch_FOUND)
    execute_process(
      COMMAND python3 -c "import importlib.util as u; print(*u.find_spec('torch').submodule_search_locations)"
      OUTPUT_VARIABLE refine_torch OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
    find_dependency(Torch HINTS "${refine_torch}")
  endif()
endif()
find_dependency(Eigen3 NO_MODULE)
find_dependency(range-v3)
find_dependency(nlohmann_json)
find_dependency(JPEG)
find_dependency(PNG)
find_dependency(TIFF)
find_dependency(ZLIB)
find_dependency(OpenSSL)

# Not every distribution's libwebp has a package for CMake.
if(NOT TARGET refine::webp)
  find_path(REFINE_WEBP_INCLUDE webp/decode.h REQUIRED)
  find_library(REFINE_WEBP_LIBRARY webp REQUIRED)
  mark_as_advanced(REFINE_WEBP_INCLUDE REFINE_WEBP_LIBRARY)
  add_library(refine::webp UNKNOWN IMPORTED GLOBAL)
  set_target_properties(refine::webp PROPERTIES
    IMPORTED_LOCATION "${REFINE_WEBP_LIBRARY}" INTERFACE_INCLUDE_DIRECTORIES "${REFINE_WEBP_INCLUDE}")
endif()
