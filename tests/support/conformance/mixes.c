/* mixes SEED CONNECTIONS UNIX FOLDER: connections between two programs, mix-c and mix-s (this one under two
 * names, in FOLDER), whose every call is drawn by lot, and what becomes of their sockets too. What any flow holds at any
 * place is known from its number (a window of FOLDER/noise), so truth is how many bytes each call said it moved. Prints
 * a line for each connection when all have ended. */
#include "common.h"
#include <linux/aio_abi.h>
#include <liburing.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/ioctl.h>
#include <net/if.h>
#include <sys/prctl.h>
#include <sys/sendfile.h>
#include <sys/time.h>

#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#define SYS_pidfd_getfd 438
#endif
#ifndef SYS_close_range
#define SYS_close_range 436
#endif

#define MOST_CONNECTIONS 512
#define SLOTS 8
#define PERIOD 8388593
#define MOST_CALL (1 << 21)
#define SHARED_FD 900
#define NOISE_FD 901
#define HELPER_FD 870
#define BASE_FD 910
#define SECONDS 50

enum { TCP4, TCP6, MAPPED, UNIX };

struct flow { /* one direction at one of its ends */
	uint64_t done, want; /* `want` more of a call that did not return */
	int connection, direction, receives, raw, stopped, splices, part;
	uint64_t total;
	unsigned most_bits, seed, calls;
};

struct connection {
	int kind, space, port, client_port, listener, state, two_writers, two_readers, fastopen, ended_writers[2];
	unsigned inode;
	struct flow flow[2][2]; /* by who it is (0: client), and whether it receives */
	struct flow second[2];  /* of a second writer, by direction */
};

struct shared {
	int dead, failed, count, seed, unix_too;
	char folder[256];
	struct connection c[MOST_CONNECTIONS];
};

static struct shared *shared;
static char *noise;
static int role;

static void failed(const char *format, ...)
{
	char line[600];
	va_list list;
	int n = snprintf(line, 60, "%s %d: ", role ? "server" : "client", (int)syscall(SYS_gettid));

	va_start(list, format);
	n += vsnprintf(line + n, 500, format, list);
	va_end(list);
	line[n++] = '\n';
	if (write(2, line, n) < 0)
		abort();
	shared->failed = 1;
}

/* A thread's own. */
struct thread {
	unsigned long long lot;
	char *room;
	struct io_uring ring;
	pid_t ring_of;
	aio_context_t aio;
	pid_t aio_of;
	int alone; /* with a table of descriptors that io_uring's workers do not share */
	char *guard; /* a page that cannot be read is 64 KiB behind */
};
static __thread struct thread mine;

static unsigned lot(unsigned n)
{
	mine.lot ^= mine.lot << 13;
	mine.lot ^= mine.lot >> 7;
	mine.lot ^= mine.lot << 17;
	return n ? (mine.lot >> 20) % n : 0;
}

static void *low(size_t n)
{
	void *p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	if (p == MAP_FAILED)
		die("mmap");
	return p;
}

static void prepare(unsigned seed)
{
	memset(&mine, 0, sizeof(mine));
	mine.lot = 0x9e3779b97f4a7c15ull * (seed + 1);
	lot(0);
	lot(0);
	mine.room = low(MOST_CALL + (1 << 16));
	mine.guard = low((1 << 16) + 4096);
	mprotect(mine.guard + (1 << 16), 4096, PROT_NONE);
}

static void let_go(void)
{
	munmap(mine.room, MOST_CALL + (1 << 16));
	munmap(mine.guard, (1 << 16) + 4096);
	if (mine.ring_of == getpid())
		io_uring_queue_exit(&mine.ring);
	if (mine.aio_of == getpid())
		syscall(SYS_io_destroy, mine.aio);
}

static char *content(struct flow *f, uint64_t at)
{
	return noise + (f->connection * 48611ull + f->direction * 4194301ull + f->part * 2097143ull + at) % PERIOD;
}

static size_t draw_size(struct flow *f)
{
	unsigned bits = lot(f->most_bits + 1);

	if (lot(40) == 0)
		return 0;
	return 1 + lot(1u << bits);
}

/* Blocks of all sizes, none among them, that are together n bytes. */
static int blocks(struct iovec *v, int most, char *p, size_t n)
{
	int i, count = 1 + lot(lot(4) ? 5 : most);

	for (i = 0; i < count; i++) {
		size_t k = i == count - 1 ? n : lot(5) ? (n ? lot(2 * n / (count - i) + 1) : 0) : 0;
		if (k > n)
			k = n;
		v[i] = (struct iovec){p, k};
		p += k;
		n -= k;
	}
	return count;
}

#define MOST_BLOCKS 1024

static ssize_t asynchronously(int s, int code, void *buffer, size_t n)
{
	struct iocb block = {.aio_fildes = s, .aio_lio_opcode = code, .aio_buf = (uintptr_t)buffer, .aio_nbytes = n};
	struct iocb *list = &block;
	struct io_event event;
	long done;

	if (mine.aio_of != getpid()) {
		mine.aio = 0;
		if (syscall(SYS_io_setup, 8, &mine.aio))
			return errno = EAGAIN, -1;
		mine.aio_of = getpid();
	}
	if (syscall(SYS_io_submit, mine.aio, 1, &list) != 1)
		return -1;
	do
		done = syscall(SYS_io_getevents, mine.aio, 1, 1, &event, NULL);
	while (done < 0 && errno == EINTR);
	if ((long)event.res < 0)
		return errno = -(long)event.res, -1;
	return event.res;
}

static long int80(long number, long a, long b, long c)
{
	long result;
	__asm__ volatile("int $0x80" : "=a"(result) : "0"(number), "b"(a), "c"(b), "d"(c) : "memory", "r8", "r9", "r10", "r11");
	if (result < 0)
		return errno = -result, -1;
	return result;
}

static struct io_uring *a_ring(void)
{
	if (mine.ring_of != getpid()) {
		struct io_uring_params p = {.sq_thread_idle = 5};
		if (lot(8) == 0)
			p.flags |= IORING_SETUP_SQPOLL;
		else if (lot(3) == 0)
			p.flags |= IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN;
		memset(&mine.ring, 0, sizeof(mine.ring));
		if (io_uring_queue_init_params(16, &mine.ring, &p))
			return NULL;
		mine.ring_of = getpid();
	}
	return &mine.ring;
}

static int completion(struct io_uring *ring, unsigned *flags, uint64_t *what)
{
	struct io_uring_cqe *done;
	int n;

	while ((n = io_uring_wait_cqe(ring, &done)) == -EINTR || n == -EAGAIN)
		;
	if (n)
		die("io_uring_wait_cqe");
	n = done->res;
	*flags = done->flags;
	*what = done->user_data;
	io_uring_cqe_seen(ring, done);
	return n;
}

