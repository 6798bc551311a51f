/* The resolver answers the lookups of sandboxed containers on a network of the engine's.
 * The engine's own name server can be reached only by a container whose packets the host's
 * kernel sees, as this one's: it hands queries and answers on, and reads neither. It
 * writes its address into its /etc/resolv.conf, a file that sandboxed containers mount.
 * build.sh makes its binaries. */

#include "system.h"

typedef unsigned short u16;
typedef unsigned int u32;

struct address { u16 family, port; u32 ip; char zero[8]; };
struct poll { int fd; short events, revents; };
struct interface { char name[16]; struct address address; char rest[8]; };

enum {
	INET = 2, STREAM = 1, DATAGRAM = 2, CLOSE_ON_EXEC = 02000000, NON_BLOCKING = 04000,
	DONT_WAIT = 0x40, NO_SIGNAL = 0x4000,
	READABLE = 1,
	GET_ADDRESS = 0x8915,
	WORKING_DIR = -100, READ_WRITE = 2, TRUNCATE = 01000,

	/* A client takes the place of its own older queries only: which are its, its address tells. */
	CLIENTS = 64,
	QUERIES = 8,
	BUFFER = 1 << 16,
};

#define UDP (CLIENTS * QUERIES)
#define TCP (CLIENTS * 2) /* each client's connection, and ours to the engine for it */

static const struct address engine = {INET, 0x3500, 0x0b00007f, {0}};      /* 127.0.0.11:53 */
static const struct address everywhere = {INET, 0x3500, 0, {0}};           /* 0.0.0.0:53 */

/* The two listeners, the queries' sockets, the connections; -1 where there is none. */
static struct poll sockets[2 + UDP + TCP];
static struct address askers[UDP];
static unsigned char oldest[CLIENTS];
static char buffer[BUFFER];

static long place_of(const struct address *client) { return (client->ip >> 24) % CLIENTS; }

static void end(struct poll *socket) {
	if (socket->fd >= 0)
		call(CLOSE, socket->fd, 0, 0, 0, 0, 0);
	socket->fd = -1;
}

static long open_socket(long kind, const struct address *peer) {
	long fd = call(SOCKET, INET, kind | CLOSE_ON_EXEC, 0, 0, 0, 0);
	if (fd >= 0 && peer && call(CONNECT, fd, (long)peer, sizeof *peer, 0, 0, 0) < 0) {
		call(CLOSE, fd, 0, 0, 0, 0, 0);
		return -1;
	}
	return fd;
}

static long send(long fd, long length, const struct address *to) {
	return call(SENDTO, fd, (long)buffer, length, DONT_WAIT | NO_SIGNAL, (long)to, to ? sizeof *to : 0);
}

static long receive(long fd, struct address *from) {
	int size = sizeof *from;
	return call(RECVFROM, fd, (long)buffer, BUFFER, DONT_WAIT, (long)from, from ? (long)&size : 0);
}

static void ask(void) {
	struct address client;
	long length = receive(sockets[0].fd, &client);
	if (length < 0)
		return;
	long place = place_of(&client), slot = place * QUERIES + oldest[place]++ % QUERIES;
	struct poll *query = &sockets[2 + slot];
	end(query);
	query->fd = open_socket(DATAGRAM, &engine);
	askers[slot] = client;
	if (query->fd >= 0)
		send(query->fd, length, 0);
}

static void answer(long slot) {
	struct poll *query = &sockets[2 + slot];
	long length = receive(query->fd, 0);
	if (length >= 0)
		send(sockets[0].fd, length, &askers[slot]);
	end(query);
}

static void connect(void) {
	struct address client;
	int size = sizeof client;
	long fd = call(ACCEPT, sockets[1].fd, (long)&client, (long)&size, CLOSE_ON_EXEC, 0, 0);
	if (fd < 0)
		return;
	struct poll *pair = &sockets[2 + UDP + place_of(&client) * 2];
	end(&pair[0]);
	end(&pair[1]);
	pair[0].fd = fd;
	pair[1].fd = open_socket(STREAM, &engine);
	if (pair[1].fd < 0)
		end(&pair[0]);
}

