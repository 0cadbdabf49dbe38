// SPDX-License-Identifier: Apache-2.0
// node compare.mjs PACKAGE TOKENIZER_FOLDER NFLOAT TEXT_FILE...
// Encodes the texts with the npm package @huggingface/tokenizers (installed at PACKAGE) and with `nfloat
// tokenize`, with and without special tokens, compares the ids, and checks nfloat's round trip. Prints one line
// a difference and one for the folder; the exit code is 1 when anything differs. Of a text longer than
// SAMPLE_CHARACTERS (0: no bound) parts spread evenly over it are taken.
import { spawnSync } from "node:child_process";
import fs from "node:fs";
import path from "node:path";
import { pathToFileURL } from "node:url";

const [packageFolder, folder, nfloat, ...files] = process.argv.slice(2);
const entry = path.join(packageFolder, "dist", "tokenizers.mjs");
const { Tokenizer } = await import(pathToFileURL(path.resolve(entry)).href);
const read = (file) => JSON.parse(fs.readFileSync(path.join(folder, file), "utf8"));
const config = fs.existsSync(path.join(folder, "tokenizer_config.json")) ? read("tokenizer_config.json") : {};
const definition = read("tokenizer.json");
const peer = new Tokenizer(definition, config);
// Two classes where the package differs from the Rust library that made the files, which nfloat follows: Digits
// knows ASCII digits only (Rust: all of \p{N}; " \u00bd" is cut there), and ByteLevel's \s is JavaScript's, with
// U+FEFF and without U+0085. AS_SHIPPED=1 compares with the package as it is.
const steps = peer.pre_tokenizer?.tokenizers ?? [peer.pre_tokenizer];
for (const [index, kind] of [definition.pre_tokenizer?.pretokenizers ?? [definition.pre_tokenizer]].flat().entries()) {
  if (process.env.AS_SHIPPED) break;
  if (kind?.type === "Digits") steps[index].pattern = kind.individual_digits ? /\P{N}+|\p{N}/gu : /\P{N}+|\p{N}+/gu;
  if (kind?.type === "ByteLevel")
    steps[index].pattern =
      /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\p{White_Space}\p{L}\p{N}]+|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+/gu;
}
// Transformers' LlamaTokenizer and LlamaTokenizerFast add what add_bos_token and add_eos_token say, whatever the
// post-processor of tokenizer.json does; the package knows only the latter.
const rebuilt = /^(Code)?LlamaTokenizer(Fast)?$/.test(config.tokenizer_class ?? "") && !process.env.AS_SHIPPED;
const idOf = (token) => peer.token_to_id(token?.content ?? token);
function withEnds(ids) {
  if (rebuilt && config.add_bos_token === true && ids[0] !== idOf(config.bos_token)) ids = [idOf(config.bos_token), ...ids];
  if (rebuilt && config.add_eos_token === true && ids.at(-1) !== idOf(config.eos_token)) ids = [...ids, idOf(config.eos_token)];
  return ids;
}
// It has no character maps but approximates the usual one, which is enough for texts as people write them.
const approximates = JSON.stringify(definition.normalizer ?? {}).includes('"Precompiled"');
// The slow part depends on the text alone: it is done once for a text, with and without special tokens.
const cut = peer.encode_text.bind(peer);
let last = { text: null, tokens: null };
peer.encode_text = (text) => {
  if (text === null) return null;
  if (text !== last.text) last = { text, tokens: cut(text) };
  return last.tokens;
};

// Paragraphs: the whole file at once is nfloat's own test, and minutes in JavaScript.
const kChunk = 4096;
const kMost = Number(process.env.SAMPLE_CHARACTERS ?? 0);
function chunks(text) {
  const parts = [];
  const count = Math.ceil(text.length / kChunk);
  const taken = kMost > 0 ? Math.min(count, Math.ceil(kMost / kChunk)) : count;
  let end = 0;
  for (let i = 0; i < taken; ++i) {
    const begin = boundary(text, Math.max(end, Math.floor((i * count) / taken) * kChunk));
    end = boundary(text, Math.min(text.length, begin + kChunk));
    if (begin < end) parts.push(text.slice(begin, end));
  }
  return parts;
}

