/* The check tries to leave a network, from within a container that is on it. It prints a
 * line for each attempt: "tcp:192.0.2.1:80 connected". Its arguments are the attempts:
 * "tcp:ADDRESS:PORT" connects, "udp:ADDRESS:PORT" sends a datagram, "vsock" opens a socket
 * of that family. It ends when nothing is open any more, or when there has been no news for
 * a while.
 *
 * With the argument "open:MARK" it has the gate with this mark let its program begin, and
 * ends when it does.
 * build.sh makes its binaries. */

#include "system.h"

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;

struct address { u16 family, port; u32 ip; char zero[8]; };
struct poll { int fd; short events, revents; };
struct timespec { long seconds, nanoseconds; };

enum {
	UNIX = 1, INET = 2, VSOCK = 40, STREAM = 1, DATAGRAM = 2, CLOSE_ON_EXEC = 02000000, NON_BLOCKING = 04000,
	SOCKET_LEVEL = 1, BROADCAST = 6, DEVICE = 25, DONT_ROUTE = 5, ERROR = 4,
	NO_SIGNAL = 0x4000, WRITABLE = 4,
	IN_PROGRESS = -115,
	ATTEMPTS = 32,
	CALLS = 1000, BETWEEN_CALLS = 5000000, /* nanoseconds: the gate may just be starting */
	PATIENCE = 150, /* milliseconds without any news: what answers is on the same machine */
	FIRST_PATIENCE = 3000, /* while the first attempt is open, which is to succeed */
};

static struct poll sockets[ATTEMPTS];
static const char *names[ATTEMPTS];

static long length_of(const char *s) {
	long length = 0;
	while (s[length])
		length++;
	return length;
}

/* parse reads "ADDRESS:PORT", and leaves the program where it is none. */
static struct address parse(const char *s) {
	struct address to = {INET, 0, 0, {0}};
	for (int part = 0; part < 5; part++) {
		u32 value = 0, digits = 0;
		for (; *s >= '0' && *s <= '9' && digits < 5; s++, digits++)
			value = value * 10 + (*s - '0');
		if (!digits || value > (part < 4 ? 255u : 65535u) || *s++ != (part < 3 ? '.' : part < 4 ? ':' : 0))
			leave(2);
		if (part < 4)
			to.ip |= value << 8 * part;
		else
			to.port = (u16)(value << 8 | value >> 8);
	}
	return to;
}

static void tell(const char *attempt, const char *result) {
	static char line[128];
	const char *parts[] = {attempt, " ", result, "\n"};
	char *end = line;
	for (int i = 0; i < 4; i++)
		for (const char *s = parts[i]; *s && end < line + sizeof line; s++)
			*end++ = *s;
	call(WRITE, 1, (long)line, end - line, 0, 0, 0);
}

/* attempt_datagram sends as many ways as there are: by the routes, and without them by the
 * first interface. */
static void attempt_datagram(const char *name, const struct address *to) {
	static const char device[] = "eth0"; /* engines name it so */
	int yes = 1, sent = 0;
	for (int bound = 0; bound < 2; bound++) {
		long fd = call(SOCKET, INET, DATAGRAM | CLOSE_ON_EXEC | NON_BLOCKING, 0, 0, 0, 0);
		if (fd < 0)
			continue;
		call(SETSOCKOPT, fd, SOCKET_LEVEL, BROADCAST, (long)&yes, sizeof yes, 0);
		if (bound) {
			call(SETSOCKOPT, fd, SOCKET_LEVEL, DEVICE, (long)device, sizeof device, 0);
			call(SETSOCKOPT, fd, SOCKET_LEVEL, DONT_ROUTE, (long)&yes, sizeof yes, 0);
		}
		sent |= call(SENDTO, fd, (long)"moat check", 10, NO_SIGNAL, (long)to, sizeof *to) == 10;
		call(CLOSE, fd, 0, 0, 0, 0, 0);
	}
	tell(name, sent ? "sent" : "failed");
}

