/* lives WAY PORT: what becomes of a socket between its bytes: copies of it, other processes, threads, reuse.
 * Prints what was sent; where several threads send, only the peer knows in which order. */
#include "common.h"
#include <pthread.h>
#include <sys/types.h>

#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif
#ifndef SYS_pidfd_getfd
#define SYS_pidfd_getfd 438
#endif

#define PIECE 1009
#define PIECES 101
static char *bytes;
static int calls, peer_port;

static void next_piece(int s)
{
	char *p = bytes + calls++ * PIECE;
	if (check(write(s, p, PIECE), "write") != PIECE)
		die("short write");
	was_sent(p, PIECE);
}

static void finish(int s, int port)
{
	char end;
	shutdown(s, SHUT_WR);
	if (read(s, &end, 1) != 0)
		die("the peer did not end");
	close(s);
	report(port, calls);
}

static void by_copies(void)
{
	int s = connect_to(peer_port), port = local_port(s), t;

	while (calls < PIECES) {
		next_piece(s);
		t = calls % 4 == 0 ? dup(s) : calls % 4 == 1 ? dup2(s, 200 + calls) : calls % 4 == 2 ?
			dup3(s, 200 + calls, O_CLOEXEC) : fcntl(s, F_DUPFD, 100);
		close(s);
		s = check(t, "dup");
	}
	finish(s, port);
}

/* The child is given the socket, and sends every second piece when told. */
static void with_child(int (*give)(int, int), int (*take)(int))
{
	int s = connect_to(peer_port), port = local_port(s), ends[2];
	pid_t child;
	char turn = 0;

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends))
		die("socketpair");
	child = fork();
	if (!child) {
		if (give)
			close(s);
		int mine = take ? take(ends[1]) : s;
		while (read(ends[1], &turn, 1) == 1 && turn) {
			calls = turn;
			next_piece(mine);
			if (write(ends[1], &turn, 1) != 1)
				die("turn");
		}
		_exit(0);
	}
	if (give)
		give(ends[0], s);
	while (calls < PIECES) {
		if (calls % 2) {
			turn = calls;
			if (write(ends[0], &turn, 1) != 1 || read(ends[0], &turn, 1) != 1)
				die("turn");
			was_sent(bytes + calls++ * PIECE, PIECE);
		} else {
			next_piece(s);
		}
	}
	turn = 0;
	check(write(ends[0], &turn, 1), "turn");
	waitpid(child, NULL, 0);
	finish(s, port);
}

static int give_rights(int end, int s)
{
	char room[CMSG_SPACE(sizeof(int))] = {0}, byte = 0;
	struct iovec v = {&byte, 1};
	struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof(room)};
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);

	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(c), &s, sizeof(int));
	return check(sendmsg(end, &m, 0), "SCM_RIGHTS");
}

static int take_rights(int end)
{
	char room[CMSG_SPACE(sizeof(int))], byte;
	struct iovec v = {&byte, 1};
	struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof(room)};
	int s;

	check(recvmsg(end, &m, 0), "SCM_RIGHTS");
	memcpy(&s, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof(int));
	return s;
}

static int give_number(int end, int s) { return check(write(end, &s, sizeof(s)), "write"); }

static int take_by_pidfd(int end)
{
	int s, of;
	check(read(end, &s, sizeof(s)), "read");
	of = check(syscall(SYS_pidfd_open, getppid(), 0), "pidfd_open");
	return check(syscall(SYS_pidfd_getfd, of, s, 0), "pidfd_getfd");
}

static void by_fork(void) { with_child(NULL, NULL); }
static void by_rights(void) { with_child(give_rights, take_rights); }
static void by_pidfd(void) { with_child(give_number, take_by_pidfd); }

