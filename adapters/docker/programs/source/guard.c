/* The guard closes the engine's host to what is on one network: guard BRIDGE. The host has
 * no address on an internal network, but the network's bridge is one of its interfaces, and
 * takes datagrams. The guard runs in the host's network namespace with CAP_NET_ADMIN. It
 * makes a chain of nftables that drops all that the bridge hands to the host, of any
 * protocol. Frames from port to port of the bridge do not pass there.
 *
 * guard BRIDGE ADDRESS:PORT is for a network that is not internal. It makes an exception for
 * TCP to that destination, on the host or beyond it, and for ARP, without which the network
 * could not find its gateway. What comes back to the network does not pass the chain.
 *
 * "ready" says that the chain is there. From then on, a chain that is removed or changed is
 * made again. When the bridge is gone, which takes no chain with it on many kernels, the
 * guard removes the chain and says "gone". It goes on: the bridge may come back.
 *
 * At SIGUSR1 it listens on a port of all addresses of the host, over TCP and UDP: "listening
 * TIMES PORT", where TIMES counts how often. At SIGUSR2 it stops that, and says how many
 * frames the chain has dropped meanwhile, and how many of the check's datagrams have come
 * through: "heard TIMES dropped FRAMES arrived DATAGRAMS". Who connects over TCP sees that
 * it has come through.
 *
 * Each guard first removes the chains of bridges that are gone, which killed guards left.
 * build.sh makes its binaries. */

#include "system.h"

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

struct header { u32 length; u16 type, flags; u32 sequence, port; u8 family, version; u16 resource; };
struct address { u16 family, port; u32 flow; u8 ip[16]; u32 scope; };
struct poll { int fd; short events, revents; };

enum {
	NETLINK = 16, RAW = 3, NETFILTER = 12, ROUTE = 0,
	LINK_CHANGES = 1 << 0, RULE_CHANGES = 1 << 6, /* groups of the two */
	INET = 2, INET6 = 10, STREAM = 1, DATAGRAM = 2, CLOSE_ON_EXEC = 02000000, NON_BLOCKING = 04000,
	READABLE = 1,

	BATCH_BEGIN = 0x10, BATCH_END = 0x11, NFTABLES = 10, NETDEV = 5,
	NEW_TABLE = NFTABLES << 8 | 0, DELETE_TABLE = NFTABLES << 8 | 2,
	NEW_CHAIN = NFTABLES << 8 | 3, GET_CHAIN = NFTABLES << 8 | 4, DELETE_CHAIN = NFTABLES << 8 | 5,
	NEW_RULE = NFTABLES << 8 | 6,
	REQUEST = 1, ACKNOWLEDGE = 4, CREATE = 0x400, APPEND = 0x800, EXCLUSIVE = 0x200, NOT_RECURSIVE = 0x100, DUMP = 0x300, ERROR = 2, DONE = 3,
	NESTED = 0x8000, TYPE = 0x3fff,

	TABLE_NAME = 1,
	CHAIN_TABLE = 1, CHAIN_NAME = 3, CHAIN_HOOK = 4, CHAIN_POLICY = 5, CHAIN_USE = 6, CHAIN_TYPE = 7, CHAIN_COUNTERS = 8,
	HOOK_NUMBER = 1, HOOK_PRIORITY = 2, HOOK_DEVICE = 3,
	COUNTER_BYTES = 1, COUNTER_PACKETS = 2,
	RULE_TABLE = 1, RULE_CHAIN = 2, RULE_EXPRESSIONS = 4, ELEMENT = 1, EXPRESSION_NAME = 1, EXPRESSION_DATA = 2,
	META_TO = 1, META_KEY = 2, PROTOCOL = 1,
	PAYLOAD_TO = 1, PAYLOAD_BASE = 2, PAYLOAD_OFFSET = 3, PAYLOAD_LENGTH = 4, NETWORK_HEADER = 1, TRANSPORT_HEADER = 2,
	COMPARE_FROM = 1, COMPARE_HOW = 2, COMPARE_DATA = 3, EQUAL = 0,
	IMMEDIATE_TO = 1, IMMEDIATE_DATA = 2, DATA_VALUE = 1, DATA_VERDICT = 2, VERDICT_CODE = 1,
	TO_VERDICT = 0, REGISTER = 1, ACCEPTED = 1,
	DROP = 0, INGRESS = 0, PRIORITY = -500,

