/* The gate runs a program in its terminal once that has a size. An engine gives a
 * container's terminal its size only after the start, when the program may have asked
 * for it already. build.sh makes the binaries beside this file of it. */

struct size { unsigned short rows, columns, x, y; };
struct timespec { long seconds, nanoseconds; };

#if defined(__x86_64__)
enum { READ_SIZE_CALL = 16, SLEEP = 35, EXECUTE = 59, EXIT = 60, WRITE = 1 };

static long call(long number, long a, long b, long c) {
	long result;
	__asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
	return result;
}

__asm__(".globl _start\n_start:\n\tmov %rsp, %rdi\n\tand $-16, %rsp\n\tcall run\n");
#elif defined(__aarch64__)
enum { READ_SIZE_CALL = 29, SLEEP = 101, EXECUTE = 221, EXIT = 93, WRITE = 64 };

static long call(long number, long a, long b, long c) {
	register long x8 __asm__("x8") = number, x0 __asm__("x0") = a, x1 __asm__("x1") = b, x2 __asm__("x2") = c;
	__asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2) : "memory");
	return x0;
}

__asm__(".globl _start\n_start:\n\tmov x0, sp\n\tbl run\n");
#endif

enum {
	TIOCGWINSZ = 0x5413,
	PATIENCE = 1000, /* milliseconds, for containers that are started without Moat */
	NOT_FOUND = -2,
	PATH_MAX = 4096,
};

static void await_size(void) {
	struct timespec millisecond = {0, 1000000};
	struct size size = {0};
	for (int i = 0; i < PATIENCE; i++) {
		if (call(READ_SIZE_CALL, 0, TIOCGWINSZ, (long)&size) < 0 || (size.rows && size.columns))
			return;
		call(SLEEP, (long)&millisecond, 0, 0);
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
		return call(EXECUTE, (long)argv[0], (long)argv, (long)env);
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
			long error = call(EXECUTE, (long)file, (long)argv, (long)env);
			if (error != NOT_FOUND)
				result = error;
		}
		while (*path && *path != ':')
			path++;
		if (!*path)
			return result;
	}
}

static void say(const char *s) {
	long length = 0;
	while (s[length])
		length++;
	call(WRITE, 2, (long)s, length);
}

void run(long *stack) {
	long argc = stack[0];
	char **argv = (char **)(stack + 1);
	await_size();
	long error = execute(argv + 1, argv + argc + 1);
	say("moat: ");
	say(argv[1]);
	say(error == NOT_FOUND ? ": no such program\n" : ": cannot be executed\n");
	call(EXIT, error == NOT_FOUND ? 127 : 126, 0, 0);
	for (;;) {
	}
}
