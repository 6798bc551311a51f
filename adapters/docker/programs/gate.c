/* The gate runs a program in its terminal once that has a size. An engine gives a
 * container's terminal its size only after the start, when the program may have asked
 * for it already. build.sh makes the binaries beside this file of it. */

#include "system.h"

struct size { unsigned short rows, columns, x, y; };
struct timespec { long seconds, nanoseconds; };

enum {
	TIOCGWINSZ = 0x5413,
	PATIENCE = 10000, /* milliseconds, for containers that are started without Moat */
	NOT_FOUND = -2,
	PATH_MAX = 4096,
};

static void await_size(void) {
	struct timespec millisecond = {0, 1000000};
	struct size size = {0};
	for (int i = 0; i < PATIENCE; i++) {
		if (call(IOCTL, 0, TIOCGWINSZ, (long)&size, 0, 0, 0) < 0 || (size.rows && size.columns))
			return;
		call(SLEEP, (long)&millisecond, 0, 0, 0, 0, 0);
	}
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
	await_size();
	long error = execute(argv + 1, argv + argc + 1);
	tell(argv[1], error == NOT_FOUND ? ": no such program\n" : ": cannot be executed\n");
	leave(error == NOT_FOUND ? 127 : 126);
}