	NO_ENTRY = -2, NO_DEVICE = -19, CHANGED = -1000,
	GET_INDEX = 0x8933, NAME = 16,
	AT_ONCE = 1000, /* whoever sends without end does not keep it from ending */
	TRIES = 20,
	DONT_WAIT = 0x40,
	USR1 = 10, USR2 = 12, BLOCK = 0, SIGNAL_INFO = 128,
};

static char request[2048], reply[8192];
static char *at;
static long netlink;

static u32 big(u32 value) { return __builtin_bswap32(value); }

static long length_of(const char *s) {
	long length = 0;
	while (s[length])
		length++;
	return length;
}

static void fail(const char *what, long error) {
	char number[] = "000\n", *digit = number + 2;
	for (error = -error; error > 0 && digit >= number; error /= 10)
		*digit-- = '0' + error % 10;
	say(what);
	say(": error ");
	say(number);
	leave(1);
}

static struct header *message(u16 type, u16 flags, u8 family) {
	struct header *h = (struct header *)at;
	*h = (struct header){sizeof *h, type, flags | REQUEST, 1, 0, family, 0, 0};
	at += sizeof *h;
	return h;
}

static void finish(struct header *h) { h->length = at - (char *)h; }

static u16 *attribute(u16 type, const void *value, long length) {
	u16 *a = (u16 *)at;
	a[0] = 4 + length;
	a[1] = type;
	at += 4;
	for (const char *from = value; length > 0; length--)
		*at++ = *from++;
	while ((at - request) % 4)
		*at++ = 0;
	return a;
}

static void text(u16 type, const char *value) { attribute(type, value, length_of(value) + 1); }

static void number(u16 type, u32 value) {
	value = big(value);
	attribute(type, &value, sizeof value);
}

static u16 *begin(u16 type) { return attribute(type | NESTED, 0, 0); }
static void end(u16 *nest) { nest[0] = at - (char *)nest; }

static void batch(u16 type) {
	struct header *h = message(type, 0, 0);
	h->resource = NFTABLES << 8; /* in network byte order */
	finish(h);
}

static long ask(void) {
	while (call(RECVFROM, netlink, (long)reply, sizeof reply, DONT_WAIT, 0, 0) >= 0)
		; /* further answers to the request before: one for each message of a batch */
	long sent = call(SENDTO, netlink, (long)request, at - request, 0, 0, 0);
	return sent < 0 ? sent : call(RECVFROM, netlink, (long)reply, sizeof reply, 0, 0, 0);
}

/* error_of returns the error that an answer has, 0 for success or data. */
static long error_of(const char *answer) {
	const struct header *h = (const struct header *)answer;
	return h->type == ERROR ? *(const int *)(answer + 16) : 0;
}

/* change sends a batch of the messages that write writes, which takes effect as a whole,
 * and returns the first error. */
static long change(void (*write)(const char *), const char *device) {
	at = request;
	batch(BATCH_BEGIN);
	write(device);
	batch(BATCH_END);
	long length = ask();
	return length < 0 ? length : error_of(reply);
}

static const char table[] = "moat";

static void write_name(const char *device) {
	text(CHAIN_TABLE, table);
	text(CHAIN_NAME, device);
}

/* The exception. */
static struct { int is; u8 ip[4], port[2]; } exception;

enum { EXCEPTION_RULES = 2 };

