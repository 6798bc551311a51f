/* System calls without a C library, for programs that run in any image. A test that
 * defines SIMULATED brings a kernel of its own: the function call. */

#if defined(__x86_64__)
enum {
	READ = 0, WRITE = 1, OPENAT = 257, CLOSE = 3, IOCTL = 16, SLEEP = 35, SOCKET = 41, CONNECT = 42, ACCEPT = 288, SENDTO = 44,
	RECVFROM = 45, BIND = 49, LISTEN = 50, EXECUTE = 59, EXIT = 60, POLL = 271, DUP3 = 292, UNAME = 63,
	MKDIRAT = 258, SYSLOG = 103, GETSOCKNAME = 51, SETSOCKOPT = 54, GETSOCKOPT = 55, SIGPROCMASK = 14, SIGNALFD = 289,
};

#ifndef SIMULATED
static long call(long number, long a, long b, long c, long d, long e, long f) {
	register long r10 __asm__("r10") = d, r8 __asm__("r8") = e, r9 __asm__("r9") = f;
	long result;
	__asm__ volatile("syscall"
	                 : "=a"(result)
	                 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
	                 : "rcx", "r11", "memory");
	return result;
}

__asm__(".globl _start\n_start:\n\tmov %rsp, %rdi\n\tand $-16, %rsp\n\tcall run\n");
#endif
#elif defined(__aarch64__)
enum {
	READ = 63, WRITE = 64, OPENAT = 56, CLOSE = 57, IOCTL = 29, SLEEP = 101, SOCKET = 198, CONNECT = 203, ACCEPT = 242, SENDTO = 206,
	RECVFROM = 207, BIND = 200, LISTEN = 201, EXECUTE = 221, EXIT = 93, POLL = 73, DUP3 = 24, UNAME = 160,
	MKDIRAT = 34, SYSLOG = 116, GETSOCKNAME = 204, SETSOCKOPT = 208, GETSOCKOPT = 209, SIGPROCMASK = 135, SIGNALFD = 74,
};

#ifndef SIMULATED
static long call(long number, long a, long b, long c, long d, long e, long f) {
	register long x8 __asm__("x8") = number, x0 __asm__("x0") = a, x1 __asm__("x1") = b, x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d, x4 __asm__("x4") = e, x5 __asm__("x5") = f;
	__asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
	return x0;
}

__asm__(".globl _start\n_start:\n\tmov x0, sp\n\tbl run\n");
#endif
#endif

__attribute__((unused)) static void say(const char *s) {
	long length = 0;
	while (s[length])
		length++;
	call(WRITE, 2, (long)s, length, 0, 0, 0);
}

static void leave(int status) {
	for (;;)
		call(EXIT, status, 0, 0, 0, 0, 0);
}