static int submit(struct io_uring *ring)
{
	int n;

	while ((n = io_uring_submit(ring)) == -EINTR)
		;
	return n;
}

static ssize_t signed_result(long n)
{
	if (n < 0)
		return errno = -n, -1;
	return n;
}

static ssize_t uring_send(struct flow *f, int s, char *p, size_t n)
{
	struct io_uring *ring = a_ring();
	struct io_uring_sqe *e;
	struct iovec v[16];
	struct msghdr m = {.msg_iov = v};
	unsigned flags, all = lot(2) ? MSG_WAITALL : 0;
	uint64_t what;
	size_t second = 0;
	long done, more = 0;
	int on_unix = shared->c[f->connection].kind == UNIX, way = lot(on_unix ? 4 : 6), notice, answers = 1, links = 0;

	if (!ring)
		return errno = EAGAIN, -1;
	if (way >= 4 && !n)
		way = 0;
	if (n > 1 && (all || way == 1 || way == 2) && lot(6) == 0) {
		second = 1 + lot(n - 1);
		links = 1;
		all = MSG_WAITALL;
		if (way == 1 || way == 2)
			way = 0;
		n -= second;
	}
	m.msg_iovlen = blocks(v, 15, p, n);
	e = io_uring_get_sqe(ring);
	if (way == 0)
		io_uring_prep_send(e, s, p, n, all | MSG_NOSIGNAL);
	else if (way == 1)
		io_uring_prep_write(e, s, p, n, 0);
	else if (way == 2)
		io_uring_prep_writev(e, s, v, m.msg_iovlen, 0);
	else if (way == 3)
		io_uring_prep_sendmsg(e, s, &m, all | MSG_NOSIGNAL);
	else if (way == 4)
		io_uring_prep_send_zc(e, s, p, n, all | MSG_NOSIGNAL, 0);
	else
		io_uring_prep_sendmsg_zc(e, s, &m, all | MSG_NOSIGNAL);
	e->user_data = 1;
	if (!mine.alone && lot(3) == 0)
		e->flags |= IOSQE_ASYNC;
	if (links) {
		e->flags |= IOSQE_IO_LINK;
		e = io_uring_get_sqe(ring);
		io_uring_prep_send(e, s, p + n, second, MSG_WAITALL | MSG_NOSIGNAL);
		e->user_data = 2;
		answers = 2;
	}
	submit(ring);
	notice = way >= 4;
	for (done = 0; answers || notice;) {
		int k = completion(ring, &flags, &what);
		if (flags & IORING_CQE_F_NOTIF) {
			notice = 0;
			continue;
		}
		answers--;
		if (what == 1 && way >= 4 && !(flags & IORING_CQE_F_MORE))
			notice = 0;
		if (what == 2)
			more = k;
		else
			done = k;
	}
	if (more > 0 && done >= 0)
		done += more;
	else if (more > 0)
		failed("the second of a link went, the first did not: %ld", done);
	return signed_result(done);
}

static ssize_t through_pipe(int from, int s, size_t n)
{
	ssize_t done = splice(from, NULL, s, NULL, n, lot(3) ? 0 : SPLICE_F_NONBLOCK | SPLICE_F_MORE);
	return done;
}

static ssize_t by_pipe(int s, char *p, size_t n, int way)
{
	int ends[2], more[2] = {-1, -1};
	ssize_t k, done;
	loff_t at = p - noise;
	struct iovec v = {p, n};

	if (!n || pipe(ends))
		return errno = EAGAIN, -1;
	if (lot(3) == 0)
		fcntl(ends[0], F_SETPIPE_SZ, 4096 << lot(9));
	fcntl(ends[1], F_SETFL, O_NONBLOCK);
	if (way == 0)
		k = write(ends[1], p, n);
	else if (way == 1)
		k = vmsplice(ends[1], &v, 1, lot(2) ? SPLICE_F_GIFT : 0);
	else if (way == 2)
		k = splice(NOISE_FD, &at, ends[1], NULL, n, 0);
	else {
		k = write(ends[1], p, n);
		if (k > 0 && !pipe2(more, O_NONBLOCK)) {
			k = tee(ends[0], more[1], k, 0);
			int t = ends[0];
			ends[0] = more[0];
			more[0] = t;
		}
	}
	done = k > 0 ? through_pipe(ends[0], s, k) : -1;
	if (k <= 0)
		errno = EAGAIN;
	int e = errno;
	close(ends[0]);
	close(ends[1]);
	if (more[0] >= 0) {
		close(more[0]);
		close(more[1]);
	}
	errno = e;
	return done;
}

static ssize_t send_some(struct flow *f, int s, char *p, size_t n, int way)
{
	static __thread struct iovec v[MOST_BLOCKS];
	static __thread struct mmsghdr many[8];
	struct msghdr m = {.msg_iov = v};
	int i, k, flags = MSG_NOSIGNAL | (lot(3) ? 0 : MSG_DONTWAIT) | (lot(5) ? 0 : MSG_MORE), one = 1;
	ssize_t done;
	loff_t at = p - noise;

	switch (way) {
	case 0: return write(s, p, n);
	case 1: return send(s, p, n, flags);
	case 2: return writev(s, v, blocks(v, MOST_BLOCKS, p, n));
	case 3: return pwritev2(s, v, blocks(v, MOST_BLOCKS, p, n), -1, lot(3) ? 0 : RWF_NOWAIT);
	case 4: m.msg_iovlen = blocks(v, MOST_BLOCKS, p, n); return sendmsg(s, &m, flags);
	case 5:
		k = 1 + lot(8);
		memset(many, 0, sizeof(many));
		for (i = 0; i < k; i++) {
			size_t part = i == k - 1 ? n : n ? lot(n + 1) : 0;
			many[i].msg_hdr.msg_iov = v + 16 * i;
			many[i].msg_hdr.msg_iovlen = blocks(v + 16 * i, 15, p, part);
			p += part;
			n -= part;
		}
		k = sendmmsg(s, many, k, flags);
		if (k < 0)
			return -1;
		for (done = i = 0; i < k; i++) {
			size_t wanted = 0;
			unsigned j;
			for (j = 0; j < many[i].msg_hdr.msg_iovlen; j++)
				wanted += many[i].msg_hdr.msg_iov[j].iov_len;
			/* A message that was cut short and one after it: the flow has a hole, which the caller must know. */
			if (many[i].msg_len != wanted && i < k - 1) {
				failed("sendmmsg went on after a short message");
			}
			done += many[i].msg_len;
		}
		return done;
	case 6: return sendfile(s, NOISE_FD, &at, n);
	case 7: case 8: case 9: case 10: return by_pipe(s, p, n, way - 7);
	case 11:
		if (shared->c[f->connection].kind != UNIX) {
			setsockopt(s, SOL_SOCKET, SO_ZEROCOPY, &one, sizeof(one));
			flags |= MSG_ZEROCOPY;
		}
		return send(s, p, n, flags);
	case 12: return asynchronously(s, IOCB_CMD_PWRITE, p, n);
	case 13: return asynchronously(s, IOCB_CMD_PWRITEV, v, blocks(v, MOST_BLOCKS, p, n));
	case 14: return int80(4, s, (long)p, n);
	case 15:
		/* Memory that ends in the middle of the call. */
		k = n < 30000 ? n : 30000;
		memcpy(mine.guard + (1 << 16) - k, p, k);
		v[0] = (struct iovec){mine.guard + (1 << 16) - k, k + 5000};
		return lot(2) ? write(s, v[0].iov_base, v[0].iov_len) : writev(s, v, 1);
	case 16: return sendto(s, p, n, flags, NULL, 0);
	default: return uring_send(f, s, p, n);
	}
}

