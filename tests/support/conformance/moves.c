/* moves WAY PORT-OR-PATH: one connection, all of whose bytes are moved one way (see the table at the end).
 * It prints what it sent and received. Compiled for 64 and for 32 bits. */
#include "common.h"
#include <linux/aio_abi.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/time.h>

#ifndef SO_ZEROCOPY
#define SO_ZEROCOPY 60
#endif

/* A prime number of calls of odd sizes. */
#define CALLS 101
static size_t size_of_call(int i)
{
	return 1 + (i * 7919) % 5003;
}

static size_t total(void)
{
	size_t n = 0;
	int i;

	for (i = 0; i < CALLS; i++)
		n += size_of_call(i);
	return n;
}

static int calls;

static void send_all(int s, const char *p, size_t n)
{
	while (n) {
		size_t k = check(write(s, p, n), "write");
		p += k;
		n -= k;
	}
}

/* The call that is tried is given each piece; it says how many bytes went. */
static void in_pieces(int s, ssize_t (*one)(int, char *, size_t))
{
	char *p = payload(total(), 7);
	int i;

	for (i = 0; i < CALLS; i++) {
		size_t n = size_of_call(i);
		while (n) {
			size_t k = check(one(s, p, n), "send");
			was_sent(p, k);
			p += k;
			n -= k;
			calls++;
		}
	}
}

static int three(struct iovec *v, char *p, size_t n)
{
	v[0] = (struct iovec){p, n / 3};
	v[1] = (struct iovec){p + n / 3, 0};
	v[2] = (struct iovec){p + n / 3, n - n / 3};
	return 3;
}

static ssize_t by_write(int s, char *p, size_t n) { return write(s, p, n); }
static ssize_t by_send(int s, char *p, size_t n) { return send(s, p, n, MSG_NOSIGNAL); }
static ssize_t by_sendto(int s, char *p, size_t n) { return sendto(s, p, n, MSG_MORE, NULL, 0); }
static ssize_t by_oob(int s, char *p, size_t n) { return send(s, p, n, calls % 3 ? 0 : MSG_OOB); }

static ssize_t by_writev(int s, char *p, size_t n)
{
	struct iovec v[3];
	return writev(s, v, three(v, p, n));
}

static ssize_t by_pwritev2(int s, char *p, size_t n)
{
	struct iovec v[3];
	return pwritev2(s, v, three(v, p, n), -1, 0);
}

static ssize_t by_sendmsg(int s, char *p, size_t n)
{
	struct iovec v[3];
	struct msghdr m = {.msg_iov = v, .msg_iovlen = three(v, p, n)};
	return sendmsg(s, &m, 0);
}

static ssize_t by_sendmmsg(int s, char *p, size_t n)
{
	struct iovec v[5][3];
	struct mmsghdr m[5] = {0};
	size_t k = 0;
	int i, done;

	for (i = 0; i < 5; i++) {
		m[i].msg_hdr.msg_iov = v[i];
		m[i].msg_hdr.msg_iovlen = three(v[i], p + i * (n / 5), i < 4 ? n / 5 : n - 4 * (n / 5));
	}
	done = check(sendmmsg(s, m, 5, 0), "sendmmsg");
	for (i = 0; i < done; i++)
		k += m[i].msg_len;
	return k;
}

static ssize_t by_zerocopy(int s, char *p, size_t n)
{
	int one = 1;
	if (!calls && setsockopt(s, SOL_SOCKET, SO_ZEROCOPY, &one, sizeof(one)))
		die("SO_ZEROCOPY");
	return send(s, p, n, MSG_ZEROCOPY);
}

static ssize_t by_sendfile(int s, char *p, size_t n)
{
	static int file = -1;
	static off_t at;

	if (file < 0) {
		file = check(memfd_create("file", 0), "memfd_create");
		send_all(file, p, total());
	}
	return sendfile(s, file, &at, n);
}

/* From a pipe into the socket. */
static size_t drain(int pipe_end, int s, size_t n)
{
	size_t done = 0;
	while (done < n)
		done += check(splice(pipe_end, NULL, s, NULL, n - done, 0), "splice");
	return n;
}

static int *a_pipe(int which)
{
	static int ends[2][2];
	if (!ends[which][1] && pipe(ends[which]))
		die("pipe");
	return ends[which];
}