/* parse reads the exception, "ADDRESS:PORT", and leaves the program where it is none. */
static void parse(const char *s) {
	for (int part = 0; part < 5; part++) {
		u32 value = 0, digits = 0;
		for (; *s >= '0' && *s <= '9' && digits < 5; s++, digits++)
			value = value * 10 + (*s - '0');
		if (!digits || value > (part < 4 ? 255u : 65535u) || *s++ != (part < 3 ? '.' : part < 4 ? ':' : 0))
			leave(2);
		if (part < 4) {
			exception.ip[part] = value;
		} else {
			exception.port[0] = value >> 8;
			exception.port[1] = value;
		}
	}
	exception.is = 1;
}

static u16 *begin_expression(const char *name, u16 **data) {
	u16 *element = begin(ELEMENT);
	text(EXPRESSION_NAME, name);
	*data = begin(EXPRESSION_DATA);
	return element;
}

static void equals(const void *value, long length) {
	u16 *inner, *element = begin_expression("cmp", &inner);
	number(COMPARE_FROM, REGISTER);
	number(COMPARE_HOW, EQUAL);
	u16 *data = begin(COMPARE_DATA);
	attribute(DATA_VALUE, value, length);
	end(data), end(inner), end(element);
}

static void if_payload(u32 base, u32 offset, const void *value, long length) {
	u16 *inner, *element = begin_expression("payload", &inner);
	number(PAYLOAD_TO, REGISTER);
	number(PAYLOAD_BASE, base);
	number(PAYLOAD_OFFSET, offset);
	number(PAYLOAD_LENGTH, length);
	end(inner), end(element);
	equals(value, length);
}

static void if_protocol(const void *value) {
	u16 *inner, *element = begin_expression("meta", &inner);
	number(META_TO, REGISTER);
	number(META_KEY, PROTOCOL);
	end(inner), end(element);
	equals(value, 2);
}

static void accept(void) {
	u16 *inner, *element = begin_expression("immediate", &inner);
	number(IMMEDIATE_TO, TO_VERDICT);
	u16 *data = begin(IMMEDIATE_DATA), *verdict = begin(DATA_VERDICT);
	number(VERDICT_CODE, ACCEPTED);
	end(verdict), end(data), end(inner), end(element);
}

static struct header *begin_rule(const char *device, u16 flags, u16 **expressions) {
	struct header *h = message(NEW_RULE, CREATE | APPEND | flags, NETDEV);
	text(RULE_TABLE, table);
	text(RULE_CHAIN, device);
	*expressions = begin(RULE_EXPRESSIONS);
	return h;
}

static void write_exception(const char *device) {
	static const u8 arp[] = {0x08, 0x06}, ipv4[] = {0x08, 0x00}, no_options[] = {0x45}, tcp[] = {6};
	u16 *expressions;
	struct header *h = begin_rule(device, 0, &expressions);
	if_protocol(arp);
	accept();
	end(expressions), finish(h);
	h = begin_rule(device, ACKNOWLEDGE, &expressions);
	if_protocol(ipv4);
	if_payload(NETWORK_HEADER, 0, no_options, sizeof no_options); /* such as source routes */
	if_payload(NETWORK_HEADER, 9, tcp, sizeof tcp);
	if_payload(NETWORK_HEADER, 16, exception.ip, sizeof exception.ip);
	if_payload(TRANSPORT_HEADER, 2, exception.port, sizeof exception.port);
	accept();
	end(expressions), finish(h);
}

static void create(const char *device) {
	static const u64 none;
	struct header *h = message(NEW_TABLE, CREATE, NETDEV);
	text(TABLE_NAME, table);
	finish(h);
	/* The last message of the batch is acknowledged. */
	h = message(NEW_CHAIN, CREATE | EXCLUSIVE | (exception.is ? 0 : ACKNOWLEDGE), NETDEV);
	write_name(device);
	u16 *hook = begin(CHAIN_HOOK);
	number(HOOK_NUMBER, INGRESS);
	number(HOOK_PRIORITY, PRIORITY);
	text(HOOK_DEVICE, device);
	end(hook);
	number(CHAIN_POLICY, DROP);
	text(CHAIN_TYPE, "filter");
	u16 *counters = begin(CHAIN_COUNTERS);
	attribute(COUNTER_BYTES, &none, sizeof none);
	attribute(COUNTER_PACKETS, &none, sizeof none);
	end(counters);
	finish(h);
	if (exception.is)
		write_exception(device);
}

