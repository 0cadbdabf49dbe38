// SPDX-License-Identifier: Apache-2.0
#include "nfloat/ranks.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <numeric>

#include "base/fail.h"

namespace nfloat {
namespace {

int number_of(const char* variable, int otherwise) noexcept {
  const char* text = std::getenv(variable);
  int number = otherwise;
  if (text != nullptr) std::from_chars(text, text + std::strlen(text), number);
  return number;
}

}  // namespace

RankPlace rank_place() noexcept {
  RankPlace place;
  place.count = number_of("OMPI_COMM_WORLD_SIZE", 1);
  place.rank = number_of("OMPI_COMM_WORLD_RANK", 0);
  place.local_count = std::max(1, number_of("OMPI_COMM_WORLD_LOCAL_SIZE", 1));
  if (place.count < 1 || place.rank < 0 || place.rank >= place.count) return {};
  return place;
}

Ranks::~Ranks() = default;

std::string Ranks::name(int rank) const {
  return fmt::format("rank {} on {}", rank, host(rank));
}

std::string Ranks::place() const {
  return what_ == nullptr ? "at the start"
         : number_ < 0    ? fmt::format("in {}", what_)
                          : fmt::format("in {} {}", what_, number_);
}

void Ranks::barrier() {
  const std::vector<size_t> sizes(static_cast<size_t>(count_), 1);
  std::vector<char> all(sizes.size());
  const char own = 0;
  gather(&own, sizes, all.data());
}

std::vector<std::string> Ranks::gather_texts(const std::string& own) {
  const auto count = static_cast<size_t>(count_);
  const std::vector<size_t> each(count, sizeof(uint64_t));
  std::vector<uint64_t> lengths(count);
  const uint64_t length = own.size();
  gather(&length, each, lengths.data());
  const std::vector<size_t> sizes(lengths.begin(), lengths.end());
  std::string all(std::accumulate(sizes.begin(), sizes.end(), size_t{0}), '\0');
  gather(own.data(), sizes, all.data());
  std::vector<std::string> texts;
  size_t at = 0;
  for (const size_t size : sizes) {
    texts.push_back(all.substr(at, size));
    at += size;
  }
  return texts;
}

void Ranks::broadcast_text(std::string& text, int from) {
  uint64_t length = text.size();
  broadcast(&length, sizeof length, from);
  text.resize(length);
  broadcast(text.data(), length, from);
}

void Ranks::fail_waiting(std::span<const int> missing, double seconds) const {
  std::vector<std::string> names;
  for (const int rank : missing) names.push_back(name(rank));
  fail(ErrorCode::kIo, "{} {} not answered for {:g} s {}", fmt::join(names, " and "),
       names.size() == 1 ? "has" : "have", seconds, place());
}

std::vector<int64_t> share_rows(int64_t rows, int64_t unit, std::span<const double> weights) {
  const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
  std::vector<int64_t> bounds{0};
  double sum = 0;
  for (const double weight : weights) {
    sum += weight;
    const double place = total > 0 ? static_cast<double>(rows) * (sum / total) : static_cast<double>(rows);
    const int64_t bound = std::llround(place / static_cast<double>(unit)) * unit;
    bounds.push_back(std::clamp(bound, bounds.back(), rows));
  }
  bounds.back() = rows;
  return bounds;
}

}  // namespace nfloat
