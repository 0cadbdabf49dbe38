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

// For outputs that replace what has their name: throws kInvalidArgument naming one that is one of `inputs`
// (files and folders that are read), lies in one or holds one, links followed, and one that two of `outputs`
// lead to. Empty names, - and what is written into (pipes, devices) pass.
NFLOAT_API void expect_outputs_apart(const std::vector<std::string>& outputs,
                                     const std::vector<std::string>& inputs);

// For handlers of signals that end the process: removes what this process has begun to write and has not
// renamed yet. Async-signal-safe. Nothing can be written by the library afterwards.
NFLOAT_API void remove_unfinished_outputs() noexcept;

// For handlers of SIGBUS: the path of the mapped file that `address` lies in, null where there is none. A
// mapped file that another program has made shorter raises that signal where it is read. Async-signal-safe.
NFLOAT_API const char* mapped_file_at(const void* address) noexcept;

}  // namespace nfloat

#endif  // NFLOAT_FILES_H_
