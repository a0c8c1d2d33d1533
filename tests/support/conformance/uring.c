/* uring WAY MODES PORT-OR-PATH: one connection, all of whose bytes io_uring moves.
 * Modes are words with commas between: sqpoll, async, defer, link, skip, fixedfile. */
#include "common.h"
#include <liburing.h>

#define SENT_BYTES 500009
#define PACKETS 16
#define PACKET_BYTES 8192
/* Several buffers at once (Linux 6.10), which liburing 2.3 does not know. */
#ifndef IORING_RECVSEND_BUNDLE
#define IORING_RECVSEND_BUNDLE (1U << 4)
#endif

static struct io_uring ring;
static const char *modes;
static int calls, descriptor;

static int has(const char *mode)
{
	return strstr(modes, mode) != NULL;
}

static void prepared(struct io_uring_sqe *e)
{
	e->flags |= (has("async") ? IOSQE_ASYNC : 0) | (has("fixedfile") ? IOSQE_FIXED_FILE : 0);
	e->user_data = ++calls;
}

/* The result of the next completion that is not a notification. */
static int result(unsigned *flags)
{
	struct io_uring_cqe *done;
	int n;

	do {
		if (io_uring_wait_cqe(&ring, &done))
			die("io_uring_wait_cqe");
		n = done->res;
		*flags = done->flags;
		io_uring_cqe_seen(&ring, done);
	} while (*flags & IORING_CQE_F_NOTIF);
	return n;
}

static void prepare_send(struct io_uring_sqe *e, const char *way, char *p, size_t n, struct iovec *v, struct msghdr *m)
{
	v[0] = (struct iovec){p, n / 3};
	v[1] = (struct iovec){p + n / 3, n - n / 3};
	*m = (struct msghdr){.msg_iov = v, .msg_iovlen = 2};
	if (!strcmp(way, "send"))
		io_uring_prep_send(e, descriptor, p, n, MSG_WAITALL);
	else if (!strcmp(way, "write"))
		io_uring_prep_write(e, descriptor, p, n, 0);
	else if (!strcmp(way, "writev"))
		io_uring_prep_writev(e, descriptor, v, 2, 0);
	else if (!strcmp(way, "sendmsg"))
		io_uring_prep_sendmsg(e, descriptor, m, MSG_WAITALL);
	else if (!strcmp(way, "send_zc"))
		io_uring_prep_send_zc(e, descriptor, p, n, MSG_WAITALL, 0);
	else if (!strcmp(way, "sendmsg_zc"))
		io_uring_prep_sendmsg_zc(e, descriptor, m, MSG_WAITALL);
	else if (!strcmp(way, "write_fixed"))
		io_uring_prep_write_fixed(e, descriptor, p, n, 0, 0);
	else if (!strcmp(way, "send_zc_fixed")) {
		io_uring_prep_send_zc(e, descriptor, p, n, MSG_WAITALL, 0);
		e->ioprio |= IORING_RECVSEND_FIXED_BUF;
		e->buf_index = 0;
	} else
		die(way);
}

static void run_sender(const char *way)
{
	char *p = payload(SENT_BYTES, 21), *end = p + SENT_BYTES;
	struct iovec all = {p, SENT_BYTES};
	uint32_t seed = 7;

	if (strstr(way, "fixed") && io_uring_register_buffers(&ring, &all, 1))
		die("io_uring_register_buffers");
	while (p < end) {
		struct io_uring_sqe *e = io_uring_get_sqe(&ring);
		struct iovec v[2];
		struct msghdr m;
		size_t n, second = 0, done = 0;
		unsigned flags;
		int answers = 1;

		seed = seed * 1103515245 + 12345;
		n = 1 + (seed >> 16) % 30011;
		if (n > (size_t)(end - p))
			n = end - p;
		prepare_send(e, way, p, n, v, &m);
		prepared(e);
		if (has("link") && p + n < end) {
			second = (size_t)(end - p) - n < 5003 ? (size_t)(end - p) - n : 5003;
			e->flags |= IOSQE_IO_LINK | (has("skip") ? IOSQE_CQE_SKIP_SUCCESS : 0);
			e = io_uring_get_sqe(&ring);
			io_uring_prep_send(e, descriptor, p + n, second, MSG_WAITALL);
			prepared(e);
			if (has("skip"))
				done = n;
			else
				answers = 2;
		}
		io_uring_submit(&ring);
		while (answers--)
			done += check(result(&flags), "send");
		was_sent(p, done);
		p += done;
	}
}