static size_t gather(char *to, struct iovec *v, int count, size_t n)
{
	size_t at = 0;
	int i;

	for (i = 0; i < count && at < n; i++) {
		size_t k = n - at < v[i].iov_len ? n - at : v[i].iov_len;
		memmove(to + at, v[i].iov_base, k);
		at += k;
	}
	return n;
}

/* Blocks of a second room, not in its order. */
static int scattered(struct iovec *v, int most, size_t n)
{
	char *p = mine.room + MOST_CALL / 2;
	int count = blocks(v, most, p, n < MOST_CALL / 2 ? n : MOST_CALL / 2), i;

	for (i = 0; i + 1 < count; i += 2) {
		struct iovec t = v[i];
		v[i] = v[i + 1];
		v[i + 1] = t;
	}
	return count;
}

/* v[0..count) may overlap with the beginning of the room only if it is long: a copy first. */
static ssize_t gathered(struct iovec *v, int count, ssize_t n)
{
	char *copy;

	if (n <= 0)
		return n;
	copy = malloc(n);
	gather(copy, v, count, n);
	memcpy(mine.room, copy, n);
	free(copy);
	return n;
}

/* Of one call between whose bytes another one's came more than MAX_SPLITS times, the order is not known. */
static int waits_for_all(struct flow *f)
{
	return shared->c[f->connection].two_readers ? 0 : MSG_WAITALL;
}

static ssize_t uring_multishot(int s, int bundle)
{
	enum { COUNT = 8, BYTES = 4096 };
	struct io_uring *ring = a_ring();
	struct io_uring_buf_ring *buffers;
	struct io_uring_buf_reg registration = {.ring_entries = COUNT, .bgid = 7};
	struct io_uring_sqe *e;
	unsigned flags;
	uint64_t what;
	char *rooms = mine.room + MOST_CALL / 2;
	ssize_t done = 0;
	int i, n, armed = 1, end = 0, error = 0, cancelled = 0, cancel_answered = 0, least = 1 + lot(4);

	if (!ring)
		return errno = EAGAIN, -1;
	buffers = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	registration.ring_addr = (uintptr_t)buffers;
	if (io_uring_register_buf_ring(ring, &registration, 0))
		return munmap(buffers, 4096), errno = EAGAIN, -1;
	io_uring_buf_ring_init(buffers);
	for (i = 0; i < COUNT; i++)
		io_uring_buf_ring_add(buffers, rooms + i * BYTES, BYTES, i, COUNT - 1, i);
	io_uring_buf_ring_advance(buffers, COUNT);
	e = io_uring_get_sqe(ring);
	io_uring_prep_recv_multishot(e, s, NULL, 0, 0);
	if (bundle)
		e->ioprio |= 1U << 4;
	e->buf_group = 7;
	e->flags |= IOSQE_BUFFER_SELECT;
	e->user_data = 1;
	submit(ring);
	while (armed || cancelled > cancel_answered) {
		n = completion(ring, &flags, &what);
		if (what == 2) {
			cancel_answered++;
			continue;
		}
		if (!(flags & IORING_CQE_F_MORE))
			armed = 0;
		if (n == 0)
			end = 1;
		else if (n < 0)
			error = -n;
		else {
			int b = flags >> 16, left = n;
			while (left > 0) {
				int k = left < BYTES ? left : BYTES;
				memcpy(mine.room + done, rooms + b * BYTES, k);
				done += k;
				left -= k;
				if (done < MOST_CALL / 4) {
					io_uring_buf_ring_add(buffers, rooms + b * BYTES, BYTES, b, COUNT - 1, 0);
					io_uring_buf_ring_advance(buffers, 1);
				}
				b = (b + 1) % COUNT;
			}
			least--;
		}
		if (armed && !cancelled && least <= 0) {
			e = io_uring_get_sqe(ring);
			io_uring_prep_cancel64(e, 1, 0);
			e->user_data = 2;
			submit(ring);
			cancelled = 1;
		}
	}
	io_uring_unregister_buf_ring(ring, 7);
	munmap(buffers, 4096);
	if (done)
		return done;
	if (end)
		return 0;
	errno = error == ENOBUFS || error == ECANCELED ? EAGAIN : error;
	return -1;
}

static ssize_t uring_receive(struct flow *f, int s, size_t n)
{
	struct io_uring *ring = a_ring();
	struct io_uring_sqe *e;
	static __thread struct iovec v[16];
	struct msghdr m = {.msg_iov = v};
	unsigned flags;
	uint64_t what;
	int way = lot(8), ends[2] = {-1, -1};
	ssize_t done;

	if (!ring)
		return errno = EAGAIN, -1;
	if (way >= 6)
		return uring_multishot(s, way == 7);
	m.msg_iovlen = scattered(v, 15, n);
	e = io_uring_get_sqe(ring);
	if (way == 0)
		io_uring_prep_recv(e, s, mine.room, n, lot(5) ? 0 : waits_for_all(f));
	else if (way == 1)
		io_uring_prep_read(e, s, mine.room, n, 0);
	else if (way == 2)
		io_uring_prep_readv(e, s, v, m.msg_iovlen, 0);
	else if (way == 3 || !f->splices || shared->c[f->connection].kind == UNIX || shared->c[f->connection].two_readers)
		way = 3, io_uring_prep_recvmsg(e, s, &m, lot(5) ? 0 : waits_for_all(f));
	else {
		if (pipe(ends))
			failed("pipe");
		io_uring_prep_splice(e, s, -1, ends[1], -1, n, 0);
	}
	e->user_data = 1;
	if (!mine.alone && lot(3) == 0)
		e->flags |= IOSQE_ASYNC;
	submit(ring);
	done = completion(ring, &flags, &what);
	if (ends[0] >= 0) {
		if (done > 0 && read(ends[0], mine.room, done) != done)
			failed("less in the pipe");
		close(ends[0]);
		close(ends[1]);
	}
	if (way == 2 || way == 3)
		gathered(v, m.msg_iovlen, done);
	return signed_result(done);
}

/* TCP's own: bytes that nobody looks at. */
static int not_looked_at;

