// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CHECKPOINT_FINGERPRINT_H_
#define NFLOAT_CHECKPOINT_FINGERPRINT_H_

#include <string>

#include "nfloat/checkpoint.h"

namespace nfloat {

// Tells files of checkpoints apart, wherever they lie: by their names and sizes, config.json, and 257 samples
// of 4 KiB of each file, its beginning and its end among them. Throws kIo.
std::string files_fingerprint(const Checkpoint& checkpoint);

// Tells what is in them apart, whatever the files are called: by config.json and every byte. Reads all of
// them (base/checksum.h). Throws kIo.
std::string contents_fingerprint(const Checkpoint& checkpoint);

}  // namespace nfloat

#endif  // NFLOAT_CHECKPOINT_FINGERPRINT_H_
