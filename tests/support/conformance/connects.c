/* connects WAY PORT-OR-PATH: kinds of connections. A request in pieces, the answer to its end, and a close. */
#include "common.h"
#include <sys/prctl.h>

#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif
#define PIECE 1009
#define PIECES 101

static char *bytes;
static int calls;

static void send_pieces(int s, int from, int to)
{
	for (; from < to; from++, calls++) {
		if (check(write(s, bytes + from * PIECE, PIECE), "write") != PIECE)
			die("short write");
		was_sent(bytes + from * PIECE, PIECE);
	}
}

static void finish(int s)
{
	char room[4099];
	size_t n;
	int number = number_of(s);

	shutdown(s, SHUT_WR);
	while ((n = check(read(s, room, sizeof(room)), "read")))
		was_received(room, n);
	close(s);
	report(number, calls);
}

static int inet6_to(const char *host, int port, int protocol)
{
	struct sockaddr_in6 a = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
	int s = socket(AF_INET6, SOCK_STREAM, protocol);

	inet_pton(AF_INET6, host, &a.sin6_addr);
	if (s < 0 || connect(s, (void *)&a, sizeof(a)))
		die("connect");
	return s;
}

static int mptcp_to(int port)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
	int s = socket(AF_INET, SOCK_STREAM, IPPROTO_MPTCP);

	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (s < 0 || connect(s, (void *)&a, sizeof(a)))
		die("connect");
	return s;
}

/* Its answer, by way of a pipe. */
static void splice_in(int s)
{
	char room[4099];
	int ends[2];
	size_t n;

	shutdown(s, SHUT_WR);
	if (pipe(ends))
		die("pipe");
	while ((n = check(splice(s, NULL, ends[1], NULL, sizeof(room), 0), "splice")))
		was_received(room, check(read(ends[0], room, n), "read"));
}

/* One socket, which lets go of each connection and makes another, with the same descriptor. */
static void by_again(int port)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
	struct sockaddr nobody = {.sa_family = AF_UNSPEC};
	int s = check(socket(AF_INET, SOCK_STREAM, 0), "socket"), i;

	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	for (i = 0; i < 7; i++) {
		check(connect(s, (void *)&a, sizeof(a)), "connect");
		begin_report();
		sent_bytes = received_bytes = calls = 0;
		send_pieces(s, 0, 50 + i);
		finish(check(dup(s), "dup"));
		check(connect(s, &nobody, sizeof(nobody)), "disconnect");
	}
}

/* Connections whose sockets and files the kernel makes of the same memory, again and again. */
static void by_many(const char *path, int mptcp)
{
	int i;

	for (i = 0; i < PIECES; i++) {
		int s = mptcp ? mptcp_to(atoi(path)) : unix_to(path, SOCK_STREAM), number = number_of(s);
		char room[4099];
		size_t n;

		begin_report();
		sent_bytes = received_bytes = 0;
		calls = 0;
		bytes[PIECE - 1] = i;
		send_pieces(s, 0, 1 + i % 3);
		shutdown(s, SHUT_WR);
		while ((n = check(read(s, room, sizeof(room)), "read")))
			was_received(room, n);
		if (i % 3 == 0)
			close(s);
		else if (i % 3 == 1)
			syscall(SYS_close_range, s, s, 0);
		else
			dup2(0, s), close(s);
		report(number, calls);
	}
}

/* The other end of a pair is another program's. */
static int pair_with_echo(void)
{
	int ends[2];
	char room[4096];
	size_t n;

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends))
		die("socketpair");
	if (!fork()) {
		prctl(PR_SET_NAME, "echo");
		close(ends[0]);
		n = check(write(ends[1], "HTTP/1.1 200 OK\r\n\r\n", 19), "write");
		while ((n = check(read(ends[1], room, sizeof(room)), "read")))
			if (check(write(ends[1], room, n / 2), "write") != n / 2)
				die("short write");
		_exit(0);
	}
	close(ends[1]);
	return ends[0];
}