static void run_splice(int s)
{
	char *p = payload(SENT_BYTES, 22), *end = p + SENT_BYTES;
	int ends[2];
	unsigned flags;

	if (pipe(ends))
		die("pipe");
	while (p < end) {
		size_t n = end - p < 50021 ? end - p : 50021, left;
		left = n = check(write(ends[1], p, n), "write");
		while (left) {
			struct io_uring_sqe *e = io_uring_get_sqe(&ring);
			io_uring_prep_splice(e, ends[0], -1, s, -1, left, 0);
			prepared(e);
			io_uring_submit(&ring);
			left -= check(result(&flags), "splice");
		}
		was_sent(p, n);
		p += n;
	}
}

/* The head is read, the rest goes through a pipe. */
/* Of TCP, what is spliced is expected to be a gap. */
static void run_splice_from(int s, int is_gap)
{
	char *room = payload(1 << 20, 23);
	int ends[2], n;
	unsigned flags;

	if (pipe(ends))
		die("pipe");
	was_received(room, check(recv(s, room, 101, 0), "recv"));
	for (;;) {
		struct io_uring_sqe *e = io_uring_get_sqe(&ring);
		io_uring_prep_splice(e, s, -1, ends[1], -1, 60013, 0);
		prepared(e);
		io_uring_submit(&ring);
		n = check(result(&flags), "splice");
		if (!n)
			return;
		check(read(ends[0], room, n), "read");
		if (is_gap)
			memset(room, 0, n);
		was_received(room, n);
	}
}

static void run_receiver(const char *way)
{
	char *room = payload(1 << 20, 24);

	for (;;) {
		struct io_uring_sqe *e = io_uring_get_sqe(&ring);
		struct iovec v[2] = {{room, 1009}, {room + 50000, 30011}};
		struct msghdr m = {.msg_iov = v, .msg_iovlen = 2};
		unsigned flags;
		size_t n;

		if (!strcmp(way, "recv"))
			io_uring_prep_recv(e, descriptor, room, 20011, 0);
		else if (!strcmp(way, "read"))
			io_uring_prep_read(e, descriptor, room, 20011, 0);
		else if (!strcmp(way, "readv"))
			io_uring_prep_readv(e, descriptor, v, 2, 0);
		else if (!strcmp(way, "recvmsg"))
			io_uring_prep_recvmsg(e, descriptor, &m, 0);
		else
			die(way);
		prepared(e);
		io_uring_submit(&ring);
		n = check(result(&flags), "receive");
		if (!n)
			return;
		if (strcmp(way, "readv") && strcmp(way, "recvmsg")) {
			was_received(room, n);
		} else {
			was_received(room, n < 1009 ? n : 1009);
			if (n > 1009)
				was_received(room + 50000, n - 1009);
		}
	}
}

static struct io_uring_buf_ring *buffer_ring(void)
{
	struct io_uring_buf_ring *buffers = aligned_alloc(4096, 4096);
	struct io_uring_buf_reg registration = {.ring_addr = (uintptr_t)buffers, .ring_entries = PACKETS, .bgid = 7};

	memset(buffers, 0, PACKETS * sizeof(struct io_uring_buf));
	if (io_uring_register_buf_ring(&ring, &registration, 0))
		die("io_uring_register_buf_ring");
	io_uring_buf_ring_init(buffers);
	return buffers;
}

static void run_send_bundle(void)
{
	struct io_uring_buf_ring *buffers = buffer_ring();
	char *p = payload(SENT_BYTES, 26), *end = p + SENT_BYTES;
	unsigned flags;

	while (p < end) {
		struct io_uring_sqe *e = io_uring_get_sqe(&ring);
		size_t n = 0, left = 0;
		int i;

		for (i = 0; i < PACKETS / 2 && p + left < end; i++, left += n) {
			n = (size_t)(end - p) - left < 3001 ? (size_t)(end - p) - left : 3001;
			io_uring_buf_ring_add(buffers, p + left, n, i, PACKETS - 1, i);
		}
		io_uring_buf_ring_advance(buffers, i);
		io_uring_prep_send(e, descriptor, NULL, 0, MSG_WAITALL);
		e->ioprio |= IORING_RECVSEND_BUNDLE;
		e->buf_group = 7;
		e->flags |= IOSQE_BUFFER_SELECT;
		prepared(e);
		io_uring_submit(&ring);
		if ((size_t)check(result(&flags), "send") != left)
			die("a part of a bundle");
		was_sent(p, left);
		p += left;
	}
}

