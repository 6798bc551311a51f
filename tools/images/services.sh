#!/usr/bin/env bash
# Makes the test images of real services in an engine: PostgreSQL, Redis and MariaDB of Debian 12, that behave as the official
# images do (variables, commands, volumes, ports). No image registry, no BuildKit: packages are unpacked, nothing is installed.
#
#   services.sh [--check] ENGINE_URL
#
# They are built once, into an archive that every engine loads; anew only when this script or the files in services/ change.
# --check builds nothing, it fails when something is to be built or loaded. Needs root, for the owners of the files.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${MOAT_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/moat}/images
unset DOCKER_HOST DOCKER_CONTEXT DOCKER_API_VERSION DOCKER_TLS_VERIFY DOCKER_CERT_PATH
export DOCKER_CONFIG=/run/moat-engine/no-client-settings LC_ALL=C

check=
[[ ${1:-} != --check ]] || { check=yes; shift; }
url=${1:?usage: services.sh [--check] ENGINE_URL}
# Another system, whose packages are others, goes without these images.
grep -q '^VERSION_CODENAME=bookworm' /etc/os-release || exit 0

want=$(cat "$here"/services.sh "$here"/services/* | sha256sum | cut -d' ' -f1)
label=moat.test.content
archive=$cache/services-$want.tar
tags=(moat/test-{postgres:15,redis:7,mariadb:10.11})
there=$(docker -H "$url" image inspect -f "{{index .Config.Labels \"$label\"}}" "${tags[@]}" 2>/dev/null | grep -cx "$want" || true)
((there < ${#tags[@]})) || exit 0
[[ ! $check ]] || exit 1
mkdir -p "$cache"
exec 7>"$cache/.lock" # two at once wait for each other, the second then finds the archive
flock 7
load() {
	docker -H "$url" load -q <"$archive" >/dev/null
	docker -H "$url" image prune -f --filter "label=$label" >/dev/null || true # those that just lost their names are large
	echo "services.sh: ${tags[*]} in $url" >&2
}
if [[ -e $archive ]]; then
	load
	exit
fi

rm -rf "$cache"/{services-*,.building-*} # of earlier scripts, and of a run that was killed
work=$(mktemp -d "$cache/.building-XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/{debs,lists/partial,image}
: >"$work/status" # as if nothing were installed, so that all that a package needs is named

apt=(apt-get -qq -o APT::Install-Recommends=false -o APT::Sandbox::User=root)

# What packages name, and these servers run without: what installs packages, Perl, compiling of queries, locales.
unused='^(adduser|base-passwd|debconf|dpkg|init-system-helpers|libc-l10n|libdb5.3|libdebconfclient0|libgdbm.*|libllvm14|libpam-modules.*'
unused+='|libsasl2-modules-db|libsemanage.*|libsepol2|libz3-4|locales|lsb-base|mariadb-common|mysql-common|openssl|passwd|perl.*|lib.*perl.*'
unused+='|postgresql-client-common|postgresql-common|sensible-utils|ssl-cert|sysvinit-utils|ucf|usrmerge)$'

needs() { # needs PACKAGE…: they and all that they need, one a line
	"${apt[@]}" -o Dir::State::status="$work/status" install -y --print-uris "$@" |
		sed -n "s/^'[^']*' \([^_]*\)_.*/\1/p" | grep -vxE "$unused" | sort
}

fetch() { # fetch PACKAGE…
	(cd "$work/debs" && "${apt[@]}" -o Dir::State::status="$work/status" download "$@")
}

unpack() { # unpack FOLDER PACKAGE…
	local into=$1 package dir
	shift
	for dir in bin sbin lib lib64; do
		mkdir -p "$into/usr/$dir"
		ln -s "usr/$dir" "$into/$dir"
	done
	for package; do
		dpkg-deb --fsys-tarfile "$work/debs/${package}"_*.deb |
			tar -C "$into" -xp --keep-directory-symlink --exclude='./usr/share/'{doc,man,info,locale,lintian,bug,i18n} \
				--exclude='*/man' --exclude='*/bitcode' --exclude='*/llvmjit*' --exclude='./usr/lib/*/gconv' \
				--exclude='./usr/bin/'{mariadb-{slap,conv,waitpid,plugin},mysqlslap,mysql_{waitpid,plugin},resolve_stack_dump,replace,innochecksum,perror} \
				--exclude='./etc/'{init.d,default,systemd,cron.d,logrotate.d,apparmor.d} --exclude='./lib/systemd'
	done
}

pack() { # pack FOLDER: a layer, remembered in $image/NAME.tar
	tar -C "$1" --sort=name --mtime=@0 --numeric-owner --exclude=./{bin,sbin,lib,lib64} -cf "$work/image/$(basename "$1").tar" .
	[[ $(basename "$1") != base ]] || tar -C "$1" --mtime=@0 -rf "$work/image/base.tar" bin sbin lib lib64
	rm -rf "$1"
}

users() { # users FOLDER [NAME HOME]: 999 is the number that the official images use
	mkdir -p "$1/etc"
	printf '%s\n' 'root:x:0:0:root:/root:/bin/bash' ${2:+"$2:x:999:999:$2:$3:/bin/bash"} \
		'nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin' >"$1/etc/passwd"
	printf '%s\n' 'root:x:0:' 'tty:x:5:' ${2:+"$2:x:999:"} 'nogroup:x:65534:' >"$1/etc/group"
}