static ssize_t by_splice_of_file(int s, char *p, size_t n)
{
	static int file = -1;
	static loff_t at;

	if (file < 0) {
		file = check(memfd_create("file", 0), "memfd_create");
		send_all(file, p, total());
	}
	return drain(a_pipe(0)[0], s, check(splice(file, &at, a_pipe(0)[1], NULL, n, 0), "splice"));
}

static ssize_t by_splice_of_pipe(int s, char *p, size_t n)
{
	return drain(a_pipe(0)[0], s, check(write(a_pipe(0)[1], p, n), "write"));
}

static ssize_t by_vmsplice(int s, char *p, size_t n)
{
	struct iovec v = {p, n};
	return drain(a_pipe(0)[0], s, check(vmsplice(a_pipe(0)[1], &v, 1, 0), "vmsplice"));
}

static ssize_t by_tee(int s, char *p, size_t n)
{
	static char rest[65536];
	size_t k = check(write(a_pipe(0)[1], p, n), "write");

	k = check(tee(a_pipe(0)[0], a_pipe(1)[1], k, 0), "tee");
	check(read(a_pipe(0)[0], rest, k), "read");
	return drain(a_pipe(1)[0], s, k);
}

static ssize_t asynchronously(int s, int code, void *buffer, size_t n)
{
	static aio_context_t context;
	struct iocb block = {.aio_fildes = s, .aio_lio_opcode = code, .aio_buf = (uintptr_t)buffer, .aio_nbytes = n};
	struct iocb *blocks = &block;
	struct io_event event;

	if (!context && syscall(SYS_io_setup, 8, &context))
		die("io_setup");
	if (syscall(SYS_io_submit, context, 1, &blocks) != 1 || syscall(SYS_io_getevents, context, 1, 1, &event, NULL) != 1)
		die("io_submit");
	return event.res;
}

static ssize_t by_aio(int s, char *p, size_t n) { return asynchronously(s, IOCB_CMD_PWRITE, p, n); }

static ssize_t by_aio_vector(int s, char *p, size_t n)
{
	struct iovec v[3];
	return asynchronously(s, IOCB_CMD_PWRITEV, v, three(v, p, n));
}

static long int80(long number, long a, long b, long c)
{
	long result = -1;
#if defined(__i386__)
	__asm__ volatile("int $0x80" : "=a"(result) : "0"(number), "b"(a), "c"(b), "d"(c) : "memory");
#elif defined(__x86_64__)
	__asm__ volatile("int $0x80" : "=a"(result) : "0"(number), "b"(a), "c"(b), "d"(c)
			 : "memory", "r8", "r9", "r10", "r11");
#endif
	return result;
}

static ssize_t by_int80(int s, char *p, size_t n) { return int80(4, s, (long)p, n); }

/* socketcall(2): its arguments are in memory. */
static long socketcall(int call, int s, char *p, size_t n)
{
	static uint32_t *a;
	if (!a)
		a = (void *)payload(4096, 1);
	a[0] = s;
	a[1] = (uintptr_t)p;
	a[2] = n;
	a[3] = 0;
	return int80(102, call, (long)a, 0);
}

static ssize_t by_socketcall(int s, char *p, size_t n) { return socketcall(9, s, p, n); }

#define SENDER(name) static void send_##name(int s) { in_pieces(s, by_##name); }
SENDER(write) SENDER(send) SENDER(sendto) SENDER(oob) SENDER(writev) SENDER(pwritev2) SENDER(sendmsg) SENDER(sendmmsg)
SENDER(zerocopy) SENDER(sendfile) SENDER(splice_of_file) SENDER(splice_of_pipe) SENDER(vmsplice) SENDER(tee) SENDER(aio)
SENDER(aio_vector) SENDER(int80) SENDER(socketcall)

static void send_bytes(int s)
{
	char *p = payload(1009, 3);
	for (calls = 0; calls < 1009; calls++)
		was_sent(p + calls, check(write(s, p + calls, 1), "write"));
}

#define BIG (8 << 20)
static void send_big(int s)
{
	char *p = payload(BIG + 13, 5);
	was_sent(p, check(write(s, p, BIG + 13), "write"));
	calls = 1;
}

static void send_many_blocks(int s)
{
	static struct iovec v[1024];
	char *p = payload(1024 * 290, 6);
	int i;

	for (i = 0; i < 1024; i++) {
		v[i] = (struct iovec){p, (i * 7) % 291};
		was_sent(v[i].iov_base, v[i].iov_len);
		p += v[i].iov_len;
	}
	if (check(writev(s, v, 1024), "writev") != sent_bytes)
		die("short writev");
	calls = 1;
}

