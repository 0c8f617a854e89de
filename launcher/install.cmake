# SPDX-License-Identifier: Apache-2.0
# `cmake --install`: the program, and what a program of one's own is built on (tests/own_program): the floors as static
# libraries, their headers, and a package for find_package(Tessera).
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(package ${CMAKE_INSTALL_LIBDIR}/cmake/Tessera)
set(headers ${CMAKE_INSTALL_INCLUDEDIR}/tessera) # named from there as here: "core/graph/op.hpp"
set(libraries tessera_kernels tessera_parallel tessera_core tessera_launcher)
if(TESSERA_CUDA)
  add_library(tessera_gpu STATIC $<TARGET_OBJECTS:tessera_cuda>)
  target_link_libraries(tessera_gpu PUBLIC CUDA::cudart_static CUDA::cublasLt ${CUDNN_LIBRARY} ${NCCL_LIBRARY})
  list(APPEND libraries tessera_gpu)
endif()
foreach(library ${libraries})
  string(REPLACE tessera_ "" name ${library})
  set_target_properties(${library} PROPERTIES EXPORT_NAME ${name})
endforeach()
set_target_properties(tessera_flags PROPERTIES EXPORT_NAME flags)

install(TARGETS tessera)
install(TARGETS tessera_flags ${libraries} EXPORT TesseraTargets)
install(EXPORT TesseraTargets NAMESPACE Tessera:: DESTINATION ${package})
install(DIRECTORY kernels parallel core launcher DESTINATION ${headers} FILES_MATCHING PATTERN "*.hpp")
list(TRANSFORM libraries REPLACE tessera_ Tessera:: OUTPUT_VARIABLE TESSERA_LIBRARIES)
configure_package_config_file(launcher/TesseraConfig.cmake.in TesseraConfig.cmake INSTALL_DESTINATION ${package})
write_basic_package_version_file(TesseraConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/TesseraConfig.cmake ${PROJECT_BINARY_DIR}/TesseraConfigVersion.cmake
  DESTINATION ${package})