static ssize_t receive_some(struct flow *f, int s, size_t n, int way)
{
	static __thread struct iovec v[MOST_BLOCKS];
	static __thread struct mmsghdr many[8];
	struct msghdr m = {.msg_iov = v};
	char *p = mine.room;
	int i, k, ends[2], all = waits_for_all(f);
	ssize_t done;

	switch (way) {
	case 0: return read(s, p, n);
	case 1: return recv(s, p, n, lot(3) ? 0 : MSG_DONTWAIT);
	case 2: return recv(s, p, n, all);
	case 3:
		done = recv(s, p, n, MSG_PEEK | (lot(3) ? 0 : MSG_DONTWAIT));
		if (done > 0 && !f->raw && !shared->c[f->connection].two_readers && memcmp(p, content(f, f->done), done))
			failed("what was peeked is wrong");
		return recv(s, p, n, lot(3) ? 0 : MSG_DONTWAIT);
	case 4: k = scattered(v, MOST_BLOCKS, n); return gathered(v, k, readv(s, v, k));
	case 5: k = scattered(v, MOST_BLOCKS, n); return gathered(v, k, preadv2(s, v, k, -1, lot(3) ? 0 : RWF_NOWAIT));
	case 6: m.msg_iovlen = scattered(v, MOST_BLOCKS, n); return gathered(v, m.msg_iovlen, recvmsg(s, &m, lot(4) ? 0 : all));
	case 7:
		k = 1 + lot(8);
		memset(many, 0, sizeof(many));
		for (i = 0; i < k; i++) {
			v[i] = (struct iovec){mine.room + MOST_CALL / 2 + i * 65536, 1 + (n ? lot(n < 65536 ? n : 65536) : 0)};
			many[i].msg_hdr.msg_iov = v + i;
			many[i].msg_hdr.msg_iovlen = 1;
		}
		k = recvmmsg(s, many, k, MSG_WAITFORONE | (lot(3) ? 0 : all), NULL);
		for (done = i = 0; i < k; i++) {
			memcpy(p + done, v[i].iov_base, many[i].msg_len);
			done += many[i].msg_len;
		}
		return k < 0 ? -1 : done;
	case 8:
		if (shared->c[f->connection].two_readers)
			return read(s, p, n);
		if (!n || pipe(ends))
			return errno = EAGAIN, -1;
		k = lot(3) ? 0 : lot(4000);
		if (k && write(ends[1], noise, k) != k)
			failed("pipe");
		done = splice(s, NULL, ends[1], NULL, n, lot(3) ? 0 : SPLICE_F_NONBLOCK);
		i = errno;
		if (k && read(ends[0], p, k) != k)
			failed("pipe");
		if (done > 0 && read(ends[0], p, done) != done)
			failed("less in the pipe");
		close(ends[0]);
		close(ends[1]);
		errno = i;
		return done;
	case 9: return asynchronously(s, IOCB_CMD_PREAD, p, n);
	case 10: return int80(3, s, (long)p, n);
	case 11:
		done = recv(s, mine.guard + (1 << 16) - (n < 65536 ? n : 65536) , n + 5000, 0);
		if (done < 0 && errno == EFAULT)
			return errno = EAGAIN, -1;
		if (done > 0)
			memcpy(p, mine.guard + (1 << 16) - (n < 65536 ? n : 65536), done);
		return done;
	case 12:
		if (shared->c[f->connection].kind == UNIX || f->raw || (shared->c[f->connection].two_readers))
			return recv(s, p, n, shared->c[f->connection].kind == UNIX ? MSG_TRUNC : 0);
		not_looked_at = 1;
		return recv(s, lot(2) ? NULL : p, n, MSG_TRUNC | (lot(3) ? 0 : MSG_DONTWAIT));
	case 13: return recvfrom(s, p, n, 0, NULL, NULL);
	default: return uring_receive(f, s, n);
	}
}

static void log_raw(struct flow *f, size_t n)
{
	char path[400];
	int file;

	snprintf(path, sizeof(path), "%s/raw.%d.%d", shared->folder, f->connection, f->direction);
	file = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	if (file < 0 || write(file, mine.room, n) != (ssize_t)n)
		failed("raw");
	close(file);
}

enum { ENDED, GOES_ON, MAYBE };

/* Whether nothing comes after no byte: an end, or a call that had no room. */
static int has_ended(int s)
{
	char byte;
	ssize_t done = recv(s, &byte, 1, MSG_PEEK | MSG_DONTWAIT);

	return done == 0 || (done < 0 && errno != EAGAIN && errno != EINTR);
}

/* One call. */
static int step(struct flow *f, int s, int way)
{
	struct connection *c = &shared->c[f->connection];
	size_t n = draw_size(f);
	struct pollfd wait = {.fd = s, .events = f->receives ? POLLIN : POLLOUT};
	ssize_t done;

	f->calls++;
	if (f->receives) {
		int thrown;
		if (n > MOST_CALL / 2)
			n = MOST_CALL / 2;
		f->want = n + (1 << 20);
		not_looked_at = 0;
		done = receive_some(f, s, n, way);
		thrown = way == 12;
		if (done > 0 && !c->two_readers && !f->raw && !(thrown && c->kind != UNIX)) {
			if (memcmp(mine.room, content(f, f->done), done))
				failed("connection %d direction %d at %llu: %zd bytes of way %d are wrong", f->connection, f->direction,
				       (unsigned long long)f->done, done, way);
		}
		if (done > 0 && f->raw)
			log_raw(f, done);
		if (done == 0) {
			f->want = 0;
			return MAYBE;
		}
	} else {
		if (n > f->total - f->done)
			n = f->total - f->done;
		f->want = n;
		done = send_some(f, s, content(f, f->done), n, way);
	}
	if (done > 0)
		__atomic_add_fetch(&f->done, done, __ATOMIC_SEQ_CST);
	f->want = 0;
	if (done < 0) {
		if (errno == EAGAIN || errno == ENOBUFS || errno == ENOMEM || errno == ETIME) {
			poll(&wait, 1, lot(2) ? 2 : 20);
			return 1;
		}
		if (errno == EINTR || errno == EOPNOTSUPP || errno == EFAULT || errno == EINVAL || errno == ECANCELED)
			return 1;
		return 0;
	}
	return f->receives || f->done < f->total;
}

static int draw_way(struct flow *f)
{
	return lot(f->receives ? 18 : 24);
}

/* A process's end of a connection. */
struct end {
	pthread_mutex_t lock;
	int fd, connection;
	struct {
		int busy;
	} users[4];
};
static struct end ends[SLOTS];

static int acquire(struct end *e, int who, int private)
{
	int fd;

	if (private >= 0)
		return private;
	pthread_mutex_lock(&e->lock);
	fd = e->fd;
	e->users[who].busy = fd >= 0;
	pthread_mutex_unlock(&e->lock);
	return fd;
}

