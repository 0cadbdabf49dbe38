// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_NFLOAT_H_
#define NFLOAT_NFLOAT_H_

// The library for C, and for whatever calls C. nfloat_x does what nfloat::x does, nfloat_type_x what the
// member x of nfloat::Type does.
//
// Errors: a function that can fail returns a status and takes `error` last, which may be null. *error is null
// before the call; a failure makes one, which the caller frees. A failed call gives null handles. No
// exception passes. Ownership: whoever gets a handle calls its _free, which ignores null. An object keeps
// alive what it needs. "Borrowed" memory belongs to the object that gave it. Arguments are read during the
// call only, unless they are called borrowed. Threads: different objects are independent. Sessions and
// activations serve one thread at a time; the other objects never change and serve any number. Nothing
// belongs to a thread. Structs: those with struct_size want sizeof there; a zero in any other field is its
// default, named first. Bytes beyond struct_size are not touched; a longer struct is taken if the part
// unknown here is zero, else NFLOAT_UNSUPPORTED. Null options are all defaults. `threads` 0:
// nfloat_threads(). Text is UTF-8.

#include <stddef.h>
#include <stdint.h>

#include "nfloat/api.h"
#include "nfloat/version.h"

#ifdef __cplusplus
extern "C" {
#endif

// ---- library

NFLOAT_API const char* nfloat_version(void);  // of the library that is loaded: "0.1.0"
NFLOAT_API int32_t
nfloat_abi_version(void);                    // another than NFLOAT_ABI_VERSION: header and library do not fit
NFLOAT_API const char* nfloat_target(void);  // the kernels at work, such as "avx2"
NFLOAT_API const char* nfloat_processor(void);        // its name
NFLOAT_API int32_t nfloat_threads(void);              // where an option `threads` is 0
NFLOAT_API void nfloat_set_threads(int32_t threads);  // of the process, from the next call on; 0: as at first

// ---- errors

typedef int32_t nfloat_status;
enum {
  NFLOAT_OK = 0,
  NFLOAT_INVALID_ARGUMENT = 1,  // also a null pointer where one is needed
  NFLOAT_NOT_FOUND = 2,
  NFLOAT_ALREADY_EXISTS = 3,
  NFLOAT_IO = 4,
  NFLOAT_MALFORMED_FILE = 5,
  NFLOAT_UNSUPPORTED = 6,
  NFLOAT_NOT_FINITE = 7,
  NFLOAT_OUT_OF_MEMORY = 8,
  NFLOAT_INTERRUPTED = 9,  // by nfloat_control_cancel
  NFLOAT_INTERNAL = 255    // an exception that is none of the library's own: a bug
};
NFLOAT_API const char* nfloat_status_name(nfloat_status status);  // "not_found"; "unknown"

typedef struct nfloat_error nfloat_error;
NFLOAT_API nfloat_status nfloat_error_status(const nfloat_error* error);  // of null: NFLOAT_OK
NFLOAT_API const char* nfloat_error_message(const nfloat_error* error);   // borrowed; of null: ""
NFLOAT_API void nfloat_error_free(nfloat_error* error);

// ---- bytes

// What a call returned: text, JSON, token ids. Aligned to 64 bytes, and a zero byte follows.
typedef struct nfloat_buffer nfloat_buffer;
NFLOAT_API const void* nfloat_buffer_data(const nfloat_buffer* buffer);  // borrowed; of null: null
NFLOAT_API size_t nfloat_buffer_bytes(const nfloat_buffer* buffer);      // without the zero
NFLOAT_API void nfloat_buffer_free(nfloat_buffer* buffer);

// ---- long calls

// Lets any thread watch and end a long call. Where a call takes one, null means that nobody does.
typedef struct nfloat_control nfloat_control;
NFLOAT_API nfloat_control* nfloat_control_create(void);        // null: out of memory
NFLOAT_API void nfloat_control_free(nfloat_control* control);  // when no call uses it
// The call ends with NFLOAT_INTERRUPTED, and so does every later one until _reset. May be used in a signal
// handler.
NFLOAT_API void nfloat_control_cancel(nfloat_control* control);
NFLOAT_API void nfloat_control_reset(nfloat_control* control);
// Calls `function`. Whatever this thread calls in it and takes no control (quantize, dequantize, convert
// elements, pack, products, encode, decode, save tensors, analyze) ends with NFLOAT_INTERRUPTED some
// milliseconds after `control` is cancelled; memory that such a call was to write is then written in part.
// Where one is inside another, the inner control counts.
NFLOAT_API void nfloat_control_call(nfloat_control* control, void (*function)(void* user), void* user);
// In the unit that the call names; total 0: not known yet. done or total may be null.
NFLOAT_API void nfloat_control_progress(const nfloat_control* control, uint64_t* done, uint64_t* total);
// Called during the call, from one thread at a time. Must return; to end the call it cancels.
typedef void (*nfloat_progress_function)(void* user, uint64_t done, uint64_t total);
NFLOAT_API void nfloat_control_set_function(nfloat_control* control, nfloat_progress_function function,
                                            void* user);

// ---- tensors

typedef int32_t nfloat_dtype;
enum {
  NFLOAT_F64 = 1,
  NFLOAT_F32 = 2,
  NFLOAT_F16 = 3,
  NFLOAT_BF16 = 4,
  NFLOAT_I64 = 5,
  NFLOAT_I32 = 6,
  NFLOAT_I16 = 7,
  NFLOAT_I8 = 8,
  NFLOAT_U64 = 9,
  NFLOAT_U32 = 10,
  NFLOAT_U16 = 11,
  NFLOAT_U8 = 12,
  NFLOAT_BOOL = 13,
  NFLOAT_F8E4M3 = 14,
  NFLOAT_F8E5M2 = 15
};
NFLOAT_API size_t nfloat_dtype_bytes(nfloat_dtype dtype);      // 0 for other numbers
NFLOAT_API const char* nfloat_dtype_name(nfloat_dtype dtype);  // "bfloat16"; "" for other numbers
NFLOAT_API nfloat_dtype nfloat_parse_dtype(const char* name);  // "bfloat16", "bf16", "BF16"; 0: not known

enum { NFLOAT_MAX_RANK = 8 };

// Row-major and contiguous, the outermost dimension first; rank 0 is one element. Aligned to the dtype,
// except what checkpoints give, which may lie anywhere.
typedef struct nfloat_tensor {
  const void* data;
  nfloat_dtype dtype;
  int32_t rank;
  int64_t shape[8];
} nfloat_tensor;

// Among F64, F32, F16 and BF16, to nearest even. output_bytes: exactly those of the elements.
NFLOAT_API nfloat_status nfloat_convert_elements(const nfloat_tensor* tensor, nfloat_dtype dtype,
                                                 void* output, size_t output_bytes, nfloat_error** error);

// ---- codebooks

typedef struct nfloat_codebook nfloat_codebook;
NFLOAT_API nfloat_status nfloat_make_codebook(const char* name, int64_t block_size,  // block_size 0: 64
                                              nfloat_codebook** codebook, nfloat_error** error);
NFLOAT_API nfloat_status nfloat_make_normal_float(int32_t bits, double offset,  // offset 0: 929/960
                                                  nfloat_codebook** codebook, nfloat_error** error);
NFLOAT_API nfloat_status nfloat_codebook_from_levels(const char* name, const double* levels, size_t count,
                                                     nfloat_codebook** codebook, nfloat_error** error);
NFLOAT_API nfloat_status nfloat_load_codebook(const char* path, nfloat_codebook** codebook,
                                              nfloat_error** error);
NFLOAT_API void nfloat_codebook_free(nfloat_codebook* codebook);
// Borrowed. Of a null codebook: null, 0.
NFLOAT_API const char* nfloat_codebook_name(const nfloat_codebook* codebook);
NFLOAT_API size_t nfloat_codebook_size(const nfloat_codebook* codebook);              // levels
NFLOAT_API const float* nfloat_codebook_levels(const nfloat_codebook* codebook);      // by code
NFLOAT_API const double* nfloat_codebook_exact(const nfloat_codebook* codebook);      // by code
NFLOAT_API const float* nfloat_codebook_thresholds(const nfloat_codebook* codebook);  // size - 1, ascending
NFLOAT_API const uint8_t* nfloat_codebook_code_of_rank(
    const nfloat_codebook* codebook);                                              // by rank of the level
NFLOAT_API int32_t nfloat_codebook_signed_scale(const nfloat_codebook* codebook);  // 0 or 1
NFLOAT_API nfloat_status nfloat_codebook_names(nfloat_buffer** json,
                                               nfloat_error** error);  // [{"name", "summary", "fitted"}]

typedef struct nfloat_codebook_error_result {
  size_t struct_size;
  double mse;      // over the variance of the weights
  double mae;      // over their standard deviation
  double entropy;  // of the codes, in bits
} nfloat_codebook_error_result;
// source: null for "normal", "laplace", "student-t:5".
NFLOAT_API nfloat_status nfloat_codebook_errors(const nfloat_codebook* codebook, int64_t block_size,
                                                const char* source, nfloat_codebook_error_result* result,
                                                nfloat_error** error);

// ---- quantize

typedef int32_t nfloat_scale_method;
enum { NFLOAT_SCALE_ABSMAX = 0, NFLOAT_SCALE_SEARCH = 1, NFLOAT_SCALE_SIGNED = 2 };

typedef struct nfloat_quantize_options {
  size_t struct_size;
  int64_t block_size;  // 64; at least 16
  nfloat_scale_method scale;
  int32_t double_quantization;  // 0 or 1: scales in 8 bits
  int32_t allow_nonfinite;      // 0 or 1
  int32_t threads;
} nfloat_quantize_options;

// A 4-bit tensor as bitsandbytes lays it out, borrowed. Element i has its code in codes[i / 2], the high
// nibble when i is even, and the scale of block i / block_size. Its value is levels[code] * scale. The scale
// of block b is scales[b]; nested: nested_map[nested_codes[b]] * nested_absmax[b / nested_block_size] +
// nested_offset. In float32, each step rounded. The floats may be unaligned.
typedef struct nfloat_quantized_view {
  size_t struct_size;
  nfloat_dtype dtype;  // of the weights
  int32_t rank;
  int64_t shape[8];
  int64_t block_size;
  const uint8_t* codes;  // (elements + 1) / 2
  const float* levels;
  int32_t level_count;  // 1 to 16
  int32_t nested;       // 0 or 1
  const float* scales;  // one a block; null when nested
  const uint8_t* nested_codes;
  const float* nested_absmax;
  const float* nested_map;  // 256
  int64_t nested_block_size;
  float nested_offset;
  char quant_type[12];  // "nf4", "fp4"; "" for a table that bitsandbytes does not have
} nfloat_quantized_view;

typedef struct nfloat_quantized_tensor nfloat_quantized_tensor;
// weights: F32, F16 or BF16 of any shape. The bytes depend on neither target nor threads.
NFLOAT_API nfloat_status nfloat_quantize_blockwise(const nfloat_tensor* weights,
                                                   const nfloat_codebook* codebook,
                                                   const nfloat_quantize_options* options,
                                                   nfloat_quantized_tensor** tensor, nfloat_error** error);
// Into the caller's memory, sizes exact: one scale a block; with double_quantization scales is null, and
// there are one nested code a block, one nested absmax for 256 blocks (rounded up) and *nested_offset.
NFLOAT_API nfloat_status nfloat_quantize_blockwise_into(
    const nfloat_tensor* weights, const nfloat_codebook* codebook, const nfloat_quantize_options* options,
    uint8_t* codes, size_t codes_bytes, float* scales, size_t scale_count, uint8_t* nested_codes,
    size_t nested_count, float* nested_absmax, size_t nested_absmax_count, float* nested_offset,
    nfloat_error** error);
NFLOAT_API void nfloat_quantized_tensor_free(nfloat_quantized_tensor* tensor);
// The caller sets view->struct_size. Borrowed from the tensor.
NFLOAT_API nfloat_status nfloat_quantized_tensor_view(const nfloat_quantized_tensor* tensor,
                                                      nfloat_quantized_view* view, nfloat_error** error);
// To F32, F16 or BF16, rounded once. output_bytes: exactly those of the elements.
NFLOAT_API nfloat_status nfloat_dequantize_blockwise(const nfloat_quantized_view* view, nfloat_dtype dtype,
                                                     void* output, size_t output_bytes, int32_t threads,
                                                     nfloat_error** error);

// The JSON of bitsandbytes' quant_state, byte for byte. NFLOAT_UNSUPPORTED: quant_type is "".
NFLOAT_API nfloat_status nfloat_format_quant_state(const nfloat_quantized_view* view, nfloat_buffer** json,
                                                   nfloat_error** error);
// Sets everything of the view but the pointers to data; of those, levels, which stays for good.
NFLOAT_API nfloat_status nfloat_parse_quant_state(const char* json, size_t json_bytes,
                                                  nfloat_quantized_view* view, nfloat_error** error);

// ---- linear

typedef int32_t nfloat_precision;
enum {
  NFLOAT_PRECISION_DEFAULT = 0,
  NFLOAT_PRECISION_F32 = 1,
  NFLOAT_PRECISION_BF16 = 2,
  NFLOAT_PRECISION_INT8 = 3
};

typedef struct nfloat_packed_matrix nfloat_packed_matrix;
// A copy of a view of rank 2, [out, in], laid out for the kernels.
NFLOAT_API nfloat_status nfloat_packed_matrix_pack(const nfloat_quantized_view* view, int32_t threads,
                                                   nfloat_packed_matrix** matrix, nfloat_error** error);
NFLOAT_API void nfloat_packed_matrix_free(nfloat_packed_matrix* matrix);
NFLOAT_API int64_t nfloat_packed_matrix_rows(const nfloat_packed_matrix* matrix);
NFLOAT_API int64_t nfloat_packed_matrix_cols(const nfloat_packed_matrix* matrix);
NFLOAT_API uint64_t nfloat_packed_matrix_bytes(const nfloat_packed_matrix* matrix);  // of memory
NFLOAT_API nfloat_status nfloat_packed_matrix_dequantize_row(const nfloat_packed_matrix* matrix, int64_t row,
                                                             float* output, size_t count,
                                                             nfloat_error** error);

// The codes of the view that it was packed from, (elements + 1) / 2 bytes: nothing is lost.
NFLOAT_API nfloat_status nfloat_packed_matrix_unpack(const nfloat_packed_matrix* matrix, uint8_t* codes,
                                                     size_t codes_bytes, nfloat_error** error);

typedef struct nfloat_activations nfloat_activations;
NFLOAT_API nfloat_activations* nfloat_activations_create(void);  // null: out of memory
NFLOAT_API void nfloat_activations_free(nfloat_activations* activations);
// x: F32, F16 or BF16, [..., k], all but the last dimension counting rows. Borrowed until the next assign or
// free.
NFLOAT_API nfloat_status nfloat_activations_assign(nfloat_activations* activations, const nfloat_tensor* x,
                                                   nfloat_error** error);

typedef struct nfloat_linear_options {
  size_t struct_size;
  nfloat_precision precision;  // bf16
  int32_t threads;
  const float* bias;    // one a row of the matrix; null: none
  nfloat_dtype output;  // F32; F16 and BF16 are rounded once
  int32_t reserved;     // 0
} nfloat_linear_options;
// y[m, out] = x[m, in] * transpose of the matrix + bias, whatever the number of threads. y_bytes: exact.
NFLOAT_API nfloat_status nfloat_linear(const nfloat_packed_matrix* matrix, nfloat_activations* x,
                                       const nfloat_linear_options* options, void* y, size_t y_bytes,
                                       nfloat_error** error);
// y[m, in] = x[m, out] * the matrix: what reaches the inputs of nfloat_linear from gradients of its outputs.
// bias is null. INT8 is as BF16 here; up to four rows are computed as F32.
NFLOAT_API nfloat_status nfloat_linear_transposed(const nfloat_packed_matrix* matrix, nfloat_activations* x,
                                                  const nfloat_linear_options* options, void* y,
                                                  size_t y_bytes, nfloat_error** error);

// ---- checkpoints

typedef struct nfloat_checkpoint nfloat_checkpoint;
typedef struct nfloat_checkpoint_options {
  size_t struct_size;
  nfloat_dtype decoded;  // BF16; F32, F16: of weights that a file holds in blocks
  int32_t packed;        // 0 or 1: 4-bit blocks are shown as quantized
} nfloat_checkpoint_options;
// A folder, a .safetensors file or a GGUF file, mapped.
NFLOAT_API nfloat_status nfloat_checkpoint_open(const char* path, const nfloat_checkpoint_options* options,
                                                nfloat_checkpoint** checkpoint, nfloat_error** error);
NFLOAT_API void nfloat_checkpoint_free(nfloat_checkpoint* checkpoint);  // ends what was borrowed

typedef struct nfloat_tensor_info {
  size_t struct_size;
  const char* name;    // borrowed
  nfloat_dtype dtype;  // 0: one that this header has no number for
  int32_t rank;
  int64_t shape[8];
  uint64_t bytes;
  uint64_t offset;    // in its file
  size_t file;        // by number
  int32_t quantized;  // 1: the codes of a 4-bit weight
  int32_t companion;  // 1: a part of a 4-bit weight
} nfloat_tensor_info;
NFLOAT_API size_t nfloat_checkpoint_tensors(const nfloat_checkpoint* checkpoint);  // how many
NFLOAT_API nfloat_status nfloat_checkpoint_tensor_info(const nfloat_checkpoint* checkpoint, size_t index,
                                                       nfloat_tensor_info* info, nfloat_error** error);
// Borrowed from the checkpoint, at any address.
NFLOAT_API nfloat_status nfloat_checkpoint_view(const nfloat_checkpoint* checkpoint, const char* name,
                                                nfloat_tensor* view, nfloat_error** error);
NFLOAT_API nfloat_status nfloat_checkpoint_quantized(const nfloat_checkpoint* checkpoint, const char* name,
                                                     nfloat_quantized_view* view, nfloat_error** error);
// JSON, as `nfloat inspect --json`; for a GGUF file its metadata and tensors.
NFLOAT_API nfloat_status nfloat_checkpoint_describe(const nfloat_checkpoint* checkpoint, nfloat_buffer** json,
                                                    nfloat_error** error);
// The same with "sound" and "findings", as `nfloat inspect --check --json`. Faults are findings and no
// failure of the call. Progress in bytes.
NFLOAT_API nfloat_status nfloat_check_checkpoint(const nfloat_checkpoint* checkpoint, nfloat_control* control,
                                                 nfloat_buffer** json, nfloat_error** error);
// The same with "total", "total_of_inexact" and "errors", worst first, as `nfloat inspect --against --json`.
// NFLOAT_MALFORMED_FILE: names or shapes differ. Progress in bytes.
NFLOAT_API nfloat_status nfloat_compare_checkpoints(const nfloat_checkpoint* checkpoint,
                                                    const nfloat_checkpoint* original,
                                                    nfloat_control* control, nfloat_buffer** json,
                                                    nfloat_error** error);
// A text file of the folder. NFLOAT_NOT_FOUND: there is none.
NFLOAT_API nfloat_status nfloat_checkpoint_text_file(const nfloat_checkpoint* checkpoint, const char* name,
                                                     nfloat_buffer** text, nfloat_error** error);
// Where the Hugging Face cache of this machine has org/model; a path that exists stays as it is.
NFLOAT_API nfloat_status nfloat_resolve_model_path(const char* path, nfloat_buffer** resolved,
                                                   nfloat_error** error);

// ---- conversion
//
// The output is a folder when the input is one or a GGUF file, else a file. It appears whole or not at all;
// NFLOAT_ALREADY_EXISTS without `overwrite`. json may be null. Progress in bytes of the input.

typedef struct nfloat_quantize_checkpoint_options {
  size_t struct_size;
  const char* format;                       // "nf4"; "fp4"
  const nfloat_quantize_options* quantize;  // its threads count for the whole call
  nfloat_dtype storage;                     // U8; BF16, F16 and F32 hold the same bytes
  int32_t quantize_experts;                 // 0 or 1: 3-D expert weights too
  const char* const* skip;                  // regular expressions searched in names: these tensors stay plain
  size_t skip_count;
  const char* const* only;  // all others stay plain
  size_t only_count;
  uint64_t shard_bytes;  // 5000000000
  int32_t overwrite;     // 0 or 1
  int32_t reserved;      // 0
} nfloat_quantize_checkpoint_options;
// JSON: as `nfloat quantize --dry-run --json`.
NFLOAT_API nfloat_status nfloat_plan_quantization(const nfloat_checkpoint* input,
                                                  const nfloat_quantize_checkpoint_options* options,
                                                  nfloat_buffer** json, nfloat_error** error);
// To 4 bits, as bitsandbytes lays them out. JSON: as `nfloat quantize --json`.
NFLOAT_API nfloat_status nfloat_quantize_checkpoint(const nfloat_checkpoint* input, const char* output,
                                                    const nfloat_quantize_checkpoint_options* options,
                                                    nfloat_control* control, nfloat_buffer** json,
                                                    nfloat_error** error);

// The input of these three is read from its files again; what they hold in blocks is decoded to float32.
typedef struct nfloat_convert_options {
  size_t struct_size;
  const char* type;     // of the matrices: null as they are; "bfloat16", "float16", "float32"; of GGUF files
                        // also "q8_0", "q4_k", ...
  const char* lora;     // folder of an adapter to add; null: none
  int32_t keep_packed;  // 0 or 1: 4-bit weights stay 4-bit (nfloat_write_folder)
  nfloat_scale_method scale;  // of 4-bit weights that the adapter changes
  uint64_t part_bytes;        // 0: one GGUF file, shards of 5 GB
  int32_t check;              // 0 or 1: the result is read again and compared
  int32_t overwrite;          // 0 or 1
  int32_t threads;
  int32_t reserved;  // 0
} nfloat_convert_options;
// 4-bit weights become plain ones, BF16 unless `type` says otherwise. lora, keep_packed, scale and check are
// not for this call. JSON: as `nfloat dequantize --json`.
NFLOAT_API nfloat_status nfloat_dequantize_checkpoint(const nfloat_checkpoint* input, const char* output,
                                                      const nfloat_convert_options* options,
                                                      nfloat_control* control, nfloat_buffer** json,
                                                      nfloat_error** error);
// A file that llama.cpp runs; output ends in ".gguf". JSON of this and the next: as `nfloat convert --json`.
NFLOAT_API nfloat_status nfloat_write_gguf(const nfloat_checkpoint* input, const char* output,
                                           const nfloat_convert_options* options, nfloat_control* control,
                                           nfloat_buffer** json, nfloat_error** error);
// A Hugging Face folder.
NFLOAT_API nfloat_status nfloat_write_folder(const nfloat_checkpoint* input, const char* output,
                                             const nfloat_convert_options* options, nfloat_control* control,
                                             nfloat_buffer** json, nfloat_error** error);
// `count` tensors into one .safetensors file, whole or not at all.
NFLOAT_API nfloat_status nfloat_save_tensors(const char* path, const char* const* names,
                                             const nfloat_tensor* tensors, size_t count, int32_t overwrite,
                                             nfloat_error** error);

// ---- tokenizer, chat templates

typedef struct nfloat_tokenizer nfloat_tokenizer;
NFLOAT_API nfloat_status nfloat_tokenizer_load(const char* path, nfloat_tokenizer** tokenizer,
                                               nfloat_error** error);
NFLOAT_API void nfloat_tokenizer_free(nfloat_tokenizer* tokenizer);
NFLOAT_API int32_t nfloat_tokenizer_vocab_size(const nfloat_tokenizer* tokenizer);
// -1: there is none.
NFLOAT_API int32_t nfloat_tokenizer_bos_id(const nfloat_tokenizer* tokenizer);
NFLOAT_API int32_t nfloat_tokenizer_eos_id(const nfloat_tokenizer* tokenizer);
NFLOAT_API int32_t nfloat_tokenizer_token_id(const nfloat_tokenizer* tokenizer, const char* text);
enum {
  NFLOAT_ENCODE_NO_SPECIAL_TOKENS = 1,  // none are added around the text
  NFLOAT_ENCODE_PLAIN = 2               // what spells a special token is plain text
};
// tokens: int32_t, nfloat_buffer_bytes / 4 of them.
NFLOAT_API nfloat_status nfloat_tokenizer_encode(const nfloat_tokenizer* tokenizer, const char* text,
                                                 size_t text_bytes, uint32_t flags, nfloat_buffer** tokens,
                                                 nfloat_error** error);
NFLOAT_API nfloat_status nfloat_tokenizer_decode(const nfloat_tokenizer* tokenizer, const int32_t* tokens,
                                                 size_t count, int32_t skip_special_tokens,
                                                 nfloat_buffer** text, nfloat_error** error);
// The bytes that a token adds to a text that has begun; they may end inside a character.
NFLOAT_API nfloat_status nfloat_tokenizer_token_bytes(const nfloat_tokenizer* tokenizer, int32_t token,
                                                      nfloat_buffer** bytes, nfloat_error** error);

typedef struct nfloat_chat_template nfloat_chat_template;
// name null: "default". NFLOAT_NOT_FOUND: the folder has none of that name.
NFLOAT_API nfloat_status nfloat_chat_template_load(const char* folder, const char* name,
                                                   nfloat_chat_template** chat, nfloat_error** error);
NFLOAT_API nfloat_status nfloat_chat_template_parse(const char* text, size_t text_bytes,
                                                    nfloat_chat_template** chat, nfloat_error** error);
NFLOAT_API void nfloat_chat_template_free(nfloat_chat_template* chat);
// variables: a JSON object such as {"messages": [...], "add_generation_prompt": true}.
NFLOAT_API nfloat_status nfloat_chat_template_render(const nfloat_chat_template* chat, const char* variables,
                                                     size_t variables_bytes, nfloat_buffer** text,
                                                     nfloat_error** error);

// ---- models

typedef int32_t nfloat_kv_cache_type;
enum { NFLOAT_KV_CACHE_AUTO = 0, NFLOAT_KV_CACHE_F32 = 1, NFLOAT_KV_CACHE_F16 = 2, NFLOAT_KV_CACHE_INT8 = 3 };
typedef int32_t nfloat_head_format;
enum { NFLOAT_HEAD_KEEP = 0, NFLOAT_HEAD_INT8 = 1, NFLOAT_HEAD_NF4 = 2 };

typedef struct nfloat_model_options {
  size_t struct_size;
  const nfloat_codebook* codebook;  // null: weights stay; else plain projections are quantized while loading
  const nfloat_quantize_options*
      quantize;  // block_size and double_quantization; others must be at their defaults
  nfloat_head_format head;
  nfloat_precision precision;  // bf16; of sessions that say nothing else
  int32_t threads;
  int32_t reserved;  // 0
  // null: what NFLOAT_DEVICE names, else "cpu"; "cuda" or "cuda:N": an NVIDIA card; "vulkan" or "vulkan:N": a
  // card by its Vulkan driver, which computes every product in float32; "auto": the first card, else the CPU.
  // NFLOAT_NOT_FOUND names those there are.
  const char* device;
} nfloat_model_options;

typedef struct nfloat_model nfloat_model;
// A folder, a GGUF file, or org/model of the local Hugging Face cache. Progress in bytes.
NFLOAT_API nfloat_status nfloat_model_load(const char* path, const nfloat_model_options* options,
                                           nfloat_control* control, nfloat_model** model,
                                           nfloat_error** error);
NFLOAT_API void nfloat_model_free(nfloat_model* model);
NFLOAT_API int64_t nfloat_model_vocabulary(const nfloat_model* model);  // logits a token
NFLOAT_API int64_t nfloat_model_context(const nfloat_model* model);     // most positions
// JSON: path, vocabulary, context, precision, threads, device, bytes of memory, config.json.
NFLOAT_API nfloat_status nfloat_model_describe(const nfloat_model* model, nfloat_buffer** json,
                                               nfloat_error** error);

typedef struct nfloat_session_options {
  size_t struct_size;
  int64_t context;  // 0: the model's; positions to keep room for
  nfloat_kv_cache_type kv_cache;
  nfloat_precision precision;  // the model's
  int32_t threads;             // 0: the model's
  int32_t reserved;            // 0
} nfloat_session_options;
typedef struct nfloat_session nfloat_session;
NFLOAT_API nfloat_status nfloat_session_create(const nfloat_model* model,
                                               const nfloat_session_options* options,
                                               nfloat_session** session, nfloat_error** error);
NFLOAT_API void nfloat_session_free(nfloat_session* session);
NFLOAT_API int64_t nfloat_session_context(const nfloat_session* session);
NFLOAT_API int64_t nfloat_session_position(const nfloat_session* session);  // tokens taken in
// Takes in tokens, at least one. all_logits: null, or count * vocabulary floats. Progress in tokens, looked
// at between pieces of 64; a cancelled call forgets what it took in.
NFLOAT_API nfloat_status nfloat_session_prefill(nfloat_session* session, const int32_t* tokens, size_t count,
                                                float* all_logits, size_t all_logits_count,
                                                nfloat_control* control, nfloat_error** error);
// Of the last token, until the next call on the session. Null at the start and after a rewind.
NFLOAT_API const float* nfloat_session_logits(const nfloat_session* session);
NFLOAT_API nfloat_status nfloat_session_rewind(nfloat_session* session, int64_t position,
                                               nfloat_error** error);
NFLOAT_API nfloat_status nfloat_session_fork(const nfloat_session* session, nfloat_session** fork,
                                             nfloat_error** error);

typedef struct nfloat_batch_entry {
  nfloat_session* session;
  const int32_t* tokens;
  size_t count;  // at least 1
} nfloat_batch_entry;
// Gets the logits of token `index` of entry `entry`; they are there during the call only. Must return.
typedef void (*nfloat_logits_function)(void* user, size_t entry, int64_t index, const float* logits);
// Different sessions of one model take in their tokens together. function may be null.
NFLOAT_API nfloat_status nfloat_forward_batch(const nfloat_batch_entry* entries, size_t count,
                                              nfloat_logits_function function, void* user,
                                              nfloat_error** error);

// ---- generation

// All zero: the most likely token, always. What has no field here and changes the choice (suppressed tokens,
// bad words, stop texts, n-grams) is as generation_config.json beside the model has it.
typedef struct nfloat_sampler_options {
  size_t struct_size;
  uint64_t seed;
  int64_t top_k;             // 0: all
  float temperature;         // 0: the most likely token
  float top_p;               // 0 and 1: all
  float min_p;               // 0: all
  float repetition_penalty;  // 0 and 1: none
} nfloat_sampler_options;

typedef struct nfloat_generator_options {
  size_t struct_size;
  const nfloat_sampler_options* sampler;
  int64_t max_tokens;         // 0: as many as the context has room for
  const char* const* stop;    // the text ends before the first of these
  size_t stop_count;          // 0 without a tokenizer
  const int32_t* end_tokens;  // null: the model's
  size_t end_token_count;
  int32_t ignore_end;    // 0 or 1: there are no end tokens
  int32_t top_logprobs;  // so many of the most likely tokens are in the result, with their log-probabilities
} nfloat_generator_options;

typedef int32_t nfloat_finish;
enum {
  NFLOAT_FINISH_NONE = 0,    // it goes on
  NFLOAT_FINISH_END = 1,     // an end token
  NFLOAT_FINISH_STOP = 2,    // a stop text
  NFLOAT_FINISH_LENGTH = 3,  // max_tokens
  NFLOAT_FINISH_CONTEXT = 4  // the context is full
};
typedef struct nfloat_token {
  const char* text;        // valid UTF-8, often empty; borrowed until the next call on the generator
  size_t text_bytes;       // without the zero that follows
  double log_probability;  // natural, under the logits as they are
  int32_t token;           // -1: none; it has ended, and text is what was held back until then
  nfloat_finish finish;    // NONE with every token
} nfloat_token;

typedef struct nfloat_generator nfloat_generator;
// What generation_config.json beside the model asks for; without one, the most likely token. seed stays.
NFLOAT_API nfloat_status nfloat_generation_defaults(const nfloat_model* model,
                                                    nfloat_sampler_options* options, nfloat_error** error);
// prompt: none only where the session has logits. The session is borrowed until the generator is freed; its
// tokens before the prompt count for no penalty. tokenizer null: no texts.
NFLOAT_API nfloat_status nfloat_generator_create(nfloat_session* session, const nfloat_tokenizer* tokenizer,
                                                 const int32_t* prompt, size_t prompt_count,
                                                 const nfloat_generator_options* options,
                                                 nfloat_generator** generator, nfloat_error** error);
// One token; the first call reads the prompt, with progress in its tokens and a look at the control after
// each 64. When it has ended, token->token is -1 and token->finish says why, at every further call too. After
// NFLOAT_INTERRUPTED it can go on.
NFLOAT_API nfloat_status nfloat_generator_next(nfloat_generator* generator, nfloat_control* control,
                                               nfloat_token* token, nfloat_error** error);
// JSON of what there is so far, as `nfloat generate --json`; "finish_reason" is null before the end.
NFLOAT_API nfloat_status nfloat_generator_result(const nfloat_generator* generator, nfloat_buffer** json,
                                                 nfloat_error** error);
NFLOAT_API void nfloat_generator_free(nfloat_generator* generator);

// ---- evaluation

typedef int32_t nfloat_perplexity_protocol;
enum { NFLOAT_PROTOCOL_PAPER = 0, NFLOAT_PROTOCOL_LLAMA_CPP = 1, NFLOAT_PROTOCOL_BOS = 2 };
typedef struct nfloat_perplexity_options {
  size_t struct_size;
  nfloat_perplexity_protocol protocol;
  nfloat_kv_cache_type kv_cache;
  int64_t context;             // 0: 512 for llama.cpp's protocol, else 2048, at most the model's
  nfloat_precision precision;  // the model's
  int32_t reserved;            // 0
} nfloat_perplexity_options;
typedef struct nfloat_perplexity_result {
  size_t struct_size;
  int64_t tokens;  // that count
  int64_t windows;
  double mean_loss;       // in nats a token
  double standard_error;  // of mean_loss
  double perplexity;
} nfloat_perplexity_result;
// Progress in tokens; cancelled between layers.
NFLOAT_API nfloat_status nfloat_perplexity(const nfloat_model* model, const int32_t* tokens, size_t count,
                                           const nfloat_perplexity_options* options, nfloat_control* control,
                                           nfloat_perplexity_result* result, nfloat_error** error);
// Of `model` from `reference`, which may be one model. token_kl, token_loss: null, or room for token_capacity
// floats, one for each token that counts ("tokens"). JSON: as `nfloat perplexity --reference --json`.
NFLOAT_API nfloat_status nfloat_divergence(const nfloat_model* reference, const nfloat_model* model,
                                           const int32_t* tokens, size_t count,
                                           const nfloat_perplexity_options* options, nfloat_control* control,
                                           float* token_kl, float* token_loss, size_t token_capacity,
                                           nfloat_buffer** json, nfloat_error** error);
// A test with known answers: "lambada", "arc-easy", "piqa", "winogrande", "hellaswag". limit: the first so
// many questions; 0: all. Progress in questions. JSON: as `nfloat evaluate --json`, with one task.
NFLOAT_API nfloat_status nfloat_evaluate_task(const nfloat_model* model, const nfloat_tokenizer* tokenizer,
                                              const char* task, const char* data_path, int64_t limit,
                                              nfloat_control* control, nfloat_buffer** json,
                                              nfloat_error** error);

typedef struct nfloat_compare_options {
  size_t struct_size;
  const char* const* formats;  // null: the usual ones in blocks of 64
  size_t format_count;
  const nfloat_perplexity_options* scoring;  // precision F32 by default, BF16 for half the memory
  int64_t generate_tokens;  // 0: 64 are generated with each format to measure its speed; -1: none
  double budget_bytes;      // 0: none; of the whole model, for the recommendation
  double max_divergence;    // 0: none; mean KL in nats a token
  int32_t threads;
  int32_t reserved;  // 0
} nfloat_compare_options;
// Of a plain model. Progress in formats, the plain model being one, as shares of the work: they go through
// the model together. Cancelled between windows of the text. JSON: as `nfloat compare --json`.
NFLOAT_API nfloat_status nfloat_compare_formats(const char* model_path, const int32_t* tokens, size_t count,
                                                const nfloat_compare_options* options,
                                                nfloat_control* control, nfloat_buffer** json,
                                                nfloat_error** error);
// That document as one HTML page that loads nothing. The model that it names is read once more.
NFLOAT_API nfloat_status nfloat_report_page(const char* json, size_t json_bytes, nfloat_buffer** html,
                                            nfloat_error** error);
// weights: F32, F16 or BF16. block_size 0: 64. JSON: as `nfloat analyze --json` has it of one tensor.
NFLOAT_API nfloat_status nfloat_analyze_weights(const nfloat_tensor* weights, int64_t block_size,
                                                nfloat_buffer** json, nfloat_error** error);
// path: config.json, or a folder with one. memory_bytes 0: no limit. context 0: the model's, at most 4096.
// JSON: as `nfloat plan --json`.
NFLOAT_API nfloat_status nfloat_plan_memory(const char* path, uint64_t memory_bytes, int64_t context,
                                            nfloat_buffer** json, nfloat_error** error);

#ifdef __cplusplus
}  // extern "C"
#endif

#endif  // NFLOAT_NFLOAT_H_