static void delete_chain(const char *device) {
	struct header *h = message(DELETE_CHAIN, ACKNOWLEDGE, NETDEV);
	write_name(device);
	finish(h);
}

/* delete_empty deletes the table, unless it has chains. */
static void delete_empty(const char *device) {
	(void)device;
	struct header *h = message(DELETE_TABLE, ACKNOWLEDGE | NOT_RECURSIVE, NETDEV);
	text(TABLE_NAME, table);
	finish(h);
}

/* find returns an attribute's value within others, or 0. */
static const char *find(const char *from, const char *to, u16 type) {
	while (to - from >= 4) {
		const u16 *a = (const u16 *)from;
		if (a[0] < 4 || a[0] > to - from)
			return 0;
		if ((a[1] & TYPE) == type)
			return from + 4;
		from += (a[0] + 3) & ~3;
	}
	return 0;
}

static const char *find_in(const char *nest, u16 type) {
	return nest ? find(nest, nest + ((const u16 *)nest)[-2] - 4, type) : 0;
}

static int is_same(const char *a, const char *b) {
	while (*a && *a == *b)
		a++, b++;
	return *a == *b;
}

static void recreate(const char *device) {
	delete_chain(device);
	create(device);
}

/* count sets how many frames the chain has dropped, as the kernel describes it. A chain
 * that does not drop, that has not as many rules as it should, or that is on another
 * device, is CHANGED. */
static long count(const char *device, u64 *frames) {
	at = request;
	struct header *h = message(GET_CHAIN, 0, NETDEV);
	write_name(device);
	finish(h);
	long length = ask();
	if (length >= 0 && error_of(reply))
		length = error_of(reply);
	if (length < 0)
		return length;
	const char *from = reply + sizeof *h, *to = reply + length;
	const char *policy = find(from, to, CHAIN_POLICY), *on = find_in(find(from, to, CHAIN_HOOK), HOOK_DEVICE);
	const char *rules = find(from, to, CHAIN_USE), *packets = find_in(find(from, to, CHAIN_COUNTERS), COUNTER_PACKETS);
	if (!policy || *(const u32 *)policy != DROP || !rules || big(*(const u32 *)rules) != (exception.is ? EXCEPTION_RULES : 0) || !on || !is_same(on, device) || !packets)
		return CHANGED;
	const u32 *halves = (const u32 *)packets;
	*frames = (u64)big(halves[0]) << 32 | big(halves[1]);
	return 0;
}

static int exists(long fd, const char *device) {
	char asked[40] = {0};
	for (long i = 0; device[i] && i < NAME - 1; i++)
		asked[i] = device[i];
	return call(IOCTL, fd, GET_INDEX, (long)asked, 0, 0, 0) != NO_DEVICE;
}

static long open_netlink(long protocol, u32 groups) {
	struct { u16 family, zero; u32 port, groups; } own = {NETLINK, 0, 0, groups};
	long fd = call(SOCKET, NETLINK, RAW | CLOSE_ON_EXEC | (groups ? NON_BLOCKING : 0), protocol, 0, 0, 0);
	long error = fd < 0 ? fd : call(BIND, fd, (long)&own, sizeof own, 0, 0, 0);
	if (error < 0)
		fail("netlink cannot be opened", error);
	return fd;
}

/* remove_old removes the chains of bridges that are gone. Failures are the next guard's
 * affair. */