static void release(struct end *e, int who)
{
	pthread_mutex_lock(&e->lock);
	e->users[who].busy = 0;
	pthread_mutex_unlock(&e->lock);
}

/* With the lock held: nobody else has the descriptor's number in use. Not even in a call that waits: what interrupts that may
 * make it begin anew, with the number. */
static int quiet(struct end *e, int who)
{
	int i;

	for (i = 0; i < 4; i++)
		if (i != who && e->users[i].busy)
			return 0;
	return 1;
}

static int helper[2];

struct order {
	int how, fd, connection, direction, steps, receives;
	unsigned seed;
};

static void steps_of_other(struct flow *f, int s, int steps)
{
	while (steps-- && !f->stopped)
		switch (step(f, s, draw_way(f))) {
		case MAYBE:
			if (!has_ended(s))
				break;
			/* Fall through. */
		case ENDED:
			f->stopped = 1;
		}
}

static struct flow *flow_of(int connection, int direction, int receives)
{
	struct connection *c = &shared->c[connection];
	return &c->flow[receives ? !direction : direction][receives];
}

static void send_right(int to, struct order *o, int s)
{
	char room[CMSG_SPACE(sizeof(int))] = {0};
	struct iovec v = {o, sizeof(*o)};
	struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1};
	struct cmsghdr *c;

	if (o->how == 0) {
		m.msg_control = room;
		m.msg_controllen = sizeof(room);
		c = CMSG_FIRSTHDR(&m);
		*c = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int))};
		memcpy(CMSG_DATA(c), &s, sizeof(int));
	}
	while (sendmsg(to, &m, 0) < 0)
		if (errno != EINTR)
			return failed("helper: %s", strerror(errno));
}

/* Another process, which is given sockets, or takes them. */
static void helps(int from)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	prepare(77);
	for (;;) {
		char room[CMSG_SPACE(sizeof(int))];
		struct order o;
		struct iovec v = {&o, sizeof(o)};
		struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof(room)};
		int s, of;

		ssize_t n = recvmsg(from, &m, 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			_exit(0);
		if (o.how == 0)
			memcpy(&s, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof(int));
		else {
			of = syscall(SYS_pidfd_open, getppid(), 0);
			s = syscall(SYS_pidfd_getfd, of, o.fd, 0);
			close(of);
		}
		if (s < 0)
			failed("helper has no socket");
		mine.lot ^= o.seed;
		steps_of_other(flow_of(o.connection, o.direction, o.receives), s, o.steps);
		close(s);
		if (write(from, "x", 1) != 1)
			_exit(0);
	}
}

/* Each thread has one of its own: what one waits for may be another's to do. */
static void by_helper(struct flow *f, int s, int private, int end)
{
	/* It sees the main table of descriptors. */
	struct order o = {private < 0 && lot(2), s, f->connection, f->direction, 1 + lot(5), f->receives, lot(1 << 30)};
	char byte;

	send_right(end, &o, s);
	while (read(end, &byte, 1) < 0 && errno == EINTR)
		;
}

static void wait_for(pid_t child)
{
	int status;

	while (waitpid(child, &status, 0) < 0 && errno == EINTR)
		;
}

static void by_child(struct flow *f, int s)
{
	int steps = 1 + lot(6), kill_it = f->receives ? 0 : lot(8) == 0;
	pid_t child = fork();

	if (!child) {
		lot(0);
		mine.ring_of = mine.aio_of = 0;
		if (lot(3) == 0)
			syscall(SYS_close_range, 3, s - 1, 0);
		if (lot(3) == 0 && s < 800)
			syscall(SYS_close_range, s + 1, HELPER_FD - 1, 0);
		steps_of_other(f, s, kill_it ? 1000 : steps);
		_exit(0);
	}
	if (child < 0)
		return;
	if (kill_it) {
		usleep(lot(20000));
		kill(child, SIGKILL);
	}
	wait_for(child);
	if (kill_it)
		f->stopped = 1;
}

extern char **environ;

static void by_program(struct flow *f, int s)
{
	char numbers[8][16], path[300];
	int values[] = {s, f->connection, f->direction, f->receives, 1 + (int)lot(5), (int)lot(1 << 30)}, i;
	char *list[10] = {path, "steps"};
	pid_t child;

	snprintf(path, sizeof(path), "%s/%s", shared->folder, role ? "mix-s" : "mix-c");
	for (i = 0; i < 6; i++) {
		snprintf(numbers[i], 16, "%d", values[i]);
		list[2 + i] = numbers[i];
	}
	list[8] = NULL;
	fcntl(s, F_SETFD, 0);
	child = vfork();
	if (!child) {
		execve(path, list, environ);
		_exit(9);
	}
	wait_for(child);
}

static void other_program(int s)
{
	pid_t child;
	int clo = lot(2);

	fcntl(s, F_SETFD, clo ? FD_CLOEXEC : 0);
	child = vfork();
	if (!child) {
		execl("/bin/true", "true", NULL);
		_exit(9);
	}
	wait_for(child);
	fcntl(s, F_SETFD, 0);
}

static int must_be(int n, int line)
{
	if (n < 0) {
		failed("line %d: %s", line, strerror(errno));
		abort();
	}
	return n;
}
#define must(n) must_be(n, __LINE__)

/* Two sockets change their numbers. */
static void swap_with_other(struct end *e, int who)
{
	struct end *o = &ends[lot(SLOTS)];
	int t;

	if (o == e || pthread_mutex_trylock(&e->lock))
		return;
	if (!pthread_mutex_trylock(&o->lock)) {
		if (e->fd >= 0 && o->fd >= 0 && quiet(e, who) && quiet(o, -1)) {
			t = must(dup(e->fd));
			must(dup2(o->fd, e->fd));
			must(dup2(t, o->fd));
			must(close(t));
			t = e->fd;
			e->fd = o->fd;
			o->fd = t;
		}
		pthread_mutex_unlock(&o->lock);
	}
	pthread_mutex_unlock(&e->lock);
}

static void another_number(struct end *e, int who)
{
	int new, old;

	if (pthread_mutex_trylock(&e->lock))
		return;
	if (e->fd >= 0 && quiet(e, who)) {
		old = e->fd;
		new = lot(2) ? dup(old) : fcntl(old, lot(2) ? F_DUPFD : F_DUPFD_CLOEXEC, 100 + lot(600));
		if (new >= 0) {
			e->fd = new;
			if (lot(4))
				must(close(old));
			else if (lot(2))
				must(syscall(SYS_close_range, old, old, 0));
			else
				must(dup2(NOISE_FD, old)), must(close(old));
		}
	}
	pthread_mutex_unlock(&e->lock);
}

