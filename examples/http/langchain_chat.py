# SPDX-License-Identifier: Apache-2.0
"""Talks with `nfloat serve MODEL` by LangChain (pip install langchain-openai): langchain_chat.py [ADDRESS]."""
import os
import sys

from langchain_openai import ChatOpenAI

server = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8080"
# --any-model lets the server take any name here.
chat = ChatOpenAI(
    base_url=server + "/v1",
    api_key=os.environ.get("NFLOAT_API_KEY", "none"),
    model=os.environ["NFLOAT_MODEL"],
    max_tokens=60,
)
for piece in chat.stream("Name three rivers."):
    print(piece.content, end="", flush=True)
print()
