// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_BASE_OUTPUT_PLACE_H_
#define NFLOAT_BASE_OUTPUT_PLACE_H_

#include <string>
#include <vector>

#include "nfloat/files.h"

namespace nfloat {

// Where an output's name leads.
struct OutputPlace {
  enum class Kind {
    kFile,    // a regular file, or nothing yet: written beside it and renamed
    kFolder,  //
    kStream,  // a device, a pipe, a socket, a descriptor of this process: can only be written into
  };
  Kind kind = Kind::kFile;
  std::string path;  // with links resolved, also those that lead to nothing; of a stream: as given
  bool exists = false;
  int descriptor = -1;  // of this process, where the name stands for one
};

// Throws kIo naming `path` where links lead in a circle.
OutputPlace output_place(const std::string& path);

// What an output's name means: its path behind links, without a trailing slash. Throws kInvalidArgument for
// none.
std::string output_target(const std::string& output);

// As expect_outputs_apart(), for what goes nowhere into a folder that is read: its files go along with what
// is made of it.
void expect_checkpoint_apart(const std::string& output, const std::vector<NamedPath>& inputs);

}  // namespace nfloat

#endif  // NFLOAT_BASE_OUTPUT_PLACE_H_
