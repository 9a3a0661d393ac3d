#!/usr/bin/env bash
# Builds model.plan from model.onnx with trtexec, on the device, for @RUNTIME@, and times it.
# Arguments are handed on to trtexec as it builds. TRTEXEC names the program where it is not found.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")"

sha256sum --check --strict --quiet SHA256SUMS

trtexec="${TRTEXEC:-$(command -v trtexec || echo /usr/src/tensorrt/bin/trtexec)}"
if [[ ! -x "$trtexec" ]]; then
  echo "error: trtexec is not at $trtexec: install the JetPack package libnvinfer-bin, or set TRTEXEC" >&2
  exit 3
fi

"$trtexec" \
  --onnx=model.onnx \
@FLAGS@
  --timingCacheFile=timing.cache \
  --saveEngine=model.plan \
  "$@"

sha256sum model.plan > model.plan.sha256
echo "model.plan is built; now it is timed, one image at a time"

"$trtexec" \
@TIMING@
  --loadEngine=model.plan

echo "@NEXT@"