static void close_under(struct end *e, int who)
{
	struct linger at_once = {1, 0};

	if (pthread_mutex_trylock(&e->lock))
		return;
	if (e->fd >= 0 && quiet(e, who)) {
		if (lot(3) == 0)
			shutdown(e->fd, SHUT_WR);
		if (lot(2))
			setsockopt(e->fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
		must(close(e->fd));
		e->fd = -1;
	}
	pthread_mutex_unlock(&e->lock);
}

struct work {
	struct end *e;
	struct flow *f;
	int who;
};

static void *work(void *argument)
{
	struct work *w = argument;
	struct flow *f = w->f;
	struct connection *c = &shared->c[f->connection];
	int private = -1, s, way, result, odd = f->seed % 4 != 0;

	prepare(f->seed);
	while (!f->stopped && !shared->dead) {
		way = draw_way(f);
		s = acquire(w->e, w->who, private);
		if (s < 0)
			break;
		result = step(f, s, way);
		if (result == ENDED || (result == MAYBE && has_ended(s)))
			f->stopped = 1;
		if (f->receives && f->total && f->done >= f->total)
			f->stopped = 1;
		if (!f->stopped && odd && lot(6) == 0) {
			switch (lot(14)) {
			case 0: case 1: if (w->who < 2) by_helper(f, s, private, HELPER_FD + 2 * (w->e - ends) + w->who); break;
			case 2: case 3: by_child(f, s); break;
			case 4: case 5: if (!f->part) by_program(f, s); break;
			case 6: other_program(s); break;
			case 7:
				if (private < 0 && f->part == 0 && !c->two_writers && !c->two_readers && !unshare(CLONE_FILES)) {
					private = dup(s);
					mine.alone = 1;
					/* The ring's descriptor is among those that are closed. */
					if (mine.ring_of == getpid())
						io_uring_queue_exit(&mine.ring), mine.ring_of = 0;
					if (private > 3)
						syscall(SYS_close_range, 3, private - 1, 0);
					syscall(SYS_close_range, private + 1, HELPER_FD - 1, 0);
				}
				break;
			case 8:
				fcntl(s, F_SETFL, lot(2) ? O_NONBLOCK : 0);
				break;
			case 9: {
				struct timeval soon = {0, lot(2) ? 0 : 1000};
				setsockopt(s, SOL_SOCKET, f->receives ? SO_RCVTIMEO : SO_SNDTIMEO, &soon, sizeof(soon));
				break;
			}
			case 10: {
				int size = 1 << (11 + lot(9));
				setsockopt(s, SOL_SOCKET, f->receives ? SO_RCVBUF : SO_SNDBUF, &size, sizeof(size));
				break;
			}
			}
		}
		release(w->e, w->who);
		if (private < 0) {
			if (odd && lot(5) == 0)
				another_number(w->e, w->who);
			if (odd && lot(5) == 0)
				swap_with_other(w->e, w->who);
			if (f->seed % 11 == 3 && lot(40) == 0 && !c->two_writers)
				close_under(w->e, w->who);
		}
		if (lot(30) == 0)
			usleep(lot(3000));
	}
	/* The client's may be left to close. */
	if (!f->receives && (f->direction || f->seed % 3 || c->two_writers)) {
		s = acquire(w->e, w->who, private);
		if (s >= 0 && (!c->two_writers || __atomic_add_fetch(&c->ended_writers[role], 1, __ATOMIC_SEQ_CST) == 2))
			shutdown(s, SHUT_WR);
	} else if (f->receives && f->seed % 5 == 0) {
		s = acquire(w->e, w->who, private);
		if (s >= 0 && !c->two_readers && (c->two_writers || lot(2)))
			shutdown(s, SHUT_RD);
	}
	release(w->e, w->who);
	let_go();
	return NULL;
}

static int other_space;

static int own_space;

/* A small buffer that nobody empties any more drops what is acknowledged with data: TCP tries again after twice as long,
 * and again, for minutes. */
static void give_up_soon(int s)
{
	int milliseconds = 4000;

	if (setsockopt(s, IPPROTO_TCP, TCP_USER_TIMEOUT, &milliseconds, sizeof(milliseconds)))
		die("TCP_USER_TIMEOUT");
}

static int address_of(struct connection *c, struct sockaddr_storage *a, int port)
{
	struct sockaddr_in *v4 = (void *)a;
	struct sockaddr_in6 *v6 = (void *)a;

	memset(a, 0, sizeof(*a));
	if (c->kind == TCP4) {
		v4->sin_family = AF_INET;
		v4->sin_port = htons(port);
		v4->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
		return sizeof(*v4);
	}
	v6->sin6_family = AF_INET6;
	v6->sin6_port = htons(port);
	inet_pton(AF_INET6, c->kind == TCP6 ? "::1" : "::ffff:127.0.0.1", &v6->sin6_addr);
	return sizeof(*v6);
}

static int unix_address(int connection, struct sockaddr_un *a)
{
	memset(a, 0, sizeof(*a));
	a->sun_family = AF_UNIX;
	return offsetof(struct sockaddr_un, sun_path) + 1 + snprintf(a->sun_path + 1, 100, "mix-%d-%d", shared->seed, connection);
}

static int connect_one(int i)
{
	struct connection *c = &shared->c[i];
	struct sockaddr_storage a;
	struct sockaddr_un u;
	struct flow *f = &c->flow[0][0];
	struct pollfd wait;
	int s, n, tries, one = 1, result;

	if (c->kind == UNIX) {
		struct stat status;
		s = socket(AF_UNIX, SOCK_STREAM, 0);
		n = unix_address(i, &u);
		fstat(s, &status);
		c->inode = status.st_ino;
		while ((result = connect(s, (void *)&u, n)) < 0 && errno == EINTR)
			;
		if (result)
			failed("connect to %d: %s", i, strerror(errno));
		return s;
	}
	if (c->space && setns(other_space, CLONE_NEWNET))
		failed("setns: %s", strerror(errno));
	s = socket(c->kind == TCP4 ? AF_INET : AF_INET6, SOCK_STREAM, 0);
	setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	give_up_soon(s);
	/* One that is refused first. */
	if (lot(4) == 0) {
		n = address_of(c, &a, 1);
		if (!connect(s, (void *)&a, n))
			failed("something listens on port 1");
	}
	if (c->space && i > 0 && shared->c[i - 1].client_port && shared->c[i - 1].kind == c->kind) {
		/* The same ports as in the other namespace, where they are free. */
		n = address_of(c, &a, shared->c[i - 1].client_port);
		bind(s, (void *)&a, n);
	}
	n = address_of(c, &a, c->port);
	if (lot(3) == 0) {
		int size = 1 << (11 + lot(9));
		setsockopt(s, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
	}
	tries = lot(3);
	if (tries == 0 && !c->two_writers) {
		/* Data with the SYN. */
		size_t k = lot(3000);
		ssize_t done;
		if (k > f->total)
			k = f->total;
		f->want = k;
		/* An interrupted one does not tell what it has sent. */
		sigset_t alarms;
		sigemptyset(&alarms);
		sigaddset(&alarms, SIGALRM);
		pthread_sigmask(SIG_BLOCK, &alarms, NULL);
		while ((done = sendto(s, content(f, 0), k, MSG_FASTOPEN | MSG_NOSIGNAL, (void *)&a, n)) < 0 && (errno == EINTR || errno == EALREADY))
			;
		pthread_sigmask(SIG_UNBLOCK, &alarms, NULL);
		if (done < 0 && errno != EISCONN)
			failed("fast open %d: %s", i, strerror(errno));
		if (done > 0)
			f->done += done;
		f->want = 0;
		c->fastopen = 1;
	} else if (tries == 1) {
		fcntl(s, F_SETFL, O_NONBLOCK);
		result = connect(s, (void *)&a, n);
		if (result && errno != EINPROGRESS && errno != EINTR)
			failed("connect to %d: %s", i, strerror(errno));
		wait = (struct pollfd){.fd = s, .events = POLLOUT};
		while (poll(&wait, 1, 1000) <= 0 && !shared->dead)
			;
		if (lot(2))
			fcntl(s, F_SETFL, 0);
	} else {
		result = connect(s, (void *)&a, n);
		if (result && errno == EINTR) {
			wait = (struct pollfd){.fd = s, .events = POLLOUT};
			while (poll(&wait, 1, 1000) <= 0 && !shared->dead)
				;
		} else if (result)
			failed("connect to %d: %s", i, strerror(errno));
	}
	if (c->space && setns(own_space, CLONE_NEWNET))
		failed("setns: %s", strerror(errno));
	c->client_port = local_port(s);
	return s;
}

static int accept_one(int i)
{
	struct pollfd wait = {.fd = shared->c[i].listener, .events = POLLIN};
	int s = -1;

	while (!shared->dead) {
		if (poll(&wait, 1, 100) <= 0)
			continue;
		s = lot(2) ? accept(wait.fd, NULL, NULL) : accept4(wait.fd, NULL, NULL, lot(2) ? SOCK_NONBLOCK : 0);
		if (s >= 0)
			break;
	}
	close(wait.fd);
	return s;
}

static void *slot(void *argument)
{
	int number = (intptr_t)argument, i, k, count;
	struct end *e = &ends[number];

	prepare(shared->seed * 1000 + number * 2 + role);
	for (i = number; i < shared->count && !shared->dead; i += SLOTS) {
		struct connection *c = &shared->c[i];
		struct work works[4];
		pthread_t threads[4];
		int s;

		s = role ? accept_one(i) : connect_one(i);
		if (s < 0)
			break;
		c->state |= 1 << role;
		pthread_mutex_lock(&e->lock);
		memset(e->users, 0, sizeof(e->users));
		e->connection = i;
		e->fd = s;
		count = 0;
		works[count++] = (struct work){e, &c->flow[role][0], 0};
		works[count++] = (struct work){e, &c->flow[role][1], 1};
		if (c->two_readers)
			works[count++] = (struct work){e, &c->flow[role][1], 2};
		if (c->two_writers)
			works[count++] = (struct work){e, &c->second[role], 3};
		pthread_mutex_unlock(&e->lock);
		for (k = 0; k < count; k++)
			if (pthread_create(&threads[k], NULL, work, &works[k]))
				failed("pthread_create");
		for (k = 0; k < count; k++)
			pthread_join(threads[k], NULL);
		pthread_mutex_lock(&e->lock);
		if (e->fd >= 0) {
			must(close(e->fd));
		}
		e->fd = -1;
		pthread_mutex_unlock(&e->lock);
	}
	let_go();
	return NULL;
}

static void on_alarm(int number) { (void)number; }

static void map_all(void)
{
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED, SHARED_FD, 0);
	noise = mmap(NULL, PERIOD + MOST_CALL, PROT_READ, MAP_SHARED | MAP_32BIT, NOISE_FD, 0);
	if (shared == MAP_FAILED || noise == MAP_FAILED)
		die("mmap");
}

static int play(void)
{
	struct sigaction action = {.sa_handler = on_alarm};
	struct itimerval timer = {{0, 3000 + shared->seed % 20000}, {0, 3000}};
	pthread_t threads[SLOTS];
	int i;

	own_space = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	other_space = BASE_FD - 1;
	signal(SIGPIPE, SIG_IGN);
	for (i = 0; i < 2 * SLOTS; i++) {
		if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, helper))
			die("socketpair");
		if (!fork()) {
			syscall(SYS_close_range, HELPER_FD, HELPER_FD + i, 0);
			close(helper[0]);
			helps(helper[1]);
		}
		close(helper[1]);
		if (dup2(helper[0], HELPER_FD + i) < 0)
			die("dup2");
		close(helper[0]);
	}
	sigaction(SIGALRM, &action, NULL);
	if (shared->seed % 3)
		setitimer(ITIMER_REAL, &timer, NULL);
	for (i = 0; i < SLOTS; i++) {
		pthread_mutex_init(&ends[i].lock, NULL);
		ends[i].fd = -1;
	}
	for (i = 0; i < SLOTS; i++) {
		pthread_create(&threads[i], NULL, slot, (void *)(intptr_t)i);
	}
	for (i = 0; i < SLOTS; i++)
		pthread_join(threads[i], NULL);
	return 0;
}

