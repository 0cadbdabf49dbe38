// SPDX-License-Identifier: Apache-2.0
// node make_word_piece.mjs TEXT_FILE FOLDER: writes FOLDER/tokenizer.json, a BERT-like tokenizer whose vocabulary is the
// text's frequent words, their frequent beginnings and ends, and every character. No training: any vocabulary will do.
import fs from "node:fs";
import path from "node:path";

const [file, folder] = process.argv.slice(2);
const counts = new Map();
const count = (token, times) => counts.set(token, (counts.get(token) ?? 0) + times);
for (const word of fs.readFileSync(file, "utf8").toLowerCase().match(/\p{L}+|\p{N}|\p{P}/gu)) {
  const letters = [...word];
  for (let at = 0; at <= Math.min(letters.length, 8); ++at) {
    if (at > 0) count(letters.slice(0, at).join(""), 1);
    if (at < letters.length) count(`##${letters.slice(at).join("")}`, 1);
  }
  count(word, 3);
}
const special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];
const characters = [..."abcdefghijklmnopqrstuvwxyz0123456789"].flatMap((c) => [c, `##${c}`]);
const frequent = [...counts].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1)).slice(0, 4000);
const tokens = new Set([...special, ...characters, ..."日本中文", ...frequent.map(([token]) => token)]);
const vocab = Object.fromEntries([...tokens].map((token, id) => [token, id]));
const around = (name) => ({ SpecialToken: { id: name, type_id: 0 } });
const definition = {
  version: "1.0",
  truncation: null,
  padding: null,
  added_tokens: special.map((content, id) => ({ id, content, single_word: false, lstrip: content === "[MASK]", rstrip: false, normalized: false, special: true })),
  normalizer: { type: "BertNormalizer", clean_text: true, handle_chinese_chars: true, strip_accents: null, lowercase: true },
  pre_tokenizer: { type: "BertPreTokenizer" },
  post_processor: {
    type: "TemplateProcessing",
    single: [around("[CLS]"), { Sequence: { id: "A", type_id: 0 } }, around("[SEP]")],
    pair: [around("[CLS]"), { Sequence: { id: "A", type_id: 0 } }, around("[SEP]"), { Sequence: { id: "B", type_id: 1 } }, around("[SEP]")],
    special_tokens: Object.fromEntries(["[CLS]", "[SEP]"].map((id) => [id, { id, ids: [vocab[id]], tokens: [id] }])),
  },
  decoder: { type: "WordPiece", prefix: "##", cleanup: true },
  model: { type: "WordPiece", unk_token: "[UNK]", continuing_subword_prefix: "##", max_input_chars_per_word: 100, vocab },
};
fs.mkdirSync(folder, { recursive: true });
fs.writeFileSync(path.join(folder, "tokenizer.json"), JSON.stringify(definition));
