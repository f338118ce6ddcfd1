# One target a folder (or a part of one); its DEPS are the architecture.
#   atoll_library(NAME SRCS a.cc b.cc DEPS x y)
#   atoll_binary(NAME SRCS main.cc DEPS x)
#   atoll_test(NAME SRCS x_test.cc DEPS x [LABELS l])      registers every TEST with CTest
#   atoll_fuzz(NAME SRCS x_fuzz.cc DEPS x)                 a libFuzzer target, part of the target `fuzz`
set(ATOLL_WARNINGS -Wall -Wextra -Werror -Wno-sign-compare -Wno-missing-field-initializers)
if(CMAKE_CXX_COMPILER_ID STREQUAL Clang)
  # Absl's annotations on local variables, and what libstdc++'s own std::stable_sort calls.
  list(APPEND ATOLL_WARNINGS -Wno-ignored-attributes -Wno-deprecated-declarations)
endif()
# Sums are written down, operation by operation: the compiler may not contract or reorder them.
set(ATOLL_FLAGS -ffp-contract=off -fno-math-errno)

function(_atoll_flags target)
  target_include_directories(${target} PUBLIC ${CMAKE_SOURCE_DIR})
  target_compile_options(${target} PRIVATE ${ATOLL_WARNINGS} ${ATOLL_FLAGS})
  if(ATOLL_SANITIZE)
    # The address sanitizer tells of null pointers and ends of objects too; the checks that come twice double compile times.
    target_compile_options(${target} PUBLIC -fsanitize=${ATOLL_SANITIZE} -fno-sanitize=null,object-size
                           -fno-omit-frame-pointer)
    # GCC's flow analysis loses its way in instrumented code.
    target_compile_options(${target} PRIVATE $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>)
    target_link_options(${target} PUBLIC -fsanitize=${ATOLL_SANITIZE})
  endif()
endfunction()

# What the thread sanitizer does not see by itself: part of every program built with it.
function(_atoll_tsan target)
  if(ATOLL_SANITIZE STREQUAL thread)
    target_link_libraries(${target} PRIVATE atl_tsan)
  endif()
endfunction()

function(atoll_library name)
  cmake_parse_arguments(A "" "" "SRCS;DEPS" ${ARGN})
  add_library(${name} STATIC ${A_SRCS})
  target_link_libraries(${name} PUBLIC ${A_DEPS})
  _atoll_flags(${name})
endfunction()

# Like a library, but every program that links it holds all of it.
function(atoll_objects name)
  cmake_parse_arguments(A "" "" "SRCS;DEPS" ${ARGN})
  add_library(${name} OBJECT ${A_SRCS})
  target_link_libraries(${name} PUBLIC ${A_DEPS})
  _atoll_flags(${name})
endfunction()

function(atoll_binary name)
  cmake_parse_arguments(A "" "" "SRCS;DEPS" ${ARGN})
  add_executable(${name} ${A_SRCS})
  target_link_libraries(${name} PRIVATE ${A_DEPS})
  _atoll_flags(${name})
  _atoll_tsan(${name})
endfunction()

function(atoll_test name)
  cmake_parse_arguments(A "" "" "SRCS;DEPS;LABELS" ${ARGN})
  add_executable(${name} ${A_SRCS})
  target_link_libraries(${name} PRIVATE ${A_DEPS} GTest::gmock GTest::gtest GTest::gtest_main)
  _atoll_flags(${name})
  _atoll_tsan(${name})
  if(ATOLL_SANITIZE)
    target_compile_options(${name} PRIVATE -O0)  # half the compile time; what they test is optimised
  endif()
  gtest_discover_tests(${name} DISCOVERY_TIMEOUT 60 WORKING_DIRECTORY ${CMAKE_SOURCE_DIR}
                       PROPERTIES TIMEOUT 600 LABELS "${A_LABELS}")
endfunction()

function(atoll_fuzz name)
  cmake_parse_arguments(A "" "" "SRCS;DEPS" ${ARGN})
  add_executable(${name} ${A_SRCS})
  target_link_libraries(${name} PRIVATE ${A_DEPS})
  _atoll_flags(${name})
  target_link_options(${name} PRIVATE -fsanitize=fuzzer)
  if(NOT TARGET fuzz)
    add_custom_target(fuzz)
  endif()
  add_dependencies(fuzz ${name})
endfunction()
