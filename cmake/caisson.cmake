# SPDX-License-Identifier: Apache-2.0
# caisson_library(NAME [PATHS dir...] [EXCLUDE file...] [LINK lib...] [UNITY_PRELUDE line])
#   A static library of every .cc in src/NAME but *_test.cc, *_fuzz.cc and main.cc, and its tests:
#   *_test.cc make NAME_test (label unit), *_root_test.cc make NAME_root_test (label root; skips when not root),
#   *_net_test.cc make NAME_net_test (label net: they run servers on loopback), *_vm_test.cc make NAME_vm_test (label vm: they
#   boot guests).
#   UNITY_PRELUDE: a line of C++ before each source in a unity build.
# caisson_executable(NAME [STATIC] SOURCES ... LINK ...)
# caisson_fuzzer(NAME SOURCE file LINK lib...)   a libFuzzer target and a smoke run of it; only with CAISSON_FUZZERS.

# "-iquote", not "-I": src/sys/mount.h and others must not stand in for <sys/mount.h>.
function(caisson_source_includes target scope)
  target_compile_options(${target} ${scope} "SHELL:-iquote ${CMAKE_SOURCE_DIR}/src")
endfunction()

function(caisson_library name)
  cmake_parse_arguments(A "" "" "PATHS;EXCLUDE;LINK;TEST_LINK;UNITY_PRELUDE" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.cc)
  foreach(dir ${A_PATHS})
    file(GLOB more CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/${dir}/*.cc)
    list(APPEND sources ${more})
  endforeach()
  set(tests ${sources})
  list(FILTER sources EXCLUDE REGEX "(_test|_fuzz|/main)\\.cc$")
  foreach(file ${A_EXCLUDE})
    list(REMOVE_ITEM sources ${CMAKE_CURRENT_SOURCE_DIR}/${file})
  endforeach()
  list(FILTER tests INCLUDE REGEX "_test\\.cc$")
  set(root_tests ${tests})
  list(FILTER root_tests INCLUDE REGEX "_root_test\\.cc$")
  set(net_tests ${tests})
  list(FILTER net_tests INCLUDE REGEX "_net_test\\.cc$")
  set(vm_tests ${tests})
  list(FILTER vm_tests INCLUDE REGEX "_vm_test\\.cc$")
  list(FILTER tests EXCLUDE REGEX "_(root|net|vm)_test\\.cc$")

  add_library(caisson_${name} STATIC ${sources})
  caisson_source_includes(caisson_${name} PUBLIC)
  # Several sources in one translation unit where the preset says so: most of a build is headers. The preset "dev" builds each alone.
  set_target_properties(caisson_${name} PROPERTIES UNITY_BUILD_BATCH_SIZE 8 UNITY_BUILD_CODE_BEFORE_INCLUDE "${A_UNITY_PRELUDE}")
  target_link_libraries(caisson_${name} PUBLIC ${A_LINK})
  if(CAISSON_TESTS)
    if(tests)
      caisson_test(${name}_test SOURCES ${tests} LABELS unit LINK caisson_${name} ${A_TEST_LINK})
    endif()
    if(net_tests)
      caisson_test(${name}_net_test SOURCES ${net_tests} LABELS net LINK caisson_${name} ${A_TEST_LINK})
    endif()
    if(vm_tests AND NOT CAISSON_SANITIZE STREQUAL "thread")
      caisson_test(${name}_vm_test SOURCES ${vm_tests} LABELS vm LINK caisson_${name} ${A_TEST_LINK})
      set_tests_properties(${CAISSON_TEST_PREFIX}${name}_vm_test PROPERTIES PROCESSORS 2 TIMEOUT 600)
    endif()
    if(root_tests)
      caisson_test(${name}_root_test SOURCES ${root_tests} LABELS root LINK caisson_${name} ${A_TEST_LINK})
    endif()
  endif()
endfunction()

function(caisson_test name)
  cmake_parse_arguments(A "" "" "SOURCES;LABELS;LINK" ${ARGN})
  add_executable(${name} ${A_SOURCES})
  caisson_source_includes(${name} PRIVATE)
  target_link_libraries(${name} PRIVATE ${A_LINK} GTest::gmock GTest::gtest_main)
  set_target_properties(${name} PROPERTIES UNITY_BUILD OFF)  # tests call their own things by the same short names
  if(CMAKE_BUILD_TYPE STREQUAL "Release")
    target_compile_options(${name} PRIVATE -O0 -U_FORTIFY_SOURCE)  # a third of their compile time, and nobody runs them twice
  endif()
  target_compile_definitions(${name} PRIVATE CAISSON_SOURCE_DIR="${CMAKE_SOURCE_DIR}"
                                             CAISSON_BINARY_DIR="${CMAKE_BINARY_DIR}")
  add_test(NAME ${CAISSON_TEST_PREFIX}${name} COMMAND ${name})
  set_tests_properties(${CAISSON_TEST_PREFIX}${name} PROPERTIES LABELS "${A_LABELS}" TIMEOUT 300)
endfunction()

function(caisson_executable name)
  cmake_parse_arguments(A "STATIC" "" "SOURCES;LINK" ${ARGN})
  add_executable(${name} ${A_SOURCES})
  caisson_source_includes(${name} PRIVATE)
  target_link_libraries(${name} PRIVATE ${A_LINK})
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
  if(A_STATIC AND NOT CAISSON_SANITIZE)
    # Not PIE: a fixed address leaves no relocated, hence private, pages; every pod has one of these.
    target_compile_options(${name} PRIVATE -fno-pie)
    target_link_options(${name} PRIVATE -static -no-pie)
  endif()
endfunction()

function(caisson_fuzzer name)
  cmake_parse_arguments(A "" "SOURCE" "LINK" ${ARGN})
  if(NOT CAISSON_FUZZERS)
    return()
  endif()
  add_executable(${name}_fuzz ${A_SOURCE})
  caisson_source_includes(${name}_fuzz PRIVATE)
  target_link_libraries(${name}_fuzz PRIVATE ${A_LINK})
  target_compile_options(${name}_fuzz PRIVATE -fsanitize=fuzzer)
  target_link_options(${name}_fuzz PRIVATE -fsanitize=fuzzer)
  set_target_properties(${name}_fuzz PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/fuzz)
  # A smoke run: long enough to meet what a change has broken, too short to search.
  add_test(NAME fuzz/${name} COMMAND ${name}_fuzz -seed=1 -runs=100000 -max_total_time=5 -timeout=10 -rss_limit_mb=2048)
  set_tests_properties(fuzz/${name} PROPERTIES LABELS fuzz TIMEOUT 120)
endfunction()
