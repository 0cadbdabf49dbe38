// SPDX-License-Identifier: Apache-2.0
// Continues a text with the most likely tokens: generate MODEL TEXT
#include <nfloat/nfloat.h>
#include <stdio.h>
#include <string.h>

static int failed(nfloat_error* error) {
  fprintf(stderr, "%s\n", nfloat_error_message(error));
  nfloat_error_free(error);
  return 1;
}

int main(int argc, char** argv) {
  if (argc != 3) return fprintf(stderr, "usage: generate MODEL TEXT\n"), 2;
  nfloat_error* error = NULL;
  nfloat_tokenizer* tokenizer = NULL;
  nfloat_model* model = NULL;
  nfloat_session* session = NULL;
  nfloat_buffer* prompt = NULL;
  if (nfloat_tokenizer_load(argv[1], &tokenizer, &error)) return failed(error);
  if (nfloat_model_load(argv[1], NULL, NULL, &model, &error)) return failed(error);
  if (nfloat_session_create(model, NULL, &session, &error)) return failed(error);
  if (nfloat_tokenizer_encode(tokenizer, argv[2], strlen(argv[2]), 0, &prompt, &error)) return failed(error);
  const int64_t vocabulary = nfloat_model_vocabulary(model);
  nfloat_model_free(model);  // the session keeps what it needs

  printf("%s", argv[2]);
  const int32_t* tokens = nfloat_buffer_data(prompt);
  size_t count = nfloat_buffer_bytes(prompt) / sizeof *tokens;
  int32_t next = 0;
  for (int step = 0; step < 32 && nfloat_session_position(session) < nfloat_session_context(session);
       ++step) {
    if (nfloat_session_prefill(session, tokens, count, NULL, 0, NULL, &error)) return failed(error);
    const float* logits = nfloat_session_logits(session);
    next = 0;
    for (int32_t i = 1; i < vocabulary; ++i)
      if (logits[i] > logits[next]) next = i;
    if (next == nfloat_tokenizer_eos_id(tokenizer)) break;
    nfloat_buffer* piece = NULL;
    if (nfloat_tokenizer_token_bytes(tokenizer, next, &piece, &error)) return failed(error);
    fwrite(nfloat_buffer_data(piece), 1, nfloat_buffer_bytes(piece), stdout);
    nfloat_buffer_free(piece);
    tokens = &next;
    count = 1;
  }
  printf("\n");
  nfloat_buffer_free(prompt);
  nfloat_session_free(session);
  nfloat_tokenizer_free(tokenizer);
  return 0;
}