static void remove_old(long fd) {
	static char listed[32768]; /* one part of the list; the kernel makes them no longer */
	long list = open_netlink(NETFILTER, 0);
	at = request;
	finish(message(GET_CHAIN, DUMP, NETDEV));
	long length = call(SENDTO, list, (long)request, at - request, 0, 0, 0);
	while (length > 0 && (length = call(RECVFROM, list, (long)listed, sizeof listed, 0, 0, 0)) > 0) {
		for (char *part = listed; listed + length - part >= (long)sizeof(struct header);) {
			struct header *h = (struct header *)part;
			if (h->type != NEW_CHAIN || h->length < sizeof *h || h->length > listed + length - part) {
				length = 0; /* the end of the list, or an error */
				break;
			}
			const char *from = part + sizeof *h, *to = part + h->length;
			const char *owner = find(from, to, CHAIN_TABLE), *name = find(from, to, CHAIN_NAME);
			if (owner && name && is_same(owner, table) && !exists(fd, name))
				change(delete_chain, name);
			part += (h->length + 3) & ~3;
		}
	}
	call(CLOSE, list, 0, 0, 0, 0, 0);
}

static char *write_decimal(char *to, u64 value) {
	if (value >= 10)
		to = write_decimal(to, value / 10);
	*to++ = '0' + value % 10;
	return to;
}

static void tell(const char *word, u64 value, const char *after) {
	char digits[24];
	*write_decimal(digits, value) = 0;
	say(word);
	say(digits);
	say(after);
}

/* open_port opens a socket of one kind on a port of all the host's addresses. */
static long open_port(long kind, u16 *port, int family) {
	struct address everywhere = {family, *port, 0, {0}, 0};
	int size = family == INET ? 16 : sizeof everywhere;
	long fd = call(SOCKET, family, kind | CLOSE_ON_EXEC | NON_BLOCKING, 0, 0, 0, 0);
	if (fd < 0)
		return fd;
	long error = call(BIND, fd, (long)&everywhere, size, 0, 0, 0);
	if (!error && kind == STREAM)
		error = call(LISTEN, fd, 16, 0, 0, 0, 0);
	if (!error)
		error = call(GETSOCKNAME, fd, (long)&everywhere, (long)&size, 0, 0, 0);
	if (error) {
		call(CLOSE, fd, 0, 0, 0, 0, 0);
		return error;
	}
	*port = everywhere.port;
	return fd;
}

/* close_host makes the chain where it is not there as it should be, and returns whether it
 * had to. A changed one is replaced at once. */
static int close_host(const char *device) {
	u64 frames;
	long error = 0;
	for (int made = 0, i = 0; i < TRIES; i++) {
		error = count(device, &frames);
		if (!error)
			return made;
		if (error == NO_ENTRY || error == CHANGED) {
			error = change(error == CHANGED ? recreate : create, device);
			made = 1;
		}
	}
	fail("the chain cannot be made", error);
	return 0;
}

static void open_host(const char *device) {
	change(delete_chain, device);
	change(delete_empty, device);
	say("gone\n");
}

static void drain(long fd) {
	for (int i = 0; i < AT_ONCE && call(RECVFROM, fd, (long)reply, sizeof reply, 0, 0, 0) >= 0; i++)
		;
}

enum { SIGNALS, LINKS, RULES, CONNECTIONS, DATAGRAMS, SOCKETS };

static struct poll sockets[SOCKETS];

static void stop_listening(void) {
	for (int i = CONNECTIONS; i <= DATAGRAMS; i++) {
		if (sockets[i].fd >= 0)
			call(CLOSE, sockets[i].fd, 0, 0, 0, 0, 0);
		sockets[i].fd = -1;
	}
}

/* start_listening returns a port that is free both ways, in the host's byte order. */
static u16 start_listening(void) {
	for (int i = 0; i < TRIES; i++) {
		u16 port = 0;
		int family = INET6; /* takes IPv4 as well */
		stop_listening();
		sockets[CONNECTIONS].fd = open_port(STREAM, &port, family);
		if (sockets[CONNECTIONS].fd < 0)
			sockets[CONNECTIONS].fd = open_port(STREAM, &port, family = INET);
		sockets[DATAGRAMS].fd = open_port(DATAGRAM, &port, family);
		if (sockets[CONNECTIONS].fd >= 0 && sockets[DATAGRAMS].fd >= 0)
			return port << 8 | port >> 8;
	}
	fail("a port cannot be listened on", sockets[DATAGRAMS].fd);
	return 0;
}