static void send_big_blocks(int s)
{
	static struct iovec v[1024];
	char *p = payload(BIG, 12);
	int i;

	for (i = 0; i < 1024; i++)
		v[i] = (struct iovec){p + i * 8192, 8192};
	was_sent(p, check(writev(s, v, 1024), "writev"));
	calls = 1;
}

static void on_alarm(int signal)
{
	(void)signal;
}

/* Every so often a call is interrupted, which returns what it has moved. 0: no more. */
static void interrupt_every(int microseconds)
{
	struct sigaction action = {.sa_handler = on_alarm};
	struct itimerval timer = {{0, microseconds}, {0, microseconds}};

	sigaction(SIGALRM, &action, NULL);
	setitimer(ITIMER_REAL, &timer, NULL);
}

static void send_interrupted(int s)
{
	char *p = payload(BIG, 13), *end = p + BIG;

	interrupt_every(1000);
	while (p < end) {
		ssize_t done = send(s, p, end - p, 0);
		if (done < 0 && errno == EINTR)
			continue;
		was_sent(p, check(done, "send"));
		p += done;
		calls++;
	}
	interrupt_every(0);
}

/* Non-blocking: writes are refused, and cut short. */
static void send_partial(int s)
{
	size_t n = 3000017, k;
	char *p = payload(n, 8), *end = p + n;
	struct pollfd wait = {.fd = s, .events = POLLOUT};

	fcntl(s, F_SETFL, O_NONBLOCK);
	while (p < end) {
		ssize_t done = write(s, p, end - p);
		calls++;
		if (done < 0 && errno == EAGAIN) {
			poll(&wait, 1, -1);
			continue;
		}
		k = check(done, "write");
		was_sent(p, k);
		p += k;
	}
	fcntl(s, F_SETFL, 0);
}

/* Receiving: until the peer's end. */
static char *room(void)
{
	static char *p;
	if (!p)
		p = payload(1 << 20, 9);
	return p;
}

static void until_end(int s, ssize_t (*one)(int, char *, size_t), size_t most)
{
	char *p = room();
	ssize_t n;

	while ((n = one(s, p, most)) != 0) {
		if (n < 0 && errno == EAGAIN) {
			struct pollfd wait = {.fd = s, .events = POLLIN};
			poll(&wait, 1, -1);
			continue;
		}
		was_received(p, check(n, "receive"));
		calls++;
	}
}

/* Bytes that were received in three blocks are moved together. */
static ssize_t together(struct iovec *v, ssize_t n)
{
	char joined[8192];
	ssize_t left = n;
	size_t at = 0;
	int i;

	for (i = 0; i < 3 && left > 0; i++) {
		size_t k = (size_t)left < v[i].iov_len ? (size_t)left : v[i].iov_len;
		memcpy(joined + at, v[i].iov_base, k);
		at += k;
		left -= k;
	}
	if (n > 0)
		memcpy(room(), joined, n);
	return n;
}

static void scattered(struct iovec *v, char *p)
{
	v[0] = (struct iovec){p + 100000, 11};
	v[1] = (struct iovec){p + 200000, 5000};
	v[2] = (struct iovec){p + 300000, 3000};
}

static ssize_t from_read(int s, char *p, size_t n) { return read(s, p, n); }
static ssize_t from_recv(int s, char *p, size_t n) { return recv(s, p, n, 0); }
static ssize_t from_waitall(int s, char *p, size_t n) { return recv(s, p, n, MSG_WAITALL); }
static ssize_t from_dontwait(int s, char *p, size_t n) { return recv(s, p, n, MSG_DONTWAIT); }
static ssize_t from_aio(int s, char *p, size_t n) { return asynchronously(s, IOCB_CMD_PREAD, p, n); }
static ssize_t from_int80(int s, char *p, size_t n) { return int80(3, s, (long)p, n); }
static ssize_t from_socketcall(int s, char *p, size_t n) { return socketcall(10, s, p, n); }

static ssize_t from_readv(int s, char *p, size_t n)
{
	struct iovec v[3];
	(void)n;
	scattered(v, p);
	return together(v, readv(s, v, 3));
}

