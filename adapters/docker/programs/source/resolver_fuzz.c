/* Fuzzes the resolver under the sanitizers: each input decides what a simulated kernel
 * answers. The simulation also checks that a message goes only where it belongs, that the
 * resolver uses no closed socket and that it loses none. build.sh runs it on pseudo-random
 * inputs; libFuzzer can call LLVMFuzzerTestOneInput as well (-DLIBFUZZER). */

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SIMULATED
static long call(long number, long a, long b, long c, long d, long e, long f);
#include "resolver.c"

enum { FILES = 3 + 2 + UDP + TCP + 8, FAILED = -5, INTERRUPTED = -4 };

enum kind { CLOSED, QUERIES_IN, CONNECTIONS_IN, UNNAMED, QUERY, CONNECTION, RESOLV_CONF };

static struct open {
	enum kind kind;
	struct address asker; /* of a query */
	int peer;             /* of a connection */
} files[FILES];

static const unsigned char *input;
static size_t left;
static jmp_buf finished;

static struct { long fd, length; struct address from; } received; /* the last message */
static int accepted;                                              /* a connection that has no peer yet */
static u32 own;
static unsigned liveliness; /* how often anything but the listeners has news */
static char original[sizeof file];

static void hold(int condition, const char *rule) {
	if (!condition) {
		fprintf(stderr, "broken: %s\n", rule);
		abort();
	}
}

static unsigned next(void) {
	if (!left)
		return 0;
	left--;
	return *input++;
}

/* fails is seldom true, so that inputs get far. */
static int fails(void) { return next() >= 248; }

static struct open *opened(long fd) {
	hold(fd >= 0 && fd < FILES && files[fd].kind != CLOSED, "only open files are used");
	return &files[fd];
}

static long open_as(enum kind kind) {
	for (long fd = 3; fd < FILES; fd++)
		if (files[fd].kind == CLOSED) {
			files[fd] = (struct open){.kind = kind, .peer = -1};
			return fd;
		}
	hold(0, "no socket is lost");
	return FAILED;
}

/* Few addresses, of which some share a place. */
static struct address any_client(void) {
	unsigned choice = next();
	return (struct address){INET, (u16)(choice >> 4), (u32)((choice & 3) + (choice & 4 ? CLIENTS : 0)) << 24, {0}};
}

static long read_file(char *to, long size) {
	static const char *pieces[] = {"search example.com\n", "options ndots:0\n", "names\n", "\n", " ", "#", "nameserver", "nameserver 127.0.0.11\n"};
	long length = 0;
	unsigned kinds = 1 + next() % 8;
	for (unsigned count = next() * 2; count; count--) {
		const char *piece = pieces[next() % kinds];
		for (; *piece && length < size; piece++)
			to[length++] = *piece;
	}
	memcpy(original, to, length);
	original[length] = 0;
	return length;
}

static void check_file(const char *written, long length) {
	static char want[sizeof original + 64];
	int end = snprintf(want, sizeof want, "nameserver %u.%u.%u.%u\n", own & 255, own >> 8 & 255, own >> 16 & 255, own >> 24);
	for (const char *line = original; *line;) {
		const char *next_line = strchr(line, '\n');
		next_line = next_line ? next_line + 1 : line + strlen(line);
		if (strncmp(line, "nameserver", 10)) {
			memcpy(want + end, line, next_line - line);
			end += next_line - line;
		}
		line = next_line;
	}
	hold(length == end && !memcmp(written, want, end), "resolv.conf keeps all but its name servers");
}

static long poll_all(struct poll *all, long count) {
	int sockets_open = 0, polled = 0;
	hold(count == 2 + UDP + TCP, "all sockets are polled");
	for (long fd = 0; fd < FILES; fd++)
		sockets_open += files[fd].kind != CLOSED && files[fd].kind != RESOLV_CONF;
	for (long i = 0; i < count; i++) {
		all[i].revents = 0;
		if (all[i].fd < 0)
			continue;
		polled++;
		opened(all[i].fd);
		hold(all[i].events == READABLE, "only input is waited for");
	}
	hold(sockets_open == polled, "each open socket is polled once");
	if (!left)
		longjmp(finished, 1);
	if (fails())
		return INTERRUPTED;
	unsigned which = next();
	all[0].revents = which & 1;
	all[1].revents = which >> 1 & 1;
	unsigned every = 1 + (which >> 2 & 7), i = 0;
	for (long at = 2; which < liveliness && at < count; at++)
		if (all[at].fd >= 0 && i++ % every == 0)
			all[at].revents = which & 64 ? READABLE : 16; /* hung up */
	return 1;
}

