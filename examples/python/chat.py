# SPDX-License-Identifier: Apache-2.0
"""Answers one message through the model's chat template: chat.py MODEL [MESSAGE]"""
from __future__ import annotations

import sys

import nfloat

model = nfloat.Model.load(sys.argv[1])
message = {"role": "user", "content": sys.argv[2] if len(sys.argv) > 2 else "Who are you?"}
if model.chat_template is None:
    # A model without one continues texts.
    template = nfloat.ChatTemplate.parse("{% for m in messages %}{{ m.content }}\n{% endfor %}")
    print(model.generate(template.render([message]), max_tokens=40, seed=1).result().text)
else:
    print(model.generate([message], max_tokens=200, seed=1).result().text)
