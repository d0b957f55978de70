# find_package(refine): the targets refine::headers and, if it was installed, refine::refine.
include("${CMAKE_CURRENT_LIST_DIR}/refineDependencies.cmake")
include("${CMAKE_CURRENT_LIST_DIR}/refineTargets.cmake")
