# SPDX-License-Identifier: Apache-2.0
"""Prints a text while it is made, and ends it at the second sentence: stream.py MODEL [PROMPT]"""
from __future__ import annotations

import sys

import nfloat

model = nfloat.Model.load(sys.argv[1], quantize="nf4")
generation = model.generate(sys.argv[2] if len(sys.argv) > 2 else "Once upon a time", max_tokens=200, seed=1)
for token in generation:
    print(token.text, end="", flush=True)
    if generation.text.count(".") == 2:
        break
print(f"\n{len(generation.tokens)} tokens, {generation.finish_reason or 'left early'}")
