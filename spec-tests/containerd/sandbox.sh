#!/bin/bash
# A pod that containerd leaves to the shim (`sandboxer = "shim"`, containerd 2): what cri.sh asks of a pod, asked again.
SANDBOXER=shim exec "$(dirname "$0")/cri.sh"
