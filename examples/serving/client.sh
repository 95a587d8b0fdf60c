#!/usr/bin/env bash
# Ask a server for the probabilities of one crop with curl: ./client.sh http://127.0.0.1:8501 hpa crop.png
set -euo pipefail
server=$1 name=$2 crop=$3
printf '{"instances": [{"crop": {"b64": "%s"}}]}' "$(base64 -w0 "$crop")" |
  curl --fail-with-body -sS -H 'Content-Type: application/json' --data-binary @- "$server/v1/models/$name:predict"
