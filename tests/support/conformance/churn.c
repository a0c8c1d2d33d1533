/* churn CONNECTIONS SEED PROCESSES THREADS: that many connections to a server of its own, in random order, from
 * processes with threads that open, talk on and close several at a time, so that descriptors, ports and sockets are
 * used again at once. Prints a line for each connection, as its client saw it, before it is closed. */
#include "common.h"
#include <pthread.h>
#include <sys/epoll.h>
#include <signal.h>
#include <sys/prctl.h>

#define AT_ONCE 7
#define SERVERS 3
#define MOST_TALKS 5
#define MOST_BYTES 1999
#define HEAD 64
/* Who closes first, and whether there is more to come before. */
enum { GOES_ON, CLIENT_CLOSES, SERVER_CLOSES, LASTS };

static int port;
static char noise[1 << 16];
static pthread_mutex_t printing = PTHREAD_MUTEX_INITIALIZER;

struct share {
	int connections;
	unsigned seed;
	pthread_t thread;
};

struct connection {
	int s, port, talks, calls;
	unsigned number;
	uint64_t bytes[2];
	struct sha256 hash[2];
};

static void move_all(int s, char *p, size_t n, int sends)
{
	ssize_t done;

	for (; n; p += done, n -= done) {
		done = sends ? send(s, p, n, MSG_NOSIGNAL) : recv(s, p, n, 0);
		if (done <= 0)
			die(sends ? "send" : "recv");
	}
}

/* A message: 64 bytes that tell its length, how long an answer is to be, and what happens then; and as much. */
static int message(char *to, const char *first, unsigned number, int n, int answer, int then, unsigned noise_at)
{
	int head = snprintf(to, HEAD + 1, "%s%08x/%04x/%04x/%d", first, number, n, answer, then);

	head += snprintf(to + head, HEAD + 1 - head, " HTTP/1.1\r\nX: ");
	memset(to + head, 'x', HEAD - head);
	memcpy(to + HEAD - 4, "\r\n\r\n", 4);
	memcpy(to + HEAD, noise + noise_at % (sizeof(noise) - MOST_BYTES), n);
	return HEAD + n;
}

static void note(struct connection *c, int d, char *bytes, int n)
{
	sha256_add(&c->hash[d], bytes, n);
	c->bytes[d] += n;
}

static void finish(struct connection *c)
{
	pthread_mutex_lock(&printing);
	printf("{\"port\": %d, \"peer_port\": %d, \"calls\": %d, \"sent_bytes\": %llu, \"received_bytes\": %llu, \"sent\": \"",
	       c->port, port, c->calls, (unsigned long long)c->bytes[0], (unsigned long long)c->bytes[1]);
	sha256_print(&c->hash[0]);
	printf("\", \"received\": \"");
	sha256_print(&c->hash[1]);
	printf("\"}\n");
	fflush(stdout);
	pthread_mutex_unlock(&printing);
	close(c->s);
	c->s = 0;
}

static void talk(struct connection *c, unsigned *seed)
{
	char bytes[HEAD + MOST_BYTES + 1];
	int n = rand_r(seed) % MOST_BYTES, answer = rand_r(seed) % MOST_BYTES;
	int then = --c->talks ? GOES_ON : CLIENT_CLOSES + rand_r(seed) % 2;

	n = message(bytes, "POST /", c->number, n, answer, then, rand_r(seed));
	move_all(c->s, bytes, n, 1);
	note(c, 0, bytes, n);
	move_all(c->s, bytes, HEAD + answer, 0);
	note(c, 1, bytes, HEAD + answer);
	c->calls += 2;
	if (then == SERVER_CLOSES && recv(c->s, bytes, 1, 0))
		die("the server did not close");
	if (then != GOES_ON)
		finish(c);
}