/* A process that is handed the socket by a message sends the second half. */
static void by_passing(int s)
{
	int ends[2], status;
	char byte = 'x', room[CMSG_SPACE(sizeof(int))] = {};
	struct iovec block = {&byte, 1};
	struct msghdr message = {.msg_iov = &block, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof(room)};
	struct cmsghdr *c;
	pid_t child;

	if (socketpair(AF_UNIX, SOCK_DGRAM, 0, ends))
		die("socketpair");
	child = fork();
	if (!child) {
		close(s);
		check(recvmsg(ends[1], &message, 0), "recvmsg");
		send_pieces(*(int *)CMSG_DATA(CMSG_FIRSTHDR(&message)), PIECES / 2, PIECES);
		_exit(0);
	}
	send_pieces(s, 0, PIECES / 2);
	c = CMSG_FIRSTHDR(&message);
	*c = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int))};
	*(int *)CMSG_DATA(c) = s;
	check(sendmsg(ends[0], &message, 0), "sendmsg");
	if (waitpid(child, &status, 0) != child || status)
		die("child");
	was_sent(bytes + PIECES / 2 * PIECE, (PIECES - PIECES / 2) * PIECE);
	finish(s);
}

/* Bytes together with a descriptor, in blocks, both ways. */
static void by_messages(int s)
{
	char room[CMSG_SPACE(sizeof(int))], answer[3001];
	struct iovec blocks[3];
	struct msghdr message = {.msg_iov = blocks, .msg_iovlen = 3};
	struct cmsghdr *c;
	int i, number = number_of(s);
	size_t n;

	for (i = 0; i < PIECES; i++, calls++) {
		char *p = bytes + i * PIECE;
		blocks[0] = (struct iovec){p, 400};
		blocks[1] = (struct iovec){p + 400, 0};
		blocks[2] = (struct iovec){p + 400, PIECE - 400};
		memset(room, 0, sizeof(room));
		message.msg_control = i % 10 ? NULL : room;
		message.msg_controllen = i % 10 ? 0 : sizeof(room);
		if (i % 10 == 0) {
			c = CMSG_FIRSTHDR(&message);
			*c = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int))};
			*(int *)CMSG_DATA(c) = 0;
		}
		if (check(sendmsg(s, &message, 0), "sendmsg") != PIECE)
			die("short message");
		was_sent(p, PIECE);
	}
	shutdown(s, SHUT_WR);
	message.msg_control = NULL;
	message.msg_controllen = 0;
	message.msg_iovlen = 1;
	for (;;) {
		blocks[0] = (struct iovec){answer, sizeof(answer)};
		check(recvmsg(s, &message, MSG_PEEK), "peek");
		/* Of a stream, Unix sockets cut nothing short: the flag means nothing. */
		if (!(n = check(recvmsg(s, &message, MSG_TRUNC), "recvmsg")))
			break;
		was_received(answer, n);
	}
	close(s);
	report(number, calls);
}

/* What is no stream of bytes, though it looks like HTTP. */
static void by_messages_of(int type)
{
	int ends[2];
	char room[PIECE];

	if (socketpair(AF_UNIX, type, 0, ends))
		die("socketpair");
	for (calls = 0; calls < PIECES; calls++)
		if (write(ends[0], bytes, PIECE) != PIECE || read(ends[1], room, PIECE) != PIECE)
			die("message");
}

int main(int count, char **arguments)
{
	const char *way = arguments[1], *where = arguments[2];
	int s;

	if (count != 3)
		return 2;
	bytes = payload(PIECES * PIECE, 47);
	begin_report();
	if (!strcmp(way, "unix_many"))
		return by_many(where, 0), 0;
	if (!strcmp(way, "again"))
		return by_again(atoi(where)), 0;
	if (!strcmp(way, "mptcp_many"))
		return by_many(where, 1), 0;
	if (!strcmp(way, "unix_datagrams"))
		return by_messages_of(SOCK_DGRAM), 0;
	if (!strcmp(way, "unix_packets"))
		return by_messages_of(SOCK_SEQPACKET), 0;
	if (!strcmp(way, "ipv6"))
		s = inet6_to("::1", atoi(where), 0);
	else if (!strcmp(way, "mapped"))
		s = inet6_to("::ffff:127.0.0.1", atoi(where), 0);
	else if (!strcmp(way, "mptcp6"))
		s = inet6_to("::1", atoi(where), IPPROTO_MPTCP);
	else if (!strcmp(way, "mptcp") || !strcmp(way, "mptcp_splice"))
		s = mptcp_to(atoi(where));
	else if (!strcmp(way, "unix_pair"))
		s = pair_with_echo();
	else
		s = unix_to(where, SOCK_STREAM);
	if (!strcmp(way, "unix_passed"))
		return by_passing(s), 0;
	if (!strcmp(way, "unix_messages"))
		return by_messages(s), 0;
	send_pieces(s, 0, PIECES);
	if (!strcmp(way, "mptcp_splice"))
		splice_in(s);
	finish(s);
	return 0;
}