static long receive_from(long fd, char *to, long size, struct address *from) {
	enum kind kind = opened(fd)->kind;
	hold(kind == QUERIES_IN || kind == QUERY || kind == CONNECTION, "messages come from sockets that have some");
	received.fd = fd;
	if (fails())
		return FAILED;
	unsigned choice = next();
	long length = choice < 8 ? 0 : choice > 250 ? size : choice;
	memset(to, (int)choice, length);
	received.length = length;
	if (from)
		*from = received.from = any_client();
	return length;
}

static int is_same(const struct address *a, const struct address *b) { return a->ip == b->ip && a->port == b->port; }

static long send_to(long fd, long length, const struct address *to) {
	struct open *file = opened(fd), *source = opened(received.fd);
	hold(length == received.length, "messages are passed on whole");
	switch (file->kind) {
	case QUERY:
		hold(source->kind == QUERIES_IN, "the engine is asked for clients");
		file->asker = received.from;
		break;
	case QUERIES_IN:
		hold(source->kind == QUERY && to && is_same(to, &source->asker), "an answer goes to the client that asked");
		break;
	default:
		hold(file->kind == CONNECTION && source->peer == fd, "a connection's bytes go to its other end");
	}
	return fails() ? FAILED : fails() ? length / 2 : length;
}

static long close_file(long fd) {
	struct open *file = opened(fd);
	if (file->kind == QUERY && received.fd != fd && file->asker.family)
		hold(place_of(&file->asker) == place_of(&received.from), "a query gives way only to its own client's");
	file->kind = CLOSED;
	return 0;
}

static long connect_to(long fd, const struct address *to) {
	struct open *file = opened(fd);
	hold(is_same(to, &engine), "only the engine is connected to");
	if (file->kind == CONNECTION) {
		file->peer = accepted;
		opened(accepted)->peer = (int)fd;
	} else
		file->kind = QUERY;
	return fails() ? FAILED : 0;
}

static long call(long number, long a, long b, long c, long d, long e, long f) {
	(void)d, (void)f;
	switch (number) {
	case SOCKET:
		if (fails())
			return FAILED;
		return open_as(b == (STREAM | CLOSE_ON_EXEC) ? CONNECTION : UNNAMED);
	case CONNECT:
		return connect_to(a, (struct address *)b);
	case BIND:
		hold(is_same((struct address *)b, &everywhere), "the resolver listens on port 53");
		opened(a)->kind = files[3].kind == QUERIES_IN ? CONNECTIONS_IN : QUERIES_IN;
		return fails() ? FAILED : 0;
	case LISTEN:
		return fails() ? FAILED : 0;
	case ACCEPT:
		hold(opened(a)->kind == CONNECTIONS_IN, "connections come from their listener");
		if (fails())
			return FAILED;
		*(struct address *)b = any_client();
		return accepted = (int)open_as(CONNECTION);
	case RECVFROM:
		return receive_from(a, (char *)b, c, (struct address *)e);
	case SENDTO:
		return send_to(a, c, (struct address *)e);
	case POLL:
		return poll_all((struct poll *)a, b);
	case CLOSE:
		return close_file(a);
	case IOCTL:
		own = next() | next() << 8 | next() << 16 | (u32)next() << 24;
		((struct interface *)c)->address.ip = own;
		return fails() ? FAILED : 0;
	case OPENAT:
		hold(!strcmp((char *)b, "/etc/resolv.conf"), "resolv.conf is the only file");
		return fails() ? FAILED : open_as(RESOLV_CONF);
	case READ:
		return fails() ? FAILED : read_file((char *)b, c);
	case WRITE:
		if (a == 2)
			return c;
		hold(opened(a)->kind == RESOLV_CONF, "resolv.conf is the only file");
		check_file((char *)b, c);
		return fails() ? c - 1 : c;
	case EXIT:
		longjmp(finished, 1);
	}
	hold(0, "the resolver makes no other system calls");
	return FAILED;
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size) {
	input = data;
	left = size;
	liveliness = next();
	memset(files, 0, sizeof files);
	memset(&received, 0, sizeof received);
	memset(askers, 0, sizeof askers);
	memset(oldest, 0, sizeof oldest);
	memset(file, 0, sizeof file);
	if (!setjmp(finished))
		run();
	return 0;
}

#ifndef LIBFUZZER
int main(int argc, char **argv) {
	static unsigned char data[2048];
	unsigned long state = 1;
	int runs = argc > 1 ? atoi(argv[1]) : 1;
	for (int i = 0; i < runs; i++) {
		for (size_t at = 0; at < sizeof data; at++) {
			state = state * 6364136223846793005ul + 1442695040888963407ul;
			data[at] = state >> 56;
		}
		LLVMFuzzerTestOneInput(data, sizeof data);
	}
	printf("the resolver held in %d runs\n", runs);
	return 0;
}
#endif
