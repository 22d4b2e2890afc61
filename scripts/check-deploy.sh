#!/bin/sh
# Checks the files of deploy/ against what will read them: manifests against Kubernetes' schemas
# (the Python package kubernetes-validate, installed into target/ if it is missing), units by
# systemd-analyze.
set -eu
cd "$(dirname "$0")/.."
venv=target/kubernetes-validate
if [ ! -x "$venv/bin/kubernetes-validate" ]; then
	python3 -m venv "$venv"
	"$venv/bin/pip" install --quiet kubernetes-validate setuptools
fi
"$venv/bin/kubernetes-validate" --strict deploy/kubernetes/*.yaml
if command -v systemd-analyze >/dev/null; then
	for unit in deploy/systemd/*.service; do
		copy=$(mktemp -d)
		# The program need not be installed here.
		sed 's|^ExecStart=/usr/bin/nacre|ExecStart=/bin/true|' "$unit" >"$copy/$(basename "$unit")"
		systemd-analyze verify --man=no "$copy/$(basename "$unit")"
		rm -r "$copy"
	done
fi
echo "deploy/ is as its readers want it"
