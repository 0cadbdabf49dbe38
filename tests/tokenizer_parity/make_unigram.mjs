// SPDX-License-Identifier: Apache-2.0
// node make_unigram.mjs UNIGRAM.model FOLDER: writes FOLDER/tokenizer.json, the SentencePiece Unigram model as Hugging
// Face's converters write it: pieces with scores, the precompiled character map, Metaspace.
import fs from "node:fs";
import path from "node:path";

const [file, folder] = process.argv.slice(2);

// The fields of a protocol buffer message: [number, value], bytes for texts, a number otherwise.
function* fields(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let at = 0;
  const varint = () => {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      const byte = bytes[at++];
      value += (byte & 127) * scale;
      if (byte < 128) return value;
    }
  };
  while (at < bytes.length) {
    const tag = varint();
    const kind = tag & 7;
    if (kind === 0) {
      yield [tag >> 3, varint()];
    } else if (kind === 2) {
      const size = varint();
      yield [tag >> 3, bytes.subarray(at, (at += size))];
    } else {
      yield [tag >> 3, kind === 5 ? view.getFloat32(at, true) : view.getFloat64(at, true)];
      at += kind === 5 ? 4 : 8;
    }
  }
}

const pieces = [];
let charsmap = new Uint8Array();
for (const [number, value] of fields(fs.readFileSync(file))) {
  if (number === 1) pieces.push(Object.fromEntries(fields(value)));
  if (number === 3) charsmap = Object.fromEntries(fields(value))[2] ?? charsmap;
}
const text = (piece) => Buffer.from(piece[1]).toString("utf8");
const kUnknown = 2;
const kControl = 3;
const isSpecial = (piece) => piece[3] === kUnknown || piece[3] === kControl;
const metaspace = { type: "Metaspace", replacement: "▁", prepend_scheme: "always", split: true };
const map = charsmap.length ? [{ type: "Precompiled", precompiled_charsmap: Buffer.from(charsmap).toString("base64") }] : [];
const end = pieces.findIndex((piece) => text(piece) === "</s>");
const definition = {
  version: "1.0",
  truncation: null,
  padding: null,
  added_tokens: pieces.flatMap((piece, id) =>
    isSpecial(piece) ? [{ id, content: text(piece), single_word: false, lstrip: false, rstrip: false, normalized: false, special: true }] : [],
  ),
  normalizer: { type: "Sequence", normalizers: [...map, { type: "Replace", pattern: { Regex: " {2,}" }, content: "▁" }] },
  pre_tokenizer: metaspace,
  post_processor: {
    type: "TemplateProcessing",
    single: [{ Sequence: { id: "A", type_id: 0 } }, { SpecialToken: { id: "</s>", type_id: 0 } }],
    pair: [{ Sequence: { id: "A", type_id: 0 } }, { Sequence: { id: "B", type_id: 0 } }],
    special_tokens: { "</s>": { id: "</s>", ids: [end], tokens: ["</s>"] } },
  },
  decoder: metaspace,
  model: { type: "Unigram", unk_id: pieces.findIndex((piece) => piece[3] === kUnknown), vocab: pieces.map((piece) => [text(piece), isSpecial(piece) ? 0 : piece[2]]), byte_fallback: false },
};
fs.mkdirSync(folder, { recursive: true });
fs.writeFileSync(path.join(folder, "tokenizer.json"), JSON.stringify(definition));
