// SPDX-License-Identifier: Apache-2.0
#include "evaluate/reference_file.h"

#include <atomic>
#include <cstddef>
#include <cstring>
#include <fstream>

#include "base/atomic_file.h"
#include "base/fail.h"
#include "base/fnv.h"
#include "base/output_place.h"
#include "base/parallel.h"
#include "evaluate/distribution.h"
#include "nfloat/sampler.h"

namespace nfloat {
namespace {

constexpr char kMagic[8] = {'n', 'f', 'l', 'o', 'a', 't', 'P', '2'};
constexpr size_t kKindBytes = 7;  // of them: the same in files of every version

// Little endian, as the machines this runs on are.
struct Header {
  char magic[8];
  uint64_t windows_hash;
  int64_t tokens;
  int64_t vocabulary;
  uint64_t identity_bytes;
};

// Before the codes of each token: log p = highest - code * step.
struct Record {
  double loss;
  float highest;
  float step;
  int32_t top;
  uint32_t check;  // of the rest of the record and its codes
};

// FNV-1a over words of 32 bits; `bytes` is a multiple of 8, `check` counts as 0.
uint32_t check_of(const std::byte* record, uint64_t bytes) noexcept {
  uint64_t hash = kFnvStart;
  for (uint64_t at = 0; at < bytes; at += 4) {
    uint32_t word = 0;
    if (at != offsetof(Record, check)) std::memcpy(&word, record + at, 4);
    hash = fnv_step(hash, word);
  }
  return static_cast<uint32_t>(hash ^ hash >> 32);
}

uint64_t record_bytes(int64_t vocabulary) noexcept {
  return (sizeof(Record) + 2 * static_cast<uint64_t>(vocabulary) + 7) / 8 * 8;
}

void encode(std::span<const float> logits, int32_t target, std::byte* output) noexcept {
  const auto [least, most] = std::minmax_element(logits.begin(), logits.end());
  Record record{};
  record.loss = -log_probability(logits, target);
  record.top = most_likely(logits);
  record.highest = static_cast<float>(log_probability(logits, record.top));
  // In double: finite logits can lie further apart than the largest float32.
  record.step = static_cast<float>((double{*most} - double{*least}) / 65535);
  std::memcpy(output, &record, sizeof record);
  const double inverse = record.step > 0 ? 1.0 / double{record.step} : 0.0;
  for (size_t i = 0; i < logits.size(); ++i) {
    const double steps = std::nearbyint((double{*most} - double{logits[i]}) * inverse);
    const auto code = static_cast<uint16_t>(steps > 0 ? std::min(steps, 65535.0) : 0.0);
    std::memcpy(output + sizeof record + 2 * i, &code, 2);
  }
  record.check = check_of(output, record_bytes(static_cast<int64_t>(logits.size())));
  std::memcpy(output, &record, sizeof record);
}

// Throws kAlreadyExists for a file that holds something else: weights, a text.
void expect_replaceable(const std::string& path) {
  const OutputPlace place = output_place(path);
  if (place.kind != OutputPlace::Kind::kFile || !place.exists) return;
  std::ifstream file(place.path, std::ios::binary);
  if (!file) fail(ErrorCode::kIo, "{}: cannot read", path);
  char start[kKindBytes];
  file.read(start, sizeof start);
  if (file.gcount() > 0 && std::memcmp(start, kMagic, static_cast<size_t>(file.gcount())) != 0)
    fail(ErrorCode::kAlreadyExists,
         "{}: exists already and is no file of reference distributions; only such are replaced", path);
}

}  // namespace

uint64_t ReferenceDistributions::file_bytes(int64_t tokens, int64_t vocabulary) noexcept {
  return sizeof(Header) + static_cast<uint64_t>(tokens) * record_bytes(vocabulary);
}

void ReferenceDistributions::write(const std::string& path, std::string_view identity, const Model& model,
                                   std::span<const int32_t> tokens, const PerplexityOptions& options) {
  const PerplexityOptions own = resolved(model, options);
  const std::vector<Window> windows = cut_windows(tokens, own);
  SequenceRunner runner(model, session_options(own));
  write_reference(path, identity, model.config().vocabulary, windows, rows_of(model, runner, windows), own);
}

void write_reference(const std::string& path, std::string_view identity, int64_t vocabulary,
                     std::span<const Window> windows, const RowSource& rows_of_model,
                     const PerplexityOptions& options) {
  const int64_t total = tokens_to_score(windows);
  Header header{{}, windows_hash(windows), total, vocabulary, identity.size()};
  std::memcpy(header.magic, kMagic, sizeof kMagic);
  expect_replaceable(path);
  AtomicFile file(path);
  file.append(std::as_bytes(std::span(&header, 1)));
  std::string padded(identity);
  padded.resize((padded.size() + 7) / 8 * 8);
  file.append(padded);
  const uint64_t bytes = record_bytes(vocabulary);
  std::vector<std::byte> block;
  LossMean mean;
  rows_of_model(
      [&](TokenRows& rows) {
        block.assign(rows.targets.size() * bytes, std::byte{0});
        parallel_for(static_cast<int64_t>(rows.targets.size()), 4, 0, [&](int64_t begin, int64_t end) {
          for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i)
            encode(rows.row(i), rows.targets[i], block.data() + i * bytes);
        });
        for (size_t i = 0; i < rows.targets.size(); ++i) {
          double loss;
          std::memcpy(&loss, block.data() + i * bytes, sizeof loss);
          mean.add(loss);
        }
        file.append(block);
      },
      [&](int64_t) {
        if (options.progress && mean.count() > 0) options.progress(mean.count(), total, mean.perplexity());
      });
  expect_replaceable(path);
  file.commit();
}