// The next line's start when one is near, never inside a character.
function boundary(text, at) {
  if (at === 0 || at >= text.length) return Math.min(at, text.length);
  const line = text.indexOf("\n", at - 1);
  if (line >= 0 && line < at + kChunk / 2) return line + 1;
  return (text.charCodeAt(at - 1) & 0xfc00) === 0xd800 ? at + 1 : at;
}

function tokenize(lines, ...flags) {
  const run = spawnSync(nfloat, ["tokenize", folder, "--lines", ...flags], {
    input: lines.map((line) => JSON.stringify(line)).join("\n") + "\n",
    maxBuffer: 1 << 30,
  });
  if (run.status !== 0) throw new Error(`nfloat tokenize: ${run.stderr}`);
  return run.stdout.toString().trimEnd().split("\n").map((line) => JSON.parse(line));
}

// A normalizer rewrites the text: the round trip gives the rewritten one. Null: no text comes back from this one.
function rewriting(normalizer) {
  switch (normalizer?.type) {
    case undefined:
      return (text) => text;
    case "NFC":
      return (text) => text.normalize("NFC");
    case "Sequence":
      return normalizer.normalizers.length ? null : (text) => text;
    case "Replace": // spaces become visible, and visible ones spaces when decoding
      return normalizer.pattern.String === " " ? (text) => text.replaceAll(normalizer.content, " ") : null;
    default:
      return null;
  }
}
const normal = rewriting(definition.normalizer);

let tokens = 0;
let differences = 0;
let lossy = 0;
function differ(part, what, found, expected) {
  if (++differences > 20) return;
  console.log(`DIFFERENT ${folder} ${part.file} part ${part.index}: ${what}: ${found}, expected ${expected}`);
}
const parts = files.filter((file) => !approximates || !/(edge.lines|sources.text)$/.test(file)).flatMap((file) => {
  const text = fs.readFileSync(file, "utf8");
  const all = file.endsWith(".lines") ? text.split("\n").filter((line) => line).map((line) => JSON.parse(line)) : chunks(text);
  return all.map((text, index) => ({ file, index, text }));
});
const characters = parts.reduce((sum, part) => sum + part.text.length, 0);
const texts = parts.map((part) => part.text);
const ours = { special: tokenize(texts), plain: tokenize(texts, "--no-special") };
const round = tokenize(ours.plain);
parts.forEach((part, index) => {
  for (const kind of ["special", "plain"]) {
    const plain = peer.encode(part.text, { add_special_tokens: kind === "special" }).ids;
    const theirs = kind === "special" ? withEnds(plain) : plain;
    tokens += theirs.length;
    const found = ours[kind][index];
    const at = theirs.findIndex((id, i) => id !== found[i]);
    if (at < 0 && theirs.length === found.length) continue;
    const from = at < 0 ? theirs.length : at;
    const show = (ids) => JSON.stringify(ids.slice(from, from + 6).map((id) => [id, peer.id_to_token(id)]));
    differ(part, `ids from ${from} of ${JSON.stringify(part.text.slice(0, 60))}`, show(found), show(theirs));
  }
  if (normal === null || round[index] === normal(part.text)) return;
  // A vocabulary that lacks some bytes loses them: then the peer loses the same.
  const ids = peer.encode(part.text, { add_special_tokens: false }).ids;
  const back = ids.length ? peer.decode(ids, { clean_up_tokenization_spaces: false }) : "";
  if (round[index] === back) return ++lossy;
  differ(part, "round trip", JSON.stringify(round[index].slice(0, 80)), JSON.stringify(part.text.slice(0, 80)));
});
console.log(`${differences ? "DIFFERENT" : "same"} ${folder}: ${characters} characters, ${tokens} ids, ${differences} differences, ${normal ? "round trips checked" : "no round trip"}${lossy ? `, ${lossy} texts that this vocabulary cannot hold` : ""}`);
process.exit(differences ? 1 : 0);
