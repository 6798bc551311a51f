# shellcheck shell=bash
# What the entrypoints of the test images share. Values come from the environment: nothing here may let a shell read them.

say() { echo "entrypoint: $*" >&2; }
die() { say "$@"; exit 1; }

# from_file NAME…: the value of NAME may be given as the content of the file that NAME_FILE names
from_file() {
	local name file
	for name; do
		file=${name}_FILE
		[[ ${!file-} ]] || continue
		[[ ! ${!name-} ]] || die "$name and $file are both set: only one of them may be"
		[[ -r ${!file} ]] || die "$file: ${!file} cannot be read"
		export "$name=$(<"${!file}")"
		unset "$file"
	done
}

# become USER SCRIPT ARGUMENT…: root goes on as USER, which a volume's folder may not yet belong to
become() {
	local user=$1
	shift
	exec setpriv --reuid="$user" --regid="$user" --init-groups "$@"
}

# run_scripts SQL: what an image's user has put there, in order; the function SQL reads SQL from its input
run_scripts() {
	local script
	for script in /docker-entrypoint-initdb.d/*; do
		case $script in
		*.sh)
			say "running $script"
			# shellcheck disable=SC1090
			if [[ -x $script ]]; then "$script"; else . "$script"; fi
			;;
		*.sql) say "running $script"; "$1" <"$script" ;;
		*.sql.gz) say "running $script"; gzip -dc "$script" | "$1" ;;
		*/\*) ;;
		*) say "ignoring $script" ;;
		esac
	done
}