static int up(void)
{
	struct ifreq request = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
	int s = socket(AF_INET, SOCK_DGRAM, 0), file = open("/proc/sys/net/ipv4/tcp_fastopen", O_WRONLY);

	if (ioctl(s, SIOCSIFFLAGS, &request))
		die("lo");
	/* Without a cookie, whatever the listener asks for. */
	if (write(file, "1543", 4) != 4)
		die("tcp_fastopen");
	close(file);
	return close(s);
}

static void begin_flow(struct flow *f, int connection, int direction, int receives)
{
	*f = (struct flow){.connection = connection, .direction = direction, .receives = receives};
	f->most_bits = lot(21);
	f->seed = lot(1 << 30);
	f->splices = lot(3) == 0;
	if (!receives) {
		f->total = (1ull << lot(22)) + lot(1000);
		if (f->total > (100ull << f->most_bits))
			f->total = 100ull << f->most_bits;
		if (lot(20) == 0)
			f->total = 0;
	} else if (lot(8) == 0)
		f->total = 1 + lot(1 << 20); /* it reads no more */
	if (receives && f->most_bits < 9 && lot(8))
		f->most_bits = 9 + lot(12);
}

static void draw_all(void)
{
	int i, d;

	for (i = 0; i < shared->count; i++) {
		struct connection *c = &shared->c[i];
		struct sockaddr_storage a;
		struct sockaddr_un u;
		socklen_t n;
		int one = 5;

		c->kind = shared->unix_too ? (lot(4) ? UNIX : TCP4) : lot(3);
		c->space = c->kind != UNIX && lot(3) == 0;
		for (d = 0; d < 2; d++) {
			begin_flow(&c->flow[d][0], i, d, 0);
			begin_flow(&c->flow[!d][1], i, d, 1);
		}
		/* Of AF_UNIX nothing tells the order of several threads. */
		if (c->kind != UNIX && lot(8) == 0) {
			c->two_writers = 1;
			for (d = 0; d < 2; d++) {
				begin_flow(&c->second[d], i, d, 0);
				c->second[d].part = 1;
				c->second[d].most_bits %= 14;
				c->flow[d][0].most_bits %= 14;
				c->second[d].direction = d;
				c->flow[d][1].raw = 1;
				c->flow[d][1].total = 0;
				c->flow[d][1].seed |= 1;
			}
		} else if (c->kind != UNIX && lot(8) == 0) {
			c->two_readers = 1;
		}
		if (c->space && setns(other_space, CLONE_NEWNET))
			die("setns");
		if (c->kind == UNIX) {
			c->listener = socket(AF_UNIX, SOCK_STREAM, 0);
			n = unix_address(i, &u);
			if (bind(c->listener, (void *)&u, n))
				die("bind");
		} else {
			c->listener = socket(c->kind == TCP4 ? AF_INET : AF_INET6, SOCK_STREAM, 0);
			n = address_of(c, &a, c->space && i && shared->c[i - 1].kind == c->kind ? shared->c[i - 1].port : 0);
			setsockopt(c->listener, IPPROTO_TCP, TCP_FASTOPEN, &one, sizeof(one));
			give_up_soon(c->listener);
			if (bind(c->listener, (void *)&a, n)) {
				n = address_of(c, &a, 0);
				if (bind(c->listener, (void *)&a, n))
					die("bind");
			}
			c->port = local_port(c->listener);
		}
		if (listen(c->listener, 5))
			die("listen");
		if (c->space && setns(own_space, CLONE_NEWNET))
			die("setns");
		if (dup2(c->listener, BASE_FD + i) < 0)
			die("dup2");
		close(c->listener);
		c->listener = BASE_FD + i;
	}
}

