#!/bin/bash
# Is MariaDB well? healthcheck.sh [--connect] [--innodb_initialized]: succeeds if all that is asked for holds.
set -euo pipefail
# Not by the socket: the server of the initialization listens there too.
query() {
	mariadb --defaults-extra-file="${DATADIR:-/var/lib/mysql}/.my-healthcheck.cnf" --protocol=tcp -h 127.0.0.1 -N -B -e "$1"
}
(($#)) || set -- --connect
for check; do
	case $check in
	--connect) query 'SELECT 1' >/dev/null ;;
	--innodb_initialized)
		[[ $(query "SELECT support FROM information_schema.engines WHERE engine = 'InnoDB'") =~ ^(YES|DEFAULT)$ ]]
		;;
	*) echo "healthcheck.sh: $check is not known" >&2; exit 1 ;;
	esac
done
