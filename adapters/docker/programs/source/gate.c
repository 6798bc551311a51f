/* The gate becomes a program once that may begin: gate MODE PROGRAM ARGUMENTS. An engine
 * gives a container's terminal its size only after the start, when the program may have
 * asked for it already; and it has no way to start a container but not its program.
 * After the mode's letter comes a mark, by which Moat knows the gate's own words: the
 * program never sees it, because its arguments take the place of the gate's.
 * build.sh makes its binaries. */

#include "system.h"

struct size { unsigned short rows, columns, x, y; };
struct timespec { long seconds, nanoseconds; };
struct address { unsigned short family; char name[64]; };

enum {
	TIOCGWINSZ = 0x5413,
	UNIX = 1, STREAM = 1, CLOSE_ON_EXEC = 02000000,
	PATIENCE = 10000, /* milliseconds, for containers that are started without Moat */
	HELD_BETWEEN = 5, /* milliseconds between two looks, where it may take long */
	NOT_FOUND = -2,
	INTERRUPTED = -4,
	NOT_A_PROGRAM = -8,
	NOT_PERMITTED = -13,
	NOT_A_DIRECTORY = -20,
	NAME_TOO_LONG = -36,
	LOOP = -40,
	HERE = -100, /* the folder that relative paths begin at */
	NOT_RELEASED = 125,
	PATH_MAX = 4096,
};

static void await_size(int held) {
	struct timespec pause = {0, held ? HELD_BETWEEN * 1000000 : 1000000};
	struct size size = {0};
	for (int i = 0; held || i < PATIENCE; i++) {
		if (call(IOCTL, 0, TIOCGWINSZ, (long)&size, 0, 0, 0) < 0 || (size.rows && size.columns))
			return;
		call(SLEEP, (long)&pause, 0, 0, 0, 0, 0);
	}
}

/* await_mark takes lines of the input until one is the mark: others may be attached and type.
 * Its end is that of whoever would send it. */
static void await_mark(const char *mark) {
	for (int matched = 0;;) { /* letters of this line; -1: it is another one */
		char byte;
		long got = call(READ, 0, (long)&byte, 1, 0, 0, 0);
		if (got == INTERRUPTED)
			continue;
		if (got != 1)
			leave(NOT_RELEASED);
		if (byte != '\n')
			matched = matched >= 0 && byte && mark[matched] == byte ? matched + 1 : -1;
		else if (matched >= 0 && !mark[matched])
			return;
		else
			matched = 0;
	}
}

static void empty_input(void) {
	long file = call(OPENAT, HERE, (long)"/dev/null", 0, 0, 0, 0);
	if (file < 0 || call(DUP3, file, 0, 0, 0, 0, 0) < 0)
		leave(NOT_RELEASED);
	call(CLOSE, file, 0, 0, 0, 0, 0);
}

/* await_call waits until the check connects to the socket that has the mark in its name, in
 * the container's own network, and tells it that the program begins now. */
static void await_call(const char *mark) {
	static struct address own; /* all zero, the first byte of the name too */
	int length = 1;
	own.family = UNIX;
	for (const char *s = "moat-"; *s;)
		own.name[length++] = *s++;
	for (; *mark && length < (int)sizeof own.name; length++)
		own.name[length] = *mark++;
	long fd = call(SOCKET, UNIX, STREAM | CLOSE_ON_EXEC, 0, 0, 0, 0), caller;
	if (fd < 0 || call(BIND, fd, (long)&own, length + 2, 0, 0, 0) || call(LISTEN, fd, 1, 0, 0, 0, 0))
		leave(NOT_RELEASED);
	do
		caller = call(ACCEPT, fd, 0, 0, CLOSE_ON_EXEC, 0, 0);
	while (caller == INTERRUPTED);
	if (caller < 0 || call(WRITE, caller, (long)"!", 1, 0, 0, 0) != 1)
		leave(NOT_RELEASED);
}

/* await_release waits as the mode says: s: for a terminal's size; S: the same, and no
 * program without; l: for the mark as a line of the input; L: the same, and no more input;
 * x: for a call of the check's. */
static void await_release(char mode, const char *mark) {
	if (mode == 's' || mode == 'S') {
		await_size(mode == 'S');
		return;
	}
	if (mode == 'x') {
		await_call(mark);
		return;
	}
	await_mark(mark);
	if (mode == 'L')
		empty_input();
}

static int has_slash(const char *s) {
	for (; *s; s++)
		if (*s == '/')
			return 1;
	return 0;
}

static const char *search_path(char **env) {
	for (; *env; env++) {
		const char *s = *env;
		if (s[0] == 'P' && s[1] == 'A' && s[2] == 'T' && s[3] == 'H' && s[4] == '=')
			return s + 5;
	}
	return "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
}

static int is_missing(long error) { return error == NOT_FOUND || error == NOT_A_DIRECTORY; }

/* execute returns the error that tells most. */
static long execute(char **argv, char **env) {
	static char file[PATH_MAX];
	if (has_slash(argv[0]))
		return call(EXECUTE, (long)argv[0], (long)argv, (long)env, 0, 0, 0);
	long result = NOT_FOUND;
	for (const char *path = search_path(env);; path++) {
		char *end = file;
		while (*path && *path != ':' && end < file + PATH_MAX - 2)
			*end++ = *path++;
		*end++ = '/';
		const char *name = argv[0];
		while (*name && end < file + PATH_MAX - 1)
			*end++ = *name++;
		*end = 0;
		if (!*name && file[0] == '/') {
			long error = call(EXECUTE, (long)file, (long)argv, (long)env, 0, 0, 0);
			if (!is_missing(error) && error != NAME_TOO_LONG)
				result = error;
		}
		while (*path && *path != ':')
			path++;
		if (!*path)
			return result;
	}
}

static const char *reason(long error) {
	switch (error) {
	case NOT_FOUND:
	case NOT_A_DIRECTORY:
		return ": no such program, or no interpreter for it\n";
	case NOT_A_PROGRAM:
		return ": cannot be executed: exec format error\n";
	case NOT_PERMITTED:
		return ": cannot be executed: permission denied\n";
	case LOOP:
		return ": cannot be executed: too many levels of symbolic links\n";
	}
	return ": cannot be executed\n";
}

/* tell writes its line in one piece. It cuts off a long name, never the reason. */
static void tell(const char *mark, const char *program, const char *why) {
	static char line[PATH_MAX + 256];
	const char *parts[] = {"moat", *mark ? "-" : "", mark, ": ", program, why};
	char *end = line, *limit = line + PATH_MAX;
	for (int i = 0; i < 6; i++) {
		if (i == 5)
			limit = line + sizeof line - 1;
		for (const char *s = parts[i]; *s && end < limit;)
			*end++ = *s++;
	}
	say(line);
}

void run(long *stack) {
	long argc = stack[0];
	char **argv = (char **)(stack + 1);
	if (argc < 3)
		leave(NOT_RELEASED);
	await_release(argv[1][0], argv[1] + 1);
	long error = execute(argv + 2, argv + argc + 1);
	tell(argv[1] + 1, argv[2], reason(error));
	leave(is_missing(error) ? 127 : 126);
}
