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
  nfloat_model_free(model);  // the session keeps what it needs

  nfloat_generator_options options = {.struct_size = sizeof options};
  options.max_tokens = 32;
  nfloat_generator* generator = NULL;
  if (nfloat_generator_create(session, tokenizer, nfloat_buffer_data(prompt),
                              nfloat_buffer_bytes(prompt) / sizeof(int32_t), &options, &generator, &error))
    return failed(error);
  printf("%s", argv[2]);
  nfloat_token token;
  do {
    if (nfloat_generator_next(generator, NULL, &token, &error)) return failed(error);
    fwrite(token.text, 1, token.text_bytes, stdout);
    fflush(stdout);
  } while (token.finish == NFLOAT_FINISH_NONE);
  printf("\n");
  nfloat_generator_free(generator);
  nfloat_buffer_free(prompt);
  nfloat_session_free(session);
  nfloat_tokenizer_free(tokenizer);
  return 0;
}