/* hear takes what has come to the port, and returns how much of it is the check's: others
 * may send to all ports of the host. */
static u64 hear(void) {
	u64 arrived = 0;
	long got;
	for (int i = 0; i < AT_ONCE && (got = call(ACCEPT, sockets[CONNECTIONS].fd, 0, 0, CLOSE_ON_EXEC, 0, 0)) >= 0; i++)
		call(CLOSE, got, 0, 0, 0, 0, 0);
	for (int i = 0; i < AT_ONCE && (got = call(RECVFROM, sockets[DATAGRAMS].fd, (long)reply, sizeof reply - 1, 0, 0, 0)) >= 0; i++) {
		reply[got] = 0;
		arrived += is_same(reply, "moat check");
	}
	return arrived;
}

void run(long *stack) {
	const char *device = ((char **)(stack + 1))[1];
	if (stack[0] < 2 || stack[0] > 3 || length_of(device) >= NAME)
		leave(2);
	if (stack[0] == 3)
		parse(((char **)(stack + 1))[2]);
	u64 signals = 1 << (USR1 - 1) | 1 << (USR2 - 1);
	call(SIGPROCMASK, BLOCK, (long)&signals, 0, sizeof signals, 0, 0);
	netlink = open_netlink(NETFILTER, 0);
	/* Before it looks, so that it misses no change. */
	sockets[LINKS].fd = open_netlink(ROUTE, LINK_CHANGES);
	sockets[RULES].fd = open_netlink(NETFILTER, RULE_CHANGES);
	sockets[SIGNALS].fd = call(SIGNALFD, -1, (long)&signals, sizeof signals, CLOSE_ON_EXEC, 0, 0);
	if (sockets[SIGNALS].fd < 0)
		fail("signals cannot be awaited", sockets[SIGNALS].fd);
	sockets[CONNECTIONS].fd = sockets[DATAGRAMS].fd = -1;
	for (int i = 0; i < SOCKETS; i++)
		sockets[i].events = READABLE;
	long fd = call(SOCKET, INET, DATAGRAM | CLOSE_ON_EXEC, 0, 0, 0, 0);
	remove_old(fd);
	int gone = !exists(fd, device);
	if (gone) {
		open_host(device);
	} else {
		close_host(device);
		say("ready\n");
	}

	u64 times = 0, before = 0, now = 0, arrived = 0;
	for (;;) {
		if (call(POLL, (long)sockets, SOCKETS, 0, 0, 0, 0) < 0)
			continue;
		if (sockets[LINKS].revents || sockets[RULES].revents) {
			drain(sockets[LINKS].fd);
			drain(sockets[RULES].fd);
			int there = exists(fd, device);
			if (!there && !gone)
				open_host(device);
			gone = !there;
			if (there && close_host(device)) {
				say("made again\n");
				before = 0;
			}
		}
		int listening = sockets[CONNECTIONS].fd >= 0;
		if (listening) /* before the signal: what has arrived before it counts */
			arrived += hear();
		if (!sockets[SIGNALS].revents)
			continue;
		static u32 signal[SIGNAL_INFO / sizeof(u32)];
		call(READ, sockets[SIGNALS].fd, (long)signal, sizeof signal, 0, 0, 0);
		long error = gone ? NO_DEVICE : count(device, signal[0] == USR1 ? &before : &now);
		if (error)
			fail("the chain is not there", error);
		if (signal[0] == USR1) {
			arrived = 0;
			u16 port = start_listening();
			tell("listening ", ++times, " ");
			tell("", port, "\n");
		}
		if (signal[0] == USR2 && listening) {
			stop_listening();
			tell("heard ", times, " ");
			tell("dropped ", now - before, " ");
			tell("arrived ", arrived, "\n");
		}
	}
}