/* Who does not take what it asked for is cut off: nobody is waited for. */
static void pass_on(long index) {
	struct poll *from = &sockets[2 + UDP + index], *to = &sockets[2 + UDP + (index ^ 1)];
	long length = receive(from->fd, 0);
	if (length <= 0 || send(to->fd, length, 0) != length) {
		end(from);
		end(to);
	}
}

/* write_decimal returns the end of what it has written. */
static char *write_decimal(char *to, u32 value) {
	if (value >= 10)
		to = write_decimal(to, value / 10);
	*to++ = '0' + value % 10;
	return to;
}

static int is_name_server(const char *line) {
	for (const char *word = "nameserver"; *word; word++)
		if (*line++ != *word)
			return 0;
	return 1;
}

static char file[4096], changed[sizeof file + 64];

/* name_itself puts this container's address in the place of the engine's. */
static int name_itself(void) {
	struct interface interface = {"eth0", {0}, {0}};
	if (call(IOCTL, sockets[0].fd, GET_ADDRESS, (long)&interface, 0, 0, 0) < 0)
		return 0;
	long fd = call(OPENAT, WORKING_DIR, (long)"/etc/resolv.conf", READ_WRITE, 0, 0, 0);
	long length = fd < 0 ? fd : call(READ, fd, (long)file, sizeof file - 1, 0, 0, 0);
	if (length < 0)
		return 0;
	call(CLOSE, fd, 0, 0, 0, 0, 0);
	char *to = changed;
	for (const char *s = "nameserver "; *s; s++)
		*to++ = *s;
	for (int i = 0; i < 4; i++) {
		to = write_decimal(to, interface.address.ip >> 8 * i & 255);
		*to++ = i < 3 ? '.' : '\n';
	}
	for (const char *line = file; *line;) {
		int kept = !is_name_server(line);
		for (; *line; line++) {
			if (kept)
				*to++ = *line;
			if (*line == '\n') {
				line++;
				break;
			}
		}
	}
	fd = call(OPENAT, WORKING_DIR, (long)"/etc/resolv.conf", READ_WRITE | TRUNCATE, 0, 0, 0);
	return fd >= 0 && call(WRITE, fd, (long)changed, to - changed, 0, 0, 0) == to - changed;
}

static long listen(long kind) {
	long fd = open_socket(kind, 0);
	if (fd < 0 || call(BIND, fd, (long)&everywhere, sizeof everywhere, 0, 0, 0) < 0)
		return -1;
	if (kind == (STREAM | NON_BLOCKING) && call(LISTEN, fd, CLIENTS, 0, 0, 0, 0) < 0)
		return -1;
	return fd;
}

void run(void) {
	for (unsigned i = 0; i < sizeof sockets / sizeof *sockets; i++)
		sockets[i] = (struct poll){-1, READABLE, 0};
	sockets[0].fd = listen(DATAGRAM);
	sockets[1].fd = listen(STREAM | NON_BLOCKING);
	if (sockets[0].fd < 0 || sockets[1].fd < 0) {
		say("port 53 cannot be listened on\n");
		leave(1);
	}
	if (!name_itself()) {
		say("/etc/resolv.conf cannot be written, or eth0 has no address\n");
		leave(1);
	}
	say("ready\n");
	for (;;) {
		if (call(POLL, (long)sockets, sizeof sockets / sizeof *sockets, 0, 0, 0, 0) < 0)
			continue;
		for (long slot = 0; slot < UDP; slot++)
			if (sockets[2 + slot].revents)
				answer(slot);
		for (long i = 0; i < TCP; i++)
			if (sockets[2 + UDP + i].fd >= 0 && sockets[2 + UDP + i].revents)
				pass_on(i);
		if (sockets[0].revents)
			ask();
		if (sockets[1].revents)
			connect();
	}
}
