// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_FILES_H_
#define NFLOAT_FILES_H_

#include <string>
#include <string_view>
#include <vector>

#include "nfloat/api.h"

namespace nfloat {

// Writes `text` to `path`. Links are followed. A regular file, or one that is not there yet, appears whole or
// not at all: it is written beside its name, synced and renamed, and keeps the permissions of the file that
// it replaces. Devices, pipes, sockets and open descriptors (/dev/stdout, /dev/fd/3) are written into and
// keep their kind. Throws kIo naming the path.
NFLOAT_API void write_output_file(const std::string& path, std::string_view text);

// Throws what write_output_file would, as far as this is known in advance: for a folder, or a place that is
// not writable.
NFLOAT_API void expect_writable_file(const std::string& path);

// A path and what the caller calls it, "--log"; without a name the path speaks for itself.
struct NamedPath {
  std::string path, name = {};
};

// For outputs that replace what has their name: throws kInvalidArgument where an output is an input or
// another output, lies in one or around one, under whatever name: links, hard ones too, count as what they
// lead to, and an input folder's links as parts of it. Of an input folder the files in it are read; a new
// file may lie there, and a picture (.html, .svg), distributions that nfloat wrote, what is in a sub-folder.
// Empty paths, - and what is written into (devices, pipes, open descriptors) pass. Throws kIo naming a path
// that cannot be looked at.
NFLOAT_API void expect_outputs_apart(const std::vector<NamedPath>& outputs,
                                     const std::vector<NamedPath>& inputs);

// For handlers of signals that end the process: removes what this process has begun to write and has not
// renamed yet. Async-signal-safe. Nothing can be written by the library afterwards.
NFLOAT_API void remove_unfinished_outputs() noexcept;

// For handlers of SIGBUS: the path of the mapped file that `address` lies in, null where there is none. A
// mapped file that another program has made shorter raises that signal where it is read. Async-signal-safe.
NFLOAT_API const char* mapped_file_at(const void* address) noexcept;

}  // namespace nfloat

#endif  // NFLOAT_FILES_H_