static ssize_t from_preadv2(int s, char *p, size_t n)
{
	struct iovec v[3];
	(void)n;
	scattered(v, p);
	return together(v, preadv2(s, v, 3, -1, 0));
}

static ssize_t from_recvmsg(int s, char *p, size_t n)
{
	struct iovec v[3];
	struct msghdr m = {.msg_iov = v, .msg_iovlen = 3};
	(void)n;
	scattered(v, p);
	return together(v, recvmsg(s, &m, 0));
}

static ssize_t from_recvmmsg(int s, char *p, size_t n)
{
	struct iovec v[5];
	struct mmsghdr m[5] = {0};
	size_t k = 0;
	int i, done;

	for (i = 0; i < 5; i++) {
		v[i] = (struct iovec){p + 100000 + i * 2000, 1 + n % 1999};
		m[i].msg_hdr.msg_iov = v + i;
		m[i].msg_hdr.msg_iovlen = 1;
	}
	done = check(recvmmsg(s, m, 5, MSG_WAITFORONE, NULL), "recvmmsg");
	for (i = 0; i < done; i++) {
		memcpy(p + k, v[i].iov_base, m[i].msg_len);
		k += m[i].msg_len;
	}
	return k;
}

/* Everything is looked at before it is taken, and some of it twice. */
static ssize_t from_peek(int s, char *p, size_t n)
{
	ssize_t k = recv(s, p, n, MSG_PEEK);
	if (k > 2)
		recv(s, p, k - 1, MSG_PEEK | MSG_DONTWAIT);
	return k > 0 ? recv(s, p, k / 2 + 1, 0) : k;
}

static ssize_t from_splice(int s, char *p, size_t n)
{
	ssize_t k = splice(s, NULL, a_pipe(0)[1], NULL, n, 0);
	return k > 0 ? read(a_pipe(0)[0], p, k) : k;
}

#define RECEIVER(name, most) static void receive_##name(int s) { until_end(s, from_##name, most); }
RECEIVER(read, 7001) RECEIVER(recv, 7001) RECEIVER(waitall, 50021) RECEIVER(dontwait, 7001) RECEIVER(aio, 20011)
RECEIVER(int80, 7001) RECEIVER(socketcall, 7001) RECEIVER(readv, 1) RECEIVER(preadv2, 1) RECEIVER(recvmsg, 1)
RECEIVER(recvmmsg, 1009) RECEIVER(peek, 5003) RECEIVER(splice, 60013)

static void receive_spliced_body(int s)
{
	/* As proxies do: the head is read, the rest goes through a pipe. */
	was_received(room(), check(recv(s, room(), 101, 0), "recv"));
	until_end(s, from_splice, 60013);
}

static void receive_bytes(int s) { until_end(s, from_read, 1); }
static void receive_big(int s) { until_end(s, from_waitall, 1 << 20); }

static ssize_t from_interrupted(int s, char *p, size_t n)
{
	ssize_t done;

	do
		done = recv(s, p, n, MSG_WAITALL);
	while (done < 0 && errno == EINTR);
	return done;
}

static void receive_interrupted(int s)
{
	interrupt_every(1000);
	until_end(s, from_interrupted, 100003);
	interrupt_every(0);
}

/* Into memory whose end is not there, until nothing more fits before it. */
static ssize_t from_fault(int s, char *p, size_t n)
{
	static char *pages;
	ssize_t done;

	if (!pages) {
		pages = payload(8192, 14);
		mprotect(pages + 4096, 4096, PROT_NONE);
	}
	done = recv(s, pages + 4096 - 777, n, 0);
	if (done < 0 && errno == EFAULT)
		done = recv(s, pages, 777, 0);
	else if (done > 0)
		return memcpy(p, pages + 4096 - 777, done), done;
	if (done > 0)
		memcpy(p, pages, done);
	return done;
}

static void receive_fault(int s) { until_end(s, from_fault, 5003); }

/* Every second call throws away what it would have received; what that is, it has looked at before. */
static void receive_trunc(int s)
{
	char *p = room();
	ssize_t n;

	for (;;) {
		int discard = calls % 2;
		n = recv(s, p, 3001, discard ? MSG_PEEK : 0);
		if (n <= 0)
			break;
		if (discard && recv(s, NULL, n, MSG_TRUNC) != n)
			die("recv");
		was_received(p, n);
		calls++;
	}
}

