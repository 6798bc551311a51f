#!/usr/bin/env bash
# vuln.sh GOVULNCHECK MODULE...: known vulnerabilities that the modules' code reaches. A database out of reach is
# said and passes: it is no fault of the code. A finding fails.
set -euo pipefail
check=$1; shift
for module in "$@"; do
	if ! output=$(cd "$module" && "$check" ./... 2>&1); then
		if grep -qE 'fetching vulnerabilities|vulnerability database|no such host|connection refused|proxyconnect' <<<"$output"; then
			echo "vuln: not checked: the vulnerability database is out of reach"
			exit 0
		fi
		printf '%s\n%s\n' "$module" "$output"
		exit 1
	fi
done
echo "vuln: nothing found"
