// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TOOLS_STOP_FILTER_H_
#define NFLOAT_TOOLS_STOP_FILTER_H_

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

namespace nfloat::cli {

// Lets text through until one of the stop texts appears. What may be the beginning of one is held back until
// the next text decides.
class StopFilter {
 public:
  explicit StopFilter(std::vector<std::string> stops) : stops_(std::move(stops)) {
    std::erase(stops_, std::string());
  }

  // The text that may be shown now.
  std::string push(const std::string& text) {
    if (stopped_) return "";
    held_ += text;
    size_t found = std::string::npos;
    for (const std::string& stop : stops_) found = std::min(found, held_.find(stop));
    if (found != std::string::npos) {
      stopped_ = true;
      return std::exchange(held_, "").substr(0, found);
    }
    size_t keep = 0;
    for (const std::string& stop : stops_)
      for (size_t length = std::min(stop.size() - 1, held_.size()); length > keep; --length)
        if (held_.ends_with(std::string_view(stop).substr(0, length))) keep = length;
    std::string ready = held_.substr(0, held_.size() - keep);
    held_.erase(0, ready.size());
    return ready;
  }

  // What was held back, at the end of the text.
  std::string finish() { return stopped_ ? "" : std::exchange(held_, ""); }
  bool stopped() const noexcept { return stopped_; }

 private:
  std::vector<std::string> stops_;
  std::string held_;
  bool stopped_ = false;
};

}  // namespace nfloat::cli

#endif  // NFLOAT_TOOLS_STOP_FILTER_H_
