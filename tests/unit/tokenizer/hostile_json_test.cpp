// SPDX-License-Identifier: Apache-2.0
// One named error for each way a tokenizer.json can lie.
#include "tokenizer_files.h"

namespace nfloat {
namespace {

constexpr ErrorCode kMalformed = ErrorCode::kMalformedFile;
constexpr ErrorCode kUnsupported = ErrorCode::kUnsupported;

// `path`: "/model/merges/1".
Json changed(const std::string& path, const Json& value) {
  Json file = llama_like_file();
  Json* place = &file;
  for (size_t begin = 1; begin <= path.size();) {
    const size_t end = std::min(path.find('/', begin), path.size());
    const std::string step = path.substr(begin, end - begin);
    place = place->is_array() ? &(*place)[std::stoul(step)] : &(*place)[step];
    begin = end + 1;
  }
  *place = value;
  return file;
}

TEST(HostileJson, IsRefusedAsText) {
  expect_refused("", kMalformed, "not valid JSON");
  expect_refused("{", kMalformed, "not valid JSON");
  expect_refused("[]", kMalformed, "expected an object");
  expect_refused("{}", kMalformed, "model is missing");
  expect_refused(std::string(1 << 20, '['), kMalformed, "nested deeper than 64");
  expect_refused("{\"model\":{\"vocab\":{\"\xFF\":0}}}", kMalformed, "not valid JSON");
  std::string many = "[";
  for (int i = 0; i < 7'000'000; ++i) many += "0,";
  expect_refused(many, kMalformed, "more than 6000000 JSON values");
}

TEST(HostileJson, NamesTheWrongPlace) {
  expect_refused(changed("/model/vocab", 7).dump(), kMalformed, "model.vocab is 7");
  expect_refused(changed("/model/vocab", Json::array({1})).dump(), kMalformed,
                 "model.vocab is an array of 1");
  expect_refused(changed("/model/vocab/h", -1).dump(), kMalformed, "model.vocab.h is -1");
  expect_refused(changed("/model/vocab/h", 1.5).dump(), kMalformed, "model.vocab.h is 1.5");
  expect_refused(changed("/model/vocab/h", 4'000'000'000u).dump(), kMalformed, "model.vocab.h is 4000000000");
  expect_refused(changed("/model/vocab/h", 5).dump(), kMalformed, "have the same id 5");
  expect_refused(changed("/model/merges/1", "▁ q").dump(), kMalformed, "\"q\" is not in the vocabulary");
  expect_refused(changed("/model/merges/1", "h e").dump(), kMalformed, "model.merges[1]: \"he\"");
  expect_refused(changed("/model/merges/2", "abc").dump(), kMalformed, "model.merges[2] is \"abc\"");
  expect_refused(changed("/model/merges/2", "a b c").dump(), kMalformed, "model.merges[2]");
  expect_refused(changed("/model/merges/0", Json::array({"a"})).dump(), kMalformed,
                 "model.merges[0] is an array of 1");
  expect_refused(changed("/model/merges", "x").dump(), kMalformed, "model.merges is \"x\"");
  expect_refused(changed("/model/unk_token", "nope").dump(), kMalformed, "model.unk_token is \"nope\"");
  expect_refused(changed("/model/byte_fallback", "yes").dump(), kMalformed, "expected true or false");
  expect_refused(changed("/added_tokens/0/id", -5).dump(), kMalformed, "added_tokens[0].id is -5");
  expect_refused(changed("/added_tokens/0/content", 3).dump(), kMalformed, "added_tokens[0].content is 3");
  expect_refused(changed("/added_tokens", 3).dump(), kMalformed, "added_tokens is 3");
  expect_refused(changed("/added_tokens/0/content", std::string(5000, 'x')).dump(), kMalformed, "4096");
  expect_refused(changed("/post_processor/special_tokens/<s>/ids/0", 1 << 20).dump(), kMalformed, "1048576");
  expect_refused(changed("/normalizer/normalizers/0/prepend", 1).dump(), kMalformed,
                 "normalizer.normalizers[0].prepend");
  expect_refused(changed("/normalizer/normalizers/1/pattern/String", "").dump(), kMalformed,
                 "pattern.String is \"\"");
  expect_refused(changed("/decoder/decoders/3/start", -1).dump(), kMalformed,
                 "decoder.decoders[3].start is -1");
}

TEST(HostileJson, NamesTheKindItLacks) {
  expect_refused(changed("/model/type", "Magic").dump(), kUnsupported, "models of the kind \"Magic\"");
  expect_refused(changed("/model/dropout", 0.1).dump(), kUnsupported, "dropout");
  expect_refused(changed("/normalizer/type", "Magic").dump(), kUnsupported,
                 "normalizers of the kind \"Magic\"");
  expect_refused(changed("/pre_tokenizer", {{"type", "Magic"}}).dump(), kUnsupported,
                 "pre-tokenizers of the kind \"Magic\"");
  expect_refused(changed("/decoder/type", "Magic").dump(), kUnsupported, "decoders of the kind \"Magic\"");
  expect_refused(changed("/post_processor/type", "Magic").dump(), kUnsupported,
                 "post-processors of the kind \"Magic\"");
  expect_refused(changed("/post_processor/single", Json::array()).dump(), kUnsupported, "text A once");
  const Json bad_regex = {{"type", "Split"}, {"pattern", {{"Regex", "(("}}}, {"behavior", "Isolated"}};
  expect_refused(changed("/pre_tokenizer", bad_regex).dump(), kUnsupported,
                 "pre_tokenizer.pattern.Regex: the expression");
}

TEST(HostileJson, AnExplodingExpressionEndsInAnError) {
  Json file = llama_like_file();
  file["pre_tokenizer"] = {
      {"type", "Split"}, {"pattern", {{"Regex", "(▁|h)*(▁|h)*(▁|h)*[^h▁]"}}}, {"behavior", "Isolated"}};
  EXPECT_THROW(load(file).encode(std::string(5000, 'h')), Error);
}

}  // namespace
}  // namespace nfloat