put() { # put FOLDER MODE FILE TARGET
	mkdir -p "$(dirname "$1/$4")"
	install -m "$2" "$here/services/$3" "$1/$4"
}

own() { # own FOLDER MODE DIR…: folders of the service's user
	local into=$1 mode=$2 dir
	shift 2
	for dir; do
		mkdir -p "$into/$dir"
		chmod "$mode" "$into/$dir"
		chown 999:999 "$into/$dir"
	done
}

config() { # config NAME VERSION CONFIG: CONFIG is the "config" object's inside, beside labels
	cat >"$work/image/$1.json" <<-END
		{"architecture":"$(dpkg --print-architecture)","os":"linux","created":"$(date -u +%FT%TZ)",
		 "config":{"Labels":{"moat.test":"true","$label":"$want"},"Entrypoint":["docker-entrypoint.sh"],$3},
		 "rootfs":{"type":"layers","diff_ids":["$(sum base)","$(sum "$1")"]}}
	END
	[[ ! -e $work/image/manifest.json ]] || echo , >>"$work/image/manifest.json"
	echo "{\"Config\":\"$1.json\",\"RepoTags\":[\"moat/test-$1:$2\",\"moat/test-$1:latest\"],\"Layers\":[\"base.tar\",\"$1.tar\"]}" \
		>>"$work/image/manifest.json"
}
sum() { echo "sha256:$(sha256sum <"$work/image/$1.tar" | cut -d' ' -f1)"; }

declare -A packages
mapfile -t base < <(needs base-files bash coreutils debianutils findutils grep gzip hostname libc-bin libssl3 libstdc++6 libsystemd0 \
	libedit2 mawk netbase procps sed tar tzdata util-linux)
for service in postgresql-15 'redis-server redis-tools' 'mariadb-server-core mariadb-client'; do
	# shellcheck disable=SC2086
	packages[${service%%[-1]*}]=$(needs $service | grep -vxF "$(printf '%s\n' "${base[@]}")" | tr '\n' ' ')
done
read -ra all <<<"${base[*]} ${packages[*]}"
fetch "${all[@]}" 2>/dev/null || { "${apt[@]}" update && fetch "${all[@]}"; }

unpack "$work/base" "${base[@]}"
users "$work/base"
printf 'passwd: files\ngroup: files\nhosts: files dns\n' >"$work/base/etc/nsswitch.conf"
mkdir -p "$work/base"/{dev,proc,sys,root,tmp,run,var/tmp,docker-entrypoint-initdb.d}
ln -sfn bash "$work/base/usr/bin/sh"
ln -sfn mawk "$work/base/usr/bin/awk"
chmod 1777 "$work/base/tmp" "$work/base/var/tmp"
rm -rf "$work/base/var"/{run,lock}
ln -s ../run "$work/base/var/run"
put "$work/base" 755 common.sh usr/local/lib/common.sh
pack "$work/base"

path=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

# shellcheck disable=SC2086
unpack "$work/postgres" ${packages[postgresql]}
users "$work/postgres" postgres /var/lib/postgresql
put "$work/postgres" 755 postgres.sh usr/local/bin/docker-entrypoint.sh
own "$work/postgres" 3777 run/postgresql
own "$work/postgres" 1777 var/lib/postgresql var/lib/postgresql/data
sed -i "s/^#listen_addresses = 'localhost'/listen_addresses = '*'/" "$work/postgres/usr/share/postgresql/15/postgresql.conf.sample"
pack "$work/postgres"
config postgres 15 '"Cmd":["postgres"],"ExposedPorts":{"5432/tcp":{}},"Volumes":{"/var/lib/postgresql/data":{}},"StopSignal":"SIGINT",
	"Env":["PATH='$path':/usr/lib/postgresql/15/bin","LANG=C.UTF-8","PG_MAJOR=15","PGDATA=/var/lib/postgresql/data"]'

# shellcheck disable=SC2086
unpack "$work/redis" ${packages[redis]}
users "$work/redis" redis /data
put "$work/redis" 755 redis.sh usr/local/bin/docker-entrypoint.sh
own "$work/redis" 755 data
ln -sfn redis-server "$work/redis/usr/bin/redis-sentinel"
pack "$work/redis"
config redis 7 '"Cmd":["redis-server"],"ExposedPorts":{"6379/tcp":{}},"Volumes":{"/data":{}},"WorkingDir":"/data","Env":["PATH='$path'"]'

# shellcheck disable=SC2086
unpack "$work/mariadb" ${packages[mariadb]}
users "$work/mariadb" mysql /var/lib/mysql
put "$work/mariadb" 755 mariadb.sh usr/local/bin/docker-entrypoint.sh
put "$work/mariadb" 755 healthcheck.sh usr/local/bin/healthcheck.sh
put "$work/mariadb" 644 my.cnf etc/mysql/my.cnf
mkdir -p "$work/mariadb/etc/mysql"/{conf.d,mariadb.conf.d}
own "$work/mariadb" 1777 run/mysqld
own "$work/mariadb" 755 var/lib/mysql
pack "$work/mariadb"
config mariadb 10.11 '"Cmd":["mariadbd"],"ExposedPorts":{"3306/tcp":{}},"Volumes":{"/var/lib/mysql":{}},"Env":["PATH='$path'","LANG=C.UTF-8"]'

manifest=$(cat "$work/image/manifest.json")
echo "[$manifest]" >"$work/image/manifest.json"
tar -C "$work/image" -cf "$work/archive.tar" .
mv "$work/archive.tar" "$archive"
load
