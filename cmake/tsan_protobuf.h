// Included first into everything that knows messages, in the thread sanitizer's build only.
// protobuf/map_field.h lays maps out differently under the sanitizer; the distribution's
// libprotobuf was built without it, so its layout is the one that holds.
#pragma once

#include <version>  // the standard library makes up its own mind about the sanitizer here

#pragma push_macro("__SANITIZE_THREAD__")
#undef __SANITIZE_THREAD__
#include <google/protobuf/map_field.h>
#pragma pop_macro("__SANITIZE_THREAD__")