static void run_multishot(int message, int bundle)
{
	struct io_uring_buf_ring *buffers = buffer_ring();
	char *room = payload(PACKETS * PACKET_BYTES, 25);
	struct msghdr m = {0};
	int armed = 0, i;

	for (i = 0; i < PACKETS; i++)
		io_uring_buf_ring_add(buffers, room + i * PACKET_BYTES, PACKET_BYTES, i, PACKETS - 1, i);
	io_uring_buf_ring_advance(buffers, PACKETS);
	for (;;) {
		unsigned flags;
		int n;

		if (!armed) {
			struct io_uring_sqe *e = io_uring_get_sqe(&ring);
			if (message)
				io_uring_prep_recvmsg_multishot(e, descriptor, &m, 0);
			else
				io_uring_prep_recv_multishot(e, descriptor, NULL, 0, 0);
			e->ioprio |= bundle ? IORING_RECVSEND_BUNDLE : 0;
			e->buf_group = 7;
			e->flags |= IOSQE_BUFFER_SELECT;
			prepared(e);
			io_uring_submit(&ring);
			armed = 1;
		}
		n = result(&flags);
		armed = !!(flags & IORING_CQE_F_MORE);
		if (n == -ENOBUFS)
			continue;
		if (check(n, "multishot") == 0)
			return;
		/* In the order in which they were given, which is theirs. */
		for (i = flags >> 16; bundle && n > PACKET_BYTES; n -= PACKET_BYTES, i = (i + 1) % PACKETS) {
			was_received(room + i * PACKET_BYTES, PACKET_BYTES);
			io_uring_buf_ring_add(buffers, room + i * PACKET_BYTES, PACKET_BYTES, i, PACKETS - 1, 0);
			io_uring_buf_ring_advance(buffers, 1);
		}
		char *p = room + i * PACKET_BYTES;
		size_t size = n;
		if (message) {
			size = ((struct io_uring_recvmsg_out *)p)->payloadlen;
			if (!size)
				return;
			p += sizeof(struct io_uring_recvmsg_out);
		}
		was_received(p, size);
		io_uring_buf_ring_add(buffers, room + i * PACKET_BYTES, PACKET_BYTES, i, PACKETS - 1, 0);
		io_uring_buf_ring_advance(buffers, 1);
	}
}

int main(int count, char **arguments)
{
	struct io_uring_params p = {.sq_thread_idle = 50};
	const char *way = arguments[1];
	int s, port;

	if (count != 4)
		return 2;
	modes = arguments[2];
	s = descriptor = connect_to_where(arguments[3]);
	port = number_of(s);
	if (has("sqpoll"))
		p.flags |= IORING_SETUP_SQPOLL;
	if (has("defer"))
		p.flags |= IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN;
	if (io_uring_queue_init_params(64, &ring, &p))
		die("io_uring_queue_init");
	if (has("fixedfile")) {
		if (io_uring_register_files(&ring, &s, 1))
			die("io_uring_register_files");
		descriptor = 0;
	}
	begin_report();
	if (!strcmp(way, "multishot"))
		run_multishot(0, 0);
	else if (!strcmp(way, "multishot_msg"))
		run_multishot(1, 0);
	else if (!strcmp(way, "recv_bundle"))
		run_multishot(0, 1);
	else if (!strcmp(way, "send_bundle"))
		run_send_bundle();
	else if (!strcmp(way, "splice"))
		run_splice(s);
	else if (!strcmp(way, "splice_from"))
		run_splice_from(s, arguments[3][0] != '/');
	else if (!strncmp(way, "re", 2))
		run_receiver(way);
	else
		run_sender(way);
	shutdown(s, SHUT_WR);
	if (!received_bytes) {
		char end;
		if (read(s, &end, 1) != 0)
			die("the peer did not end");
	}
	close(s);
	report(port, calls);
	return 0;
}