ReferenceDistributions::ReferenceDistributions(const std::string& path) : state_(std::make_unique<State>()) {
  state_->file = MappedFile(path);
  const std::span<const std::byte> bytes = state_->file.bytes();
  Header header{};
  if (bytes.size() < sizeof header)
    fail(ErrorCode::kMalformedFile, "{}: {} bytes are no file of reference distributions", path,
         bytes.size());
  std::memcpy(&header, bytes.data(), sizeof header);
  if (std::memcmp(header.magic, kMagic, sizeof kMagic) != 0)
    fail(ErrorCode::kMalformedFile, "{}: not a file of reference distributions", path);
  constexpr int64_t kMost = int64_t{1} << 31;
  if (header.tokens < 1 || header.tokens > kMost || header.vocabulary < 1 || header.vocabulary > kMost ||
      header.identity_bytes > (1 << 20) ||
      file_bytes(header.tokens, header.vocabulary) + (header.identity_bytes + 7) / 8 * 8 != bytes.size())
    fail(ErrorCode::kMalformedFile, "{}: {} bytes do not hold {} tokens of {} entries", path, bytes.size(),
         header.tokens, header.vocabulary);
  state_->windows_hash = header.windows_hash;
  state_->tokens = header.tokens;
  state_->vocabulary = header.vocabulary;
  state_->identity.assign(reinterpret_cast<const char*>(bytes.data()) + sizeof header, header.identity_bytes);
  state_->records = sizeof header + (header.identity_bytes + 7) / 8 * 8;
  std::atomic<int64_t> damaged{-1};
  const uint64_t size = record_bytes(header.vocabulary);
  parallel_for(header.tokens, 16, 0, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end && damaged < 0; ++i) {
      const std::byte* at = bytes.data() + state_->records + static_cast<uint64_t>(i) * size;
      Record record{};
      std::memcpy(&record, at, sizeof record);
      if (record.check != check_of(at, size)) damaged = i;
    }
  });
  if (damaged >= 0)
    fail(ErrorCode::kMalformedFile, "{}: what is kept of token {} is damaged", path, damaged.load());
}

ReferenceDistributions::ReferenceDistributions(ReferenceDistributions&&) noexcept = default;
ReferenceDistributions& ReferenceDistributions::operator=(ReferenceDistributions&&) noexcept = default;
ReferenceDistributions::~ReferenceDistributions() = default;

const std::string& ReferenceDistributions::identity() const noexcept {
  return state_->identity;
}
int64_t ReferenceDistributions::tokens() const noexcept {
  return state_->tokens;
}
int64_t ReferenceDistributions::vocabulary() const noexcept {
  return state_->vocabulary;
}

ReferenceDistributions::State::Token ReferenceDistributions::State::read(int64_t index,
                                                                         float* output) const noexcept {
  const std::byte* from =
      file.bytes().data() + records + static_cast<uint64_t>(index) * record_bytes(vocabulary);
  Record record{};
  std::memcpy(&record, from, sizeof record);
  const std::byte* codes = from + sizeof record;
  for (int64_t i = 0; i < vocabulary; ++i) {
    uint16_t code;
    std::memcpy(&code, codes + 2 * i, 2);
    output[i] = record.highest - static_cast<float>(code) * record.step;
  }
  return {record.loss, record.top};
}

}  // namespace nfloat