static void attempt_vsock(const char *name) {
	long fd = call(SOCKET, VSOCK, STREAM | CLOSE_ON_EXEC, 0, 0, 0, 0);
	tell(name, fd >= 0 ? "opened" : "failed");
	if (fd >= 0)
		call(CLOSE, fd, 0, 0, 0, 0, 0);
}

static int attempt_connection(const struct address *to) {
	long fd = call(SOCKET, INET, STREAM | CLOSE_ON_EXEC | NON_BLOCKING, 0, 0, 0, 0);
	if (fd < 0)
		return -1;
	long error = call(CONNECT, fd, (long)to, sizeof *to, 0, 0, 0);
	if (error == 0 || error == IN_PROGRESS)
		return fd;
	call(CLOSE, fd, 0, 0, 0, 0, 0);
	return -1;
}

static int is_connected(long fd) {
	int error = 0, size = sizeof error;
	return call(GETSOCKOPT, fd, SOCKET_LEVEL, ERROR, (long)&error, (long)&size, 0) == 0 && error == 0;
}

/* open_gate calls the gate until it answers. */
static void open_gate(const char *mark) {
	static struct { u16 family; char name[64]; } gate; /* all zero, the first byte of the name too */
	struct timespec pause = {0, BETWEEN_CALLS};
	char answer;
	int length = 1;
	gate.family = UNIX;
	for (const char *s = "moat-"; *s;)
		gate.name[length++] = *s++;
	for (; *mark && length < (int)sizeof gate.name; length++)
		gate.name[length] = *mark++;
	for (int i = 0; i < CALLS; i++) {
		long fd = call(SOCKET, UNIX, STREAM | CLOSE_ON_EXEC, 0, 0, 0, 0);
		if (fd < 0)
			leave(3);
		if (!call(CONNECT, fd, (long)&gate, length + 2, 0, 0, 0))
			leave(call(READ, fd, (long)&answer, 1, 0, 0, 0) == 1 ? 0 : 4);
		call(CLOSE, fd, 0, 0, 0, 0, 0);
		call(SLEEP, (long)&pause, 0, 0, 0, 0, 0);
	}
	leave(5);
}

void run(long *stack) {
	char **argv = (char **)(stack + 1);
	long count = stack[0] - 1, open = 0;
	if (count < 1 || count > ATTEMPTS)
		leave(2);
	if (argv[1][0] == 'o' && length_of(argv[1]) > 5)
		open_gate(argv[1] + 5);
	for (long i = 0; i < count; i++) {
		const char *name = names[i] = argv[i + 1];
		if (name[0] == 'v') {
			sockets[i] = (struct poll){-1, WRITABLE, 0};
			attempt_vsock(name);
			continue;
		}
		int stream = name[0] == 't';
		if (length_of(name) < 5 || name[3] != ':' || !(stream || name[0] == 'u'))
			leave(2);
		struct address to = parse(name + 4);
		sockets[i] = (struct poll){-1, WRITABLE, 0};
		if (!stream) {
			attempt_datagram(name, &to);
			continue;
		}
		sockets[i].fd = attempt_connection(&to);
		if (sockets[i].fd < 0)
			tell(name, "failed");
		else
			open++;
	}
	while (open) {
		long wait = sockets[0].fd >= 0 ? FIRST_PATIENCE : PATIENCE;
		struct timespec patience = {wait / 1000, wait % 1000 * 1000000};
		long ready = call(POLL, (long)sockets, count, (long)&patience, 0, 0, 0);
		if (ready == 0)
			break;
		for (long i = 0; ready > 0 && i < count; i++) {
			if (sockets[i].fd < 0 || !sockets[i].revents)
				continue;
			tell(names[i], is_connected(sockets[i].fd) ? "connected" : "failed");
			call(CLOSE, sockets[i].fd, 0, 0, 0, 0, 0);
			sockets[i].fd = -1;
			open--;
		}
	}
	for (long i = 0; i < count; i++)
		if (sockets[i].fd >= 0)
			tell(names[i], "failed");
	leave(0);
}