static void *client(void *argument)
{
	struct share *share = argument;
	struct connection open[AT_ONCE] = {}, *c;
	unsigned seed = share->seed;
	int left = share->connections, now = 0;

	while (left || now) {
		c = &open[rand_r(&seed) % AT_ONCE];
		if (!c->s && left) {
			memset(c, 0, sizeof(*c));
			c->s = connect_to(port);
			c->port = local_port(c->s);
			c->talks = 1 + rand_r(&seed) % MOST_TALKS;
			c->number = seed;
			sha256_begin(&c->hash[0]);
			sha256_begin(&c->hash[1]);
			left--;
			now++;
		} else if (c->s) {
			talk(c, &seed);
			now -= !c->s;
		}
	}
	return NULL;
}

/* 0: the connection is no more. */
static int serve(int s)
{
	char bytes[HEAD + MOST_BYTES + 1];
	unsigned number;
	int n, answer, then;
	ssize_t first = recv(s, bytes, HEAD, 0);

	if (first <= 0)
		return 0;
	move_all(s, bytes + first, HEAD - first, 0);
	if (sscanf(bytes, "POST /%x/%x/%x/%d", &number, (unsigned *)&n, (unsigned *)&answer, &then) != 4)
		die("not a request");
	move_all(s, bytes + HEAD, n, 0);
	n = message(bytes, "HTTP/1.1 200 ", number, answer, 0, LASTS, number);
	move_all(s, bytes, n, 1);
	return then != SERVER_CLOSES;
}

static void *server(void *listener)
{
	int l = *(int *)listener, set = epoll_create1(0), s;
	struct epoll_event event = {.events = EPOLLIN | EPOLLEXCLUSIVE, .data.fd = l};

	epoll_ctl(set, EPOLL_CTL_ADD, l, &event);
	while (epoll_wait(set, &event, 1, -1) == 1 || errno == EINTR) {
		s = event.data.fd;
		if (s == l) {
			s = accept4(l, NULL, NULL, 0);
			event.events = EPOLLIN;
			event.data.fd = s;
			if (s >= 0)
				epoll_ctl(set, EPOLL_CTL_ADD, s, &event);
		} else if (!serve(s)) {
			close(s);
		}
	}
	return NULL;
}

static pid_t serve_all(int l)
{
	pthread_t threads[SERVERS];
	pid_t child = fork();
	int i;

	if (child)
		return child;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (i = 0; i < SERVERS; i++)
		pthread_create(&threads[i], NULL, server, &l);
	pthread_join(threads[0], NULL);
	exit(1);
}

static void connect_all(int connections, unsigned seed, int threads)
{
	struct share *shares = calloc(threads, sizeof(*shares));
	int i;

	for (i = 0; i < threads; i++) {
		shares[i].connections = connections / threads + (i < connections % threads);
		shares[i].seed = seed * 1000 + i;
		pthread_create(&shares[i].thread, NULL, client, &shares[i]);
	}
	for (i = 0; i < threads; i++)
		pthread_join(shares[i].thread, NULL);
	exit(0);
}

int main(int argc, char **argv)
{
	struct sockaddr_in a = {.sin_family = AF_INET};
	struct sha256 first;
	int l = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), connections, processes, i, status, failed = 0;
	unsigned seed;
	pid_t peer;

	if (argc != 5)
		return 2;
	connections = atoi(argv[1]);
	seed = atoi(argv[2]);
	processes = atoi(argv[3]);
	/* Makes the table of constants, before there are threads. */
	sha256_begin(&first);
	sha256_add(&first, noise, 64);
	for (i = 0; i < (int)sizeof(noise); i++)
		noise[i] = rand_r(&seed) >> 7;
	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (bind(l, (void *)&a, sizeof(a)) || listen(l, 512))
		die("listen");
	port = local_port(l);
	peer = serve_all(l);
	for (i = 0; i < processes; i++)
		if (!fork())
			connect_all(connections / processes + (i < connections % processes), seed + i + 1, atoi(argv[4]));
	for (i = 0; i < processes; i++) {
		wait(&status);
		failed |= status;
	}
	/* What the clients have closed last, the server closes a little later. */
	usleep(200000);
	kill(peer, SIGKILL);
	wait(&status);
	return failed != 0;
}