/* What is received out of band is not in the stream. */
static void receive_oob(int s)
{
	char *p = room(), urgent;
	ssize_t n;

	while ((n = recv(s, p, 997, 0)) > 0) {
		was_received(p, n);
		recv(s, &urgent, 1, MSG_OOB | MSG_DONTWAIT);
		calls++;
	}
}


/* Whole pages are mapped, where the peer sent such; what is between them is copied by the same call if there is room for
 * it, else received by another. */
#define MAPPED_BYTES (16 * 4096)
static char room_between_pages[4096];
static size_t mapped_bytes;

/* linux/tcp.h's struct tcp_zerocopy_receive (Linux 5.12); the C library's ends before the copy. */
struct mapping {
	uint64_t address;
	uint32_t length, recv_skip_hint, inq;
	int32_t err;
	uint64_t copybuf_address;
	int32_t copybuf_len;
	uint32_t flags;
};

static ssize_t by_mapping(int s, char *p, size_t most_copied)
{
	static char *pages;
	struct pollfd wait = {.fd = s, .events = POLLIN};
	struct mapping z = {.length = MAPPED_BYTES};
	socklen_t size = sizeof(z);

	if (!pages)
		pages = mmap(NULL, MAPPED_BYTES, PROT_READ, MAP_SHARED, s, 0);
	if (pages == MAP_FAILED)
		die("mmap");
	z.address = (uintptr_t)pages;
	z.copybuf_address = (uintptr_t)room_between_pages;
	z.copybuf_len = most_copied;
	poll(&wait, 1, -1);
	if (getsockopt(s, IPPROTO_TCP, TCP_ZEROCOPY_RECEIVE, &z, &size)) {
		/* The peer's end. */
		if (errno == EIO)
			return 0;
		die("TCP_ZEROCOPY_RECEIVE");
	}
	if (z.copybuf_len < 0)
		die("copybuf");
	if (!z.length && !z.copybuf_len)
		return recv(s, p, z.recv_skip_hint ? z.recv_skip_hint : 1, 0);
	mapped_bytes += z.length;
	memcpy(p, pages, z.length);
	memcpy(p + z.length, room_between_pages, z.copybuf_len);
	return z.length + z.copybuf_len;
}

static ssize_t from_mapping(int s, char *p, size_t n) { (void)n; return by_mapping(s, p, 0); }
static ssize_t from_mapping_copied(int s, char *p, size_t n) { return by_mapping(s, p, n); }

static void receive_mapped_by(int s, ssize_t (*one)(int, char *, size_t))
{
	was_received(room(), check(recv(s, room(), 101, 0), "recv"));
	until_end(s, one, sizeof(room_between_pages));
	if (!mapped_bytes)
		die("nothing was mapped");
}

static void receive_mapped(int s) { receive_mapped_by(s, from_mapping); }
static void receive_mapped_copied(int s) { receive_mapped_by(s, from_mapping_copied); }

static struct way {
	const char *name;
	void (*run)(int);
} ways[] = {
#define S(name) {"send_" #name, send_##name}
#define R(name) {"receive_" #name, receive_##name}
	S(write), S(send), S(sendto), S(oob), S(writev), S(pwritev2), S(sendmsg), S(sendmmsg), S(zerocopy), S(sendfile),
	S(splice_of_file), S(splice_of_pipe), S(vmsplice), S(tee), S(aio), S(aio_vector), S(int80), S(socketcall), S(bytes),
	S(big), S(many_blocks), S(big_blocks), S(partial), S(interrupted), R(interrupted), R(fault), R(read), R(recv), R(waitall), R(dontwait), R(aio), R(int80), R(socketcall),
	R(readv), R(preadv2), R(recvmsg), R(recvmmsg), R(peek), R(splice), R(spliced_body), R(bytes), R(big), R(trunc), R(oob),
	R(mapped), R(mapped_copied),
};

int main(int count, char **arguments)
{
	size_t i;

	for (i = 0; count == 3 && i < sizeof(ways) / sizeof(*ways); i++) {
		if (strcmp(ways[i].name, arguments[1]))
			continue;
		int s = connect_to_where(arguments[2]), port = number_of(s);
		begin_report();
		ways[i].run(s);
		shutdown(s, SHUT_WR);
		/* The peer's end is received, and nothing with it. */
		if (!received_bytes && read(s, room(), 1) != 0)
			die("the peer did not end");
		close(s);
		report(port, calls);
		return 0;
	}
	fprintf(stderr, "no such way\n");
	return 2;
}
