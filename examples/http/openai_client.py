# SPDX-License-Identifier: Apache-2.0
"""Talks with `nfloat serve MODEL` by the official client (pip install openai): openai_client.py [ADDRESS]."""
import json
import os
import sys

from openai import OpenAI

server = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8080"
client = OpenAI(base_url=server + "/v1", api_key=os.environ.get("NFLOAT_API_KEY", "none"))
model = client.models.list().data[0].id

for piece in client.chat.completions.create(
    model=model,
    messages=[{"role": "user", "content": "Name three rivers."}],
    max_tokens=60,
    stream=True,
):
    print(piece.choices[0].delta.content or "", end="", flush=True)
print()

# A function that must be called: its arguments keep to the schema.
weather = {
    "name": "weather",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 40}, "unit": {"enum": ["C", "F"]}},
        "required": ["city", "unit"],
    },
}
answer = client.chat.completions.create(
    model=model,
    messages=[{"role": "user", "content": "How warm is it in Vienna?"}],
    tools=[{"type": "function", "function": weather}],
    tool_choice="required",
    max_tokens=100,
)
call = answer.choices[0].message.tool_calls[0].function
print(call.name, json.loads(call.arguments))