static pid_t start(const char *folder, const char *name)
{
	char path[300];
	pid_t child = fork();

	if (child)
		return child;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	snprintf(path, sizeof(path), "%s/%s", folder, name);
	execl(path, path, "role", strcmp(name, "mix-s") ? "0" : "1", NULL);
	die(path);
	return 0;
}

static void say(const char *name, struct flow *f)
{
	printf(", \"%s\": [%llu, %llu]", name, (unsigned long long)f->done, (unsigned long long)f->want);
}

int main(int count, char **arguments)
{
	int i, file, status, kills;
	pid_t roles[2];
	char line[80];
	unsigned long long r = 88172645463325252ull;

	if (count == 3 && !strcmp(arguments[1], "role")) {
		role = atoi(arguments[2]);
		map_all();
		return play();
	}
	if (count == 8 && !strcmp(arguments[1], "steps")) {
		signal(SIGPIPE, SIG_IGN);
		map_all();
		role = 0;
		struct flow *f = flow_of(atoi(arguments[3]), atoi(arguments[4]), atoi(arguments[5]));
		prepare(atoi(arguments[7]));
		steps_of_other(f, atoi(arguments[2]), atoi(arguments[6]));
		return 0;
	}
	if (count != 5)
		return 2;
	if (dup2(check(memfd_create("shared", 0), "memfd"), SHARED_FD) < 0 || ftruncate(SHARED_FD, sizeof(*shared)))
		die("shared");
	snprintf(line, sizeof(line), "%s/noise", arguments[4]);
	file = open(line, O_RDWR | O_CREAT | O_TRUNC, 0600);
	if (dup2(file, NOISE_FD) < 0 || ftruncate(NOISE_FD, PERIOD + MOST_CALL))
		die("noise");
	close(file);
	char *all = mmap(NULL, PERIOD + MOST_CALL, PROT_READ | PROT_WRITE, MAP_SHARED, NOISE_FD, 0);
	for (i = 0; i < PERIOD + MOST_CALL; i++) {
		r ^= r << 13;
		r ^= r >> 7;
		r ^= r << 17;
		all[i] = i < PERIOD ? "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+/"[r >> 58] : all[i - PERIOD];
	}
	munmap(all, PERIOD + MOST_CALL);
	map_all();
	shared->seed = atoi(arguments[1]);
	shared->count = atoi(arguments[2]);
	shared->unix_too = atoi(arguments[3]);
	strcpy(shared->folder, arguments[4]);
	prepare(shared->seed);
	kills = shared->seed % 5 == 4;
	if (unshare(CLONE_NEWNET) || up())
		die("unshare");
	i = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	if (dup2(i, BASE_FD - 1) < 0)
		die("dup2");
	other_space = BASE_FD - 1;
	if (unshare(CLONE_NEWNET) || up())
		die("unshare");
	own_space = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	draw_all();
	roles[1] = start(arguments[4], "mix-s");
	roles[0] = start(arguments[4], "mix-c");
	for (i = 0; i < shared->count; i++)
		close(BASE_FD + i);
	if (kills) {
		usleep(100000 + lot(1000000));
		shared->dead = 1;
		kill(roles[lot(2)], SIGKILL);
		usleep(300000);
		kill(roles[0], SIGKILL);
		kill(roles[1], SIGKILL);
	}
	for (i = 0; i < SECONDS * 100; i++) {
		for (file = 0; file < 2; file++)
			if (roles[file] && waitpid(roles[file], &status, WNOHANG) == roles[file]) {
				roles[file] = 0;
				if (status && !kills)
					failed("a role ended with %x", status);
			}
		if (!roles[0] && !roles[1])
			break;
		usleep(10000);
	}
	if (roles[0] || roles[1]) {
		failed("it hangs");
		for (file = 0; file < 2; file++)
			if (roles[file])
				kill(roles[file], SIGKILL);
	}
	for (i = 0; i < shared->count; i++) {
		struct connection *c = &shared->c[i];
		printf("{\"id\": %d, \"kind\": %d, \"space\": %d, \"port\": %d, \"client_port\": %d, \"inode\": %u, \"state\": %d, \"two_writers\": %d, \"two_readers\": %d, \"fastopen\": %d",
		       i, c->kind, c->space, c->port, c->client_port, c->inode, c->state, c->two_writers, c->two_readers, c->fastopen);
		say("cs", &c->flow[0][0]);
		say("sr", &c->flow[1][1]);
		say("ss", &c->flow[1][0]);
		say("cr", &c->flow[0][1]);
		say("cs2", &c->second[0]);
		say("ss2", &c->second[1]);
		printf(", \"splices\": [%d, %d]}\n", c->flow[0][1].splices, c->flow[1][1].splices);
	}
	return shared->failed;
}
