// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TOKENIZER_UNICODE_FORMS_H_
#define NFLOAT_TOKENIZER_UNICODE_FORMS_H_

#include <string>

namespace nfloat {

enum class NormalForm { kNfc, kNfd, kNfkc, kNfkd };

// Rewrites valid UTF-8 in a Unicode normal form, in n log n time for any run of combining marks.
void normalize(std::string& text, NormalForm form);

// Every character's full lower case, on its own (no final sigma), as Rust's char::to_lowercase.
void lower_case(std::string& text);

}  // namespace nfloat

#endif  // NFLOAT_TOKENIZER_UNICODE_FORMS_H_
