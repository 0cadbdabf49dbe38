// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_API_H_
#define NFLOAT_API_H_

// Marks what the library exports. (The only other macros of the public headers are those of version.h.)
#if defined(_WIN32) && defined(NFLOAT_SHARED)
#if defined(NFLOAT_BUILDING)
#define NFLOAT_API __declspec(dllexport)
#else
#define NFLOAT_API __declspec(dllimport)
#endif
#elif defined(__GNUC__)
#define NFLOAT_API __attribute__((visibility("default")))
#else
#define NFLOAT_API
#endif

#endif  // NFLOAT_API_H_
