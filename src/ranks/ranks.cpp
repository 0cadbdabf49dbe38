// SPDX-License-Identifier: Apache-2.0
#include "nfloat/ranks.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
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
  place.local_rank = std::max(0, number_of("OMPI_COMM_WORLD_LOCAL_RANK", 0));
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

void Ranks::instruct(std::string& text) {
  // Most are whole in the first part, for which one exchange is enough.
  constexpr size_t kFirst = 1024;
  std::array<char, kFirst> first{};
  uint64_t length = text.size();
  const auto inside = [&] { return std::min<uint64_t>(length, kFirst - sizeof length); };
  std::memcpy(first.data(), &length, sizeof length);
  std::memcpy(first.data() + sizeof length, text.data(), inside());
  broadcast(first.data(), first.size(), 0, Patience::kAnyTime);
  std::memcpy(&length, first.data(), sizeof length);
  text.resize(length);
  std::memcpy(text.data(), first.data() + sizeof length, inside());
  if (length > inside()) broadcast(text.data() + inside(), length - inside());
}

std::string Ranks::failure() const {
  const std::lock_guard lock(mutex_);
  return failure_;
}

void Ranks::give_up(const std::string& why) noexcept {
  const std::lock_guard lock(mutex_);
  if (failure_.empty()) failure_ = why.empty() ? std::string("an error without a text") : why;
}

void Ranks::fail_waiting(std::span<const int> missing, double seconds) {
  std::vector<std::string> names;
  for (const int rank : missing) names.push_back(name(rank));
  give_up(fmt::format("{} {} not answered for {:g} s {}", fmt::join(names, " and "),
                      names.size() == 1 ? "has" : "have", seconds, place()));
  fail(ErrorCode::kIo, "{}", failure());
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
