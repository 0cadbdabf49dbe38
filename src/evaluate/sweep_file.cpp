// SPDX-License-Identifier: Apache-2.0
#include "evaluate/sweep_file.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <optional>

#include "base/atomic_file.h"
#include "base/checksum.h"
#include "base/fail.h"
#include "base/mapped_file.h"

namespace nfloat {
namespace {

constexpr std::string_view kSweepMagic = "nfloatS1";

// Little endian, as the machines this runs on are. Then the words that say what is there, spaces up to a
// multiple of 8, and the rows of each version.
struct SweepHeader {
  char magic[8];
  uint64_t hash;  // of everything behind the header
  uint64_t text_bytes;
};

// body(first row, rows) for all rows of a version in pieces of some MiB.
void over_pieces(const HiddenStates& states, const std::function<void(int64_t, int64_t)>& body) {
  const int64_t piece = std::max<int64_t>(1, (int64_t{4} << 20) / states.row_bytes());
  for (int64_t first = 0; first < states.rows(); first += piece)
    body(first, std::min(piece, states.rows() - first));
}

std::span<const std::byte> as_bytes(const HiddenStates& states, const float* rows, int64_t count) noexcept {
  return {reinterpret_cast<const std::byte*>(rows), static_cast<size_t>(count * states.row_bytes())};
}

struct KeptSweep {
  Json text;
  std::span<const std::byte> rows;
};

std::optional<KeptSweep> open_sweep(const MappedFile& file, std::string_view identity,
                                    const HiddenStates& states) {
  const std::span<const std::byte> bytes = file.bytes();
  SweepHeader header{};
  if (bytes.size() < sizeof header) return std::nullopt;
  std::memcpy(&header, bytes.data(), sizeof header);
  if (std::string_view(header.magic, sizeof header.magic) != kSweepMagic || header.text_bytes % 8 != 0 ||
      header.text_bytes > bytes.size() - sizeof header)
    return std::nullopt;
  Checksum hash;
  hash.add(bytes.subspan(sizeof header));
  if (hash.value() != header.hash) return std::nullopt;
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()) + sizeof header, header.text_bytes);
  KeptSweep kept{Json::parse(text), bytes.subspan(sizeof header + header.text_bytes)};
  const auto version_bytes = static_cast<uint64_t>(states.rows() * states.row_bytes());
  if (kept.text["of"] != identity || kept.text["rows"] != states.rows() ||
      kept.text["row_bytes"] != states.row_bytes() ||
      kept.rows.size() != kept.text["versions"].size() * version_bytes)
    return std::nullopt;
  return kept;
}

}  // namespace

void write_sweep(const std::string& path, std::string_view identity, const std::vector<SweepPlace>& places,
                 HiddenStates& states) {
  Json versions = Json::array();
  for (const SweepPlace& place : places)
    versions.push_back(
        {{"name", place.name}, {"layers", place.layers}, {"tokens", place.tokens}, {"found", place.found}});
  std::string text = Json({{"of", identity},
                           {"rows", states.rows()},
                           {"row_bytes", states.row_bytes()},
                           {"versions", versions}})
                         .dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  SweepHeader header{};
  kSweepMagic.copy(header.magic, sizeof header.magic);
  header.text_bytes = text.size();
  AtomicFile file(path);
  Checksum hash;
  const auto append = [&](std::span<const std::byte> bytes) {
    hash.add(bytes);
    file.append(bytes);
  };
  file.append(std::as_bytes(std::span(&header, 1)));
  append(std::as_bytes(std::span(text)));
  for (size_t version = 0; version < places.size(); ++version)
    over_pieces(states, [&](int64_t first, int64_t count) {
      append(as_bytes(states, states.open(static_cast<int64_t>(version), first, count), count));
    });
  header.hash = hash.value();
  file.write_at(0, std::as_bytes(std::span(&header, 1)));
  file.commit();
}

bool read_sweep(const std::string& path, std::string_view identity, std::vector<SweepPlace>& places,
                HiddenStates& states) {
  try {
    const MappedFile file(path);
    const std::optional<KeptSweep> kept = open_sweep(file, identity, states);
    if (!kept) return false;
    const Json& versions = kept->text["versions"];
    std::vector<size_t> from;
    std::vector<SweepPlace> found = places;
    for (SweepPlace& place : found) {
      size_t version = 0;
      while (version < versions.size() && versions[version]["name"] != place.name) ++version;
      if (version == versions.size()) return false;
      from.push_back(version);
      place.layers = versions[version]["layers"].get<int64_t>();
      place.tokens = versions[version]["tokens"].get<int64_t>();
      place.found = versions[version]["found"];
    }
    const auto version_bytes = static_cast<uint64_t>(states.rows() * states.row_bytes());
    for (size_t to = 0; to < found.size(); ++to)
      over_pieces(states, [&](int64_t first, int64_t count) {
        const auto bytes = static_cast<uint64_t>(count * states.row_bytes());
        std::memcpy(
            states.open(static_cast<int64_t>(to), first, count),
            kept->rows.data() + from[to] * version_bytes + static_cast<uint64_t>(first * states.row_bytes()),
            bytes);
        states.keep();
      });
    places = std::move(found);
    return true;
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kNotFound && error.code() != ErrorCode::kMalformedFile) throw;
    return false;
  }
}

}  // namespace nfloat
