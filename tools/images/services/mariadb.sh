#!/bin/bash
# Starts MariaDB; on the first start it makes the users and the database that the environment describes.
set -euo pipefail
. /usr/local/lib/common.sh

[[ ${1:-} && $1 != -* ]] || set -- mariadbd "$@"
[[ $1 == mariadbd || $1 == mysqld ]] || exec "$@"
datadir=/var/lib/mysql
for arg; do
	case $arg in
	--help | -\? | --version | -V) exec "$@" ;;
	--datadir=*) datadir=${arg#*=} ;;
	esac
done

if [[ $(id -u) == 0 ]]; then
	mkdir -p "$datadir" /run/mysqld
	find "$datadir" /run/mysqld \! -user mysql -exec chown mysql:mysql {} +
	become mysql "$0" "$@"
fi
[[ ! -d $datadir/mysql ]] || exec "$@"

# Each setting has an older name; the newer one counts.
for name in ROOT_PASSWORD ROOT_HOST DATABASE USER PASSWORD RANDOM_ROOT_PASSWORD; do
	from_file "MARIADB_$name" "MYSQL_$name"
	new=MARIADB_$name old=MYSQL_$name
	declare "$name=${!new-${!old-}}"
done
empty=${MARIADB_ALLOW_EMPTY_ROOT_PASSWORD-${MARIADB_ALLOW_EMPTY_PASSWORD-${MYSQL_ALLOW_EMPTY_PASSWORD-}}}
if [[ ! $ROOT_PASSWORD && ! $empty && ! $RANDOM_ROOT_PASSWORD ]]; then
	die 'the database is not initialized and nothing is said about the password of root.
  Set one of MARIADB_ROOT_PASSWORD, MARIADB_ALLOW_EMPTY_ROOT_PASSWORD and MARIADB_RANDOM_ROOT_PASSWORD.'
fi
[[ $USER != root ]] || die 'MARIADB_USER is for one more user: root is made anyway'
random() { od -An -v -N24 -tx1 /dev/urandom | tr -d ' \n'; }
if [[ $RANDOM_ROOT_PASSWORD ]]; then
	ROOT_PASSWORD=$(random)
	say "generated password of root: $ROOT_PASSWORD"
fi

mariadb-install-db --datadir="$datadir" --auth-root-authentication-method=normal --skip-test-db --skip-log-bin "${@:2}" >/dev/null

# Nobody outside sees this server: it has no port.
socket=/run/mysqld/mysqld.sock
"$@" --skip-networking --socket=$socket --skip-slave-start --wsrep-on=OFF &
server=$!
trap 'kill $server 2>/dev/null || true' EXIT
until mariadb-admin --no-defaults -u root --socket=$socket ping >/dev/null 2>&1; do
	kill -0 $server 2>/dev/null || die 'the server ended during the initialization'
	sleep 0.1
done

# SQL expressions, of a value and of a name in SQL. Hexadecimal, so that no character of a value can mean anything.
text() { printf "CONVERT(X'%s' USING utf8mb4)" "$(printf %s "$1" | od -An -v -tx1 | tr -d ' \n')"; }
name() { printf "CONCAT('\`', REPLACE(%s, '\`', '\`\`'), '\`')" "$1"; }
who() { echo "$(name "$(text "$1")"), '@', $(name "$(text "$2")")"; }
user() { echo "EXECUTE IMMEDIATE CONCAT('CREATE OR REPLACE USER ', $(who "$1" "$2"), ' IDENTIFIED BY ', QUOTE($(text "$3")));"; }
root() {
	user root "$1" "$ROOT_PASSWORD"
	echo "EXECUTE IMMEDIATE CONCAT('GRANT ALL ON *.* TO ', $(who root "$1"), ' WITH GRANT OPTION');"
}
health=$(random)
{
	echo "SET NAMES utf8mb4, sql_log_bin = 0, sql_mode = '';"
	for host in localhost 127.0.0.1 ::1; do
		user healthcheck "$host" "$health"
	done
	[[ ! $DATABASE ]] || echo "EXECUTE IMMEDIATE CONCAT('CREATE DATABASE IF NOT EXISTS ', $(name "$(text "$DATABASE")"));"
	if [[ $USER && $PASSWORD ]]; then
		user "$USER" % "$PASSWORD"
		db=${DATABASE//\\/\\\\} # in a name that is granted, _ and % stand for others
		db=${db//_/\\_}
		[[ ! $db ]] || echo "EXECUTE IMMEDIATE CONCAT('GRANT ALL ON ', $(name "$(text "${db//%/\\%}")"), '.* TO ', $(who "$USER" %));"
	fi
	echo "DROP USER IF EXISTS root@'127.0.0.1', root@'::1';"
	echo "EXECUTE IMMEDIATE CONCAT('DROP USER IF EXISTS root@', QUOTE(@@hostname));"
	[[ ${ROOT_HOST:-%} == localhost ]] || root "${ROOT_HOST:-%}"
	root localhost
} | mariadb --no-defaults -u root --socket=$socket --binary-mode mysql
printf '[client]\nuser=healthcheck\npassword=%s\n' "$health" >"$datadir/.my-healthcheck.cnf"
chmod 600 "$datadir/.my-healthcheck.cnf"

sql() { MYSQL_PWD=$ROOT_PASSWORD mariadb --no-defaults -u root --socket=$socket --database="$DATABASE"; }
run_scripts sql
MYSQL_PWD=$ROOT_PASSWORD mariadb-admin --no-defaults -u root --socket=$socket shutdown
trap - EXIT
wait $server
say 'the database is initialized; starting the server'
exec "$@"
