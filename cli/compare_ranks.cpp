// SPDX-License-Identifier: Apache-2.0
#include "compare_ranks.h"

#include <fmt/format.h>

#include <cmath>
#include <cstdlib>
#include <string_view>

#include "nfloat/error.h"

namespace nfloat::cli {

namespace {

// What a rank found: the perplexity of the plain model, then a line for each format.
std::string told(const Comparison& own) {
  std::string text = fmt::format("{:.17g}\n", own.reference.perplexity);
  for (const FormatMeasurement& found : own.measurements) text += measurement_json(found) + "\n";
  return text;
}

// That of rank 0, which always has one. Throws where another rank's is far from it.
void expect_same_model(const Ranks& ranks, const std::vector<std::string>& texts) {
  constexpr double kRounding = 1e-3;  // of instruction sets and numbers of threads, by far
  const auto perplexity = [&](size_t rank) { return std::strtod(texts[rank].c_str(), nullptr); };
  for (size_t rank = 1; rank < texts.size(); ++rank)
    if (!texts[rank].empty() && !(std::abs(perplexity(rank) / perplexity(0) - 1) < kRounding))
      throw Error(
          ErrorCode::kInvalidArgument,
          fmt::format("{} has other files than {}: the plain model's perplexity is {} there and {} here",
                      ranks.name(static_cast<int>(rank)), ranks.name(0), perplexity(rank), perplexity(0)));
}

}  // namespace

void measure_by_ranks(Ranks& ranks, const std::vector<std::string>& formats, CompareWork& work,
                      const std::function<Comparison(const std::vector<std::string>&)>& measure) {
  const auto count = static_cast<size_t>(ranks.count());
  std::vector<std::string> own;
  for (auto i = static_cast<size_t>(ranks.rank()); i < formats.size(); i += count) own.push_back(formats[i]);
  const std::string found = own.empty() ? std::string() : told(measure(own));
  ranks.at("the comparison", -1);
  const std::vector<std::string> all = ranks.gather_texts(found);
  expect_same_model(ranks, all);
  if (ranks.rank() == 0)
    for (const std::string& text : all)
      for (size_t at = text.find('\n'); at + 1 < text.size();) {
        const size_t end = text.find('\n', at + 1);
        const FormatMeasurement one = parse_measurement(std::string_view(text).substr(at + 1, end - at - 1));
        FormatMeasurement known;
        if (!work.find(one.name, known)) work.add(one);
        at = end;
      }
  ranks.barrier();  // what the others keep may go now
}

}  // namespace nfloat::cli
