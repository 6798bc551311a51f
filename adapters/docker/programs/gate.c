/* The gate becomes a program once that may begin: gate MODE PROGRAM ARGUMENTS. An engine
 * gives a container's terminal its size only after the start, when the program may have
 * asked for it already; and it has no way to start a container but not its program.
 * build.sh makes the binaries beside this file of it. */

#include "system.h"

struct size { unsigned short rows, columns, x, y; };
struct timespec { long seconds, nanoseconds; };

enum {
	TIOCGWINSZ = 0x5413,
	PATIENCE = 10000, /* milliseconds, for containers that are started without Moat */
	HELD_BETWEEN = 5, /* milliseconds between two looks, where it may take long */
	NOT_FOUND = -2,
	INTERRUPTED = -4,
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

/* await_byte takes one byte of the input. Its end is that of whoever would send it. */
static void await_byte(void) {
	char byte;
	long got;
	do
		got = call(READ, 0, (long)&byte, 1, 0, 0, 0);
	while (got == INTERRUPTED);
	if (got != 1)
		leave(NOT_RELEASED);
}

static void empty_input(void) {
	long file = call(OPENAT, HERE, (long)"/dev/null", 0, 0, 0, 0);
	if (file < 0 || call(DUP3, file, 0, 0, 0, 0, 0) < 0)
		leave(NOT_RELEASED);
	call(CLOSE, file, 0, 0, 0, 0, 0);
}

/* await_release waits as the mode says: s: for a terminal's size; S: the same, and no
 * program without; b: for a byte of the input; B: the same, and no more input. */
static void await_release(char mode) {
	if (mode == 's' || mode == 'S') {
		await_size(mode == 'S');
		return;
	}
	await_byte();
	if (mode == 'B')
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
			if (error != NOT_FOUND)
				result = error;
		}
		while (*path && *path != ':')
			path++;
		if (!*path)
			return result;
	}
}

/* tell writes its line in one piece, by which Moat knows it from a program's output. */
static void tell(const char *program, const char *what) {
	static char line[PATH_MAX + 64];
	const char *parts[] = {"moat: ", program, what};
	char *end = line;
	for (int i = 0; i < 3; i++)
		for (const char *s = parts[i], *limit = line + PATH_MAX + i * 24; *s && end < limit;)
			*end++ = *s++;
	say(line);
}

void run(long *stack) {
	long argc = stack[0];
	char **argv = (char **)(stack + 1);
	if (argc < 3)
		leave(NOT_RELEASED);
	await_release(argv[1][0]);
	long error = execute(argv + 2, argv + argc + 1);
	tell(argv[2], error == NOT_FOUND ? ": no such program\n" : ": cannot be executed\n");
	leave(error == NOT_FOUND ? 127 : 126);
}
