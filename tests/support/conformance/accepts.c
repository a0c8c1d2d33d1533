/* accepts WAY: listens on a port, which it prints, and accepts seven connections in this way: the request to its end,
 * the answer in pieces, and a close. What is printed as a connection's port is its client's. */
#include "common.h"
#ifdef __x86_64__
#include <liburing.h>
#endif

#define CONNECTIONS 7
#define PIECE 1009
#define PIECES 31

static int by_int80(int listener)
{
	static uint32_t *a;
	long result = -1;

	if (!a)
		a = (void *)payload(4096, 1);
	a[0] = listener;
	a[1] = a[2] = 0;
	/* socketcall(2): SYS_ACCEPT */
#if defined(__i386__)
	__asm__ volatile("int $0x80" : "=a"(result) : "0"(102), "b"(5), "c"(a) : "memory");
#elif defined(__x86_64__)
	__asm__ volatile("int $0x80" : "=a"(result) : "0"(102), "b"(5), "c"(a) : "memory", "r8", "r9", "r10", "r11");
#endif
	return result;
}

static int by_uring(int listener)
{
#ifdef __x86_64__
	static struct io_uring ring;
	struct io_uring_cqe *done;
	int s;

	if (!ring.ring_fd && io_uring_queue_init(4, &ring, 0))
		die("io_uring_queue_init");
	io_uring_prep_accept(io_uring_get_sqe(&ring), listener, NULL, NULL, 0);
	io_uring_submit(&ring);
	if (io_uring_wait_cqe(&ring, &done))
		die("io_uring_wait_cqe");
	s = done->res;
	io_uring_cqe_seen(&ring, done);
	return s;
#else
	(void)listener;
	return -1;
#endif
}

static int accepted(const char *way, int listener)
{
	if (!strcmp(way, "int80"))
		return by_int80(listener);
	if (!strcmp(way, "uring"))
		return by_uring(listener);
	if (!strcmp(way, "accept4"))
		return accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	return accept(listener, NULL, NULL);
}

static void serve(int s, char *bytes)
{
	struct sockaddr_in a;
	socklen_t n = sizeof(a);
	char room[4099];
	size_t got;
	int i;

	if (getpeername(s, (void *)&a, &n))
		die("getpeername");
	begin_report();
	sent_bytes = received_bytes = 0;
	while ((got = check(read(s, room, sizeof(room)), "read")))
		was_received(room, got);
	for (i = 0; i < PIECES; i++)
		was_sent(bytes + i * PIECE, check(write(s, bytes + i * PIECE, PIECE), "write"));
	close(s);
	report(ntohs(a.sin_port), PIECES);
}

int main(int count, char **arguments)
{
	struct sockaddr_in a = {.sin_family = AF_INET};
	int listener = socket(AF_INET, SOCK_STREAM, 0), i;
	char *bytes = payload(PIECES * PIECE, 53);

	if (count != 2)
		return 2;
	memcpy(bytes, "HTTP/1.1 200 OK\r\nServer: accepts\r\n\r\n.", 38);
	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (listener < 0 || bind(listener, (void *)&a, sizeof(a)) || listen(listener, 7))
		die("listen");
	printf("%d\n", local_port(listener));
	fflush(stdout);
	for (i = 0; i < CONNECTIONS; i++)
		serve(check(accepted(arguments[1], listener), "accept"), bytes);
	return 0;
}