/* The same number for each connection, at once. */
static void by_reuse(void)
{
	int i, first = -1;

	for (i = 0; i < PIECES; i++) {
		int s = connect_to(peer_port), port = local_port(s);
		if (first < 0)
			first = s;
		if (s != first)
			die("another number");
		begin_report();
		sent_bytes = 0;
		calls = i;
		memcpy(bytes + i * PIECE, "GET /reuse HTTP/1.1\r\n", 21);
		next_piece(s);
		shutdown(s, SHUT_WR);
		char end;
		if (read(s, &end, 1) != 0)
			die("the peer did not end");
		if (i % 2)
			close(s);
		else
			syscall(SYS_close_range, s, s, 0);
		report(port, 1);
	}
}

static void by_exec(char *self)
{
	int s = connect_to(peer_port);
	char fd[16];

	while (calls < PIECES / 2)
		next_piece(s);
	snprintf(fd, sizeof(fd), "%d", s);
	execl(self, self, "executed", fd, NULL);
	die("exec");
}

static void executed(int s)
{
	int i;
	for (i = 0; i < PIECES / 2; i++)
		was_sent(bytes + i * PIECE, PIECE);
	calls = i;
	while (calls < PIECES)
		next_piece(s);
	finish(s, local_port(s));
}

/* Threads that send on one socket without asking each other. */
static int shared, size_of_message, messages;

static void *sender(void *first)
{
	char *p = payload(size_of_message, (uintptr_t)first);
	int i;

	memcpy(p, "GET /thread HTTP/1.1\r\n", 22);
	for (i = 0; i < messages; i++) {
		size_t done = 0;
		while (done < (size_t)size_of_message)
			done += check(send(shared, p + done, size_of_message - done, 0), "send");
	}
	return NULL;
}

static void by_threads(int size, int count, int buffer)
{
	pthread_t threads[3];
	int i, port;

	shared = connect_to(peer_port);
	port = local_port(shared);
	if (buffer)
		setsockopt(shared, SOL_SOCKET, SO_SNDBUF, &buffer, sizeof(buffer));
	size_of_message = size;
	messages = count;
	for (i = 0; i < 3; i++)
		pthread_create(threads + i, NULL, sender, (void *)(uintptr_t)(i + 1));
	for (i = 0; i < 3; i++)
		pthread_join(threads[i], NULL);
	calls = 3 * count;
	sent_bytes = 3ull * size * count;
	finish(shared, port);
}

static uint64_t by_thread[3];

static void *receiver(void *which)
{
	char room[4096];
	ssize_t n;
	while ((n = recv(shared, room, sizeof(room), 0)) > 0)
		by_thread[(uintptr_t)which] += n;
	return NULL;
}

static void by_receivers(void)
{
	pthread_t threads[3];
	int i, port;

	shared = connect_to(peer_port);
	port = local_port(shared);
	for (i = 0; i < 3; i++)
		pthread_create(threads + i, NULL, receiver, (void *)(uintptr_t)i);
	for (i = 0; i < 3; i++) {
		pthread_join(threads[i], NULL);
		received_bytes += by_thread[i];
	}
	shutdown(shared, SHUT_WR);
	close(shared);
	report(port, calls);
}

int main(int count, char **arguments)
{
	const char *way = arguments[1];

	if (count != 3)
		return 2;
	bytes = payload(PIECE * PIECES, 31);
	peer_port = atoi(arguments[2]);
	begin_report();
	if (!strcmp(way, "dup"))
		by_copies();
	else if (!strcmp(way, "fork"))
		by_fork();
	else if (!strcmp(way, "SCM_RIGHTS"))
		by_rights();
	else if (!strcmp(way, "pidfd_getfd"))
		by_pidfd();
	else if (!strcmp(way, "reuse"))
		by_reuse();
	else if (!strcmp(way, "exec"))
		by_exec(arguments[0]);
	else if (!strcmp(way, "executed"))
		executed(peer_port);
	else if (!strcmp(way, "threads_send_messages"))
		by_threads(509, 1009, 0);
	else if (!strcmp(way, "threads_send_blocking"))
		by_threads(300007, 7, 20000);
	else if (!strcmp(way, "threads_receive"))
		by_receivers();
	else
		return 2;
	return 0;
}
