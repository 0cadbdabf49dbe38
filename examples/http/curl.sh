#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Talks with `nfloat serve MODEL` by curl: curl.sh [ADDRESS].
set -euo pipefail
server=${1:-http://127.0.0.1:8080}
key=(-H "Authorization: Bearer ${NFLOAT_API_KEY:-none}")
json=(-H 'Content-Type: application/json')

curl -sS --fail "$server/health"; echo
# A whole answer.
curl -sS --fail "$server/v1/chat/completions" "${key[@]}" "${json[@]}" -d '{
  "messages": [{"role": "user", "content": "Name three rivers."}], "max_tokens": 60}'; echo
# In pieces, as they are made.
curl -sS --fail -N "$server/v1/chat/completions" "${key[@]}" "${json[@]}" -d '{
  "messages": [{"role": "user", "content": "Name three rivers."}], "max_tokens": 60, "stream": true}'
# An answer in a form.
curl -sS --fail "$server/v1/chat/completions" "${key[@]}" "${json[@]}" -d '{
  "messages": [{"role": "user", "content": "The Danube is 2850 km long."}], "max_tokens": 100,
  "response_format": {"type": "json_schema", "json_schema": {"name": "river", "schema": {
    "type": "object", "properties": {"name": {"type": "string", "maxLength": 40}, "kilometres": {"type": "integer"}},
    "required": ["name", "kilometres"]}}}}'; echo
