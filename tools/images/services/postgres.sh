#!/bin/bash
# Starts PostgreSQL; on the first start it makes the database that the environment describes.
set -euo pipefail
. /usr/local/lib/common.sh

[[ ${1:-} && $1 != -* ]] || set -- postgres "$@"
for arg; do
	case $arg in --help | -\? | --version | -V | --describe-config | -C) exec "$@" ;; esac
done
[[ $1 == postgres ]] || exec "$@"

if [[ $(id -u) == 0 ]]; then
	mkdir -p "$PGDATA" /var/run/postgresql ${POSTGRES_INITDB_WALDIR:+"$POSTGRES_INITDB_WALDIR"}
	for dir in "$PGDATA" /var/run/postgresql ${POSTGRES_INITDB_WALDIR:+"$POSTGRES_INITDB_WALDIR"}; do
		find "$dir" \! -user postgres -exec chown postgres:postgres {} +
	done
	chmod 700 "$PGDATA"
	become postgres "$0" "$@"
fi
[[ ! -s $PGDATA/PG_VERSION ]] || exec "$@"

from_file POSTGRES_PASSWORD POSTGRES_USER POSTGRES_DB POSTGRES_INITDB_ARGS
user=${POSTGRES_USER:-postgres} password=${POSTGRES_PASSWORD:-}
export POSTGRES_USER=$user POSTGRES_DB=${POSTGRES_DB:-$user}
method=${POSTGRES_HOST_AUTH_METHOD:-scram-sha-256}
if [[ ! $password && $method != trust ]]; then
	die 'the database is not initialized and there is no superuser password.
  Set POSTGRES_PASSWORD to one that is not empty, for example "-e POSTGRES_PASSWORD=…" on "docker run".
  POSTGRES_HOST_AUTH_METHOD=trust lets everybody in without a password instead.'
fi

# initdb cannot take every name with every password: SQL sets the password, below. initdb gets one for the meantime,
# if its server is to ask for passwords from the start.
meantime=
case ${POSTGRES_INITDB_ARGS:-} in *-A* | *--auth*) meantime=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n') ;; esac
options=(--username="$user" -D "$PGDATA")
[[ ! ${POSTGRES_INITDB_WALDIR:-} ]] || options+=(--waldir="$POSTGRES_INITDB_WALDIR")
read -rd '' -a more <<<"${POSTGRES_INITDB_ARGS:-}" || true
options+=(${more[@]+"${more[@]}"})
if [[ $meantime ]]; then
	initdb "${options[@]}" --pwfile=<(echo "$meantime")
else
	initdb "${options[@]}"
fi
printf '\nhost all all all %s\n' "$method" >>"$PGDATA/pg_hba.conf"

# Nobody outside sees this server: it has no port.
port=${PGPORT:-5432}
"$@" -c listen_addresses= -c unix_socket_directories=/var/run/postgresql -p "$port" &
server=$!
trap 'kill -INT $server 2>/dev/null || true' EXIT
until pg_isready -q -h /var/run/postgresql -p "$port" -U "$user" -d postgres; do
	kill -0 $server 2>/dev/null || die 'the server ended during the initialization'
	sleep 0.1
done

export PGDATABASE=postgres PGPASSWORD=$meantime
sql() { PGHOST=/var/run/postgresql PGPORT=$port PGUSER=$user psql -X -q --no-password -v ON_ERROR_STOP=1; }
[[ ! $password ]] || POSTGRES_PASSWORD=$password sql <<'END'
\getenv user POSTGRES_USER
\getenv password POSTGRES_PASSWORD
ALTER USER :"user" PASSWORD :'password';
END
PGPASSWORD=$password
[[ $POSTGRES_DB == postgres ]] || sql <<'END'
\getenv db POSTGRES_DB
CREATE DATABASE :"db";
END
PGDATABASE=$POSTGRES_DB
run_scripts sql
unset PGDATABASE PGPASSWORD

trap - EXIT
kill -INT $server
wait $server
say 'the database is initialized; starting the server'
exec "$@"
