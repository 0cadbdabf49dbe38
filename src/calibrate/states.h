// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CALIBRATE_STATES_H_
#define NFLOAT_CALIBRATE_STATES_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace nfloat {

// Rows of float32 in memory, or in a file without a name, which is gone when the process is. Moves; copied()
// copies.
class States {
 public:
  States() = default;
  // `folder`: of the file; empty: in memory. Throws kIo where the file cannot be made or there is no room.
  States(int64_t rows, int64_t width, const std::string& folder);

  // Rows [row, row + count), [count][width]. Throw kIo, naming the folder.
  void read(int64_t row, int64_t count, float* to) const;
  void write(int64_t row, int64_t count, const float* from);
  States copied() const;

 private:
  int64_t rows_ = 0, width_ = 0;
  std::string folder_;
  std::shared_ptr<const int> file_;  // its descriptor, or null
  std::vector<float> values_;        // without a file
};

}  // namespace nfloat

#endif  // NFLOAT_CALIBRATE_STATES_H_
