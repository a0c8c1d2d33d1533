/* coroutines PORT THREADS ROUNDS: each coroutine asks over a TLS connection of its own, and leaves SSL_read, SSL_write
 * and the handshake in the middle, in a BIO's callback, for another; THREADS take them up in turn, whoever left them.
 * Prints a line of JSON for each answer. With no threads the main one runs them, and asks too, on its own stack. With -1
 * there are none, and a thread asks that has a megabyte on its stack, as Ruby's have; with -2 a child that it forks, whose
 * main thread has that stack.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#define COROUTINES 7
#define STACK_BYTES (1 << 16)

struct coroutine {
	ucontext_t context, *back;
	int number, done, taken;
};
static struct coroutine all[COROUTINES];
static __thread struct coroutine *current;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static SSL_CTX *tls;
static BIO_METHOD *method;
static int port, rounds, left = COROUTINES;

static void die(const char *what)
{
	perror(what);
	exit(1);
}

/* Not inlined: after a switch the thread may be another. */
static __attribute__((noinline)) struct coroutine *self(void)
{
	asm volatile("");
	return current;
}

static void resume(struct coroutine *c)
{
	ucontext_t here;

	c->back = &here;
	current = c;
	swapcontext(&here, &c->context);
	current = NULL;
}

/* One step of each coroutine that nobody is in. */
static void step(void)
{
	int i;

	for (i = 0; i < COROUTINES; i++) {
		struct coroutine *c = all + i;
		pthread_mutex_lock(&lock);
		int mine = !c->done && !c->taken;
		c->taken |= mine;
		pthread_mutex_unlock(&lock);
		if (!mine)
			continue;
		resume(c);
		pthread_mutex_lock(&lock);
		c->taken = 0;
		left -= c->done;
		pthread_mutex_unlock(&lock);
	}
}

/* On the main stack, others take a step meanwhile. */
static void pause_here(void)
{
	struct coroutine *c = self();

	if (c)
		swapcontext(&c->context, c->back);
	else
		step();
}

static int read_bytes(BIO *bio, char *to, int n)
{
	int fd = (int)(long)BIO_get_data(bio);
	ssize_t got;

	BIO_clear_retry_flags(bio);
	while ((got = recv(fd, to, n, MSG_DONTWAIT)) < 0) {
		if (errno != EAGAIN)
			die("recv");
		pause_here();
	}
	return got;
}

static int write_bytes(BIO *bio, const char *from, int n)
{
	BIO_clear_retry_flags(bio);
	pause_here();
	return send((int)(long)BIO_get_data(bio), from, n, 0);
}

static long control(BIO *bio, int command, long number, void *pointer)
{
	(void)bio, (void)number, (void)pointer;
	return command == BIO_CTRL_FLUSH;
}

static int created(BIO *bio)
{
	BIO_set_init(bio, 1);
	return 1;
}

static void ask(SSL *ssl, int number, int round)
{
	static __thread int unused;
	char text[16384], path[64], *body;
	int size = 1000 * number + 101 * round + 1, have = 0, n, i;
	unsigned char digest[32];

	(void)unused;
	snprintf(path, sizeof(path), "/bytes/%d?%d.%d", size, number, round);
	n = snprintf(text, sizeof(text), "GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n", path);
	if (SSL_write(ssl, text, n) != n)
		die("SSL_write");
	for (;;) {
		n = SSL_read(ssl, text + have, sizeof(text) - 1 - have);
		if (n <= 0)
			die("SSL_read");
		have += n;
		text[have] = 0;
		body = strstr(text, "\r\n\r\n");
		if (body && text + have - (body + 4) >= size)
			break;
	}
	EVP_Digest(body + 4, size, digest, NULL, EVP_sha256(), NULL);
	pthread_mutex_lock(&lock);
	printf("{\"path\": \"%s\", \"sha256\": \"", path);
	for (i = 0; i < 32; i++)
		printf("%02x", digest[i]);
	printf("\"}\n");
	pthread_mutex_unlock(&lock);
}

static void talk(int number)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
	int fd = socket(AF_INET, SOCK_STREAM, 0), i;
	SSL *ssl = SSL_new(tls);
	BIO *bio = BIO_new(method);

	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (connect(fd, (void *)&a, sizeof(a)))
		die("connect");
	BIO_set_data(bio, (void *)(long)fd);
	SSL_set_bio(ssl, bio, bio);
	if (SSL_connect(ssl) != 1)
		die("SSL_connect");
	for (i = 0; i < rounds; i++)
		ask(ssl, number, i);
	SSL_shutdown(ssl);
	SSL_free(ssl);
	close(fd);
}

static void run(void)
{
	talk(self()->number);
	self()->done = 1;
	pause_here();
}

static void *worker(void *nothing)
{
	while (left > 0) {
		step();
		usleep(100);
	}
	return nothing;
}

static void *deep(void *forks)
{
	volatile char *below = alloca(1 << 20);

	below[0] = 0;
	if (!forks || !fork())
		talk(0);
	else
		wait(NULL);
	return NULL;
}

int main(int count, char **arguments)
{
	int threads, i;
	pthread_t ids[16];

	if (count != 4)
		return 2;
	port = atoi(arguments[1]);
	threads = atoi(arguments[2]);
	rounds = atoi(arguments[3]);
	tls = SSL_CTX_new(TLS_client_method());
	method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "coroutines");
	BIO_meth_set_read(method, read_bytes);
	BIO_meth_set_write(method, write_bytes);
	BIO_meth_set_ctrl(method, control);
	BIO_meth_set_create(method, created);
	for (i = 0; i < COROUTINES; i++) {
		struct coroutine *c = all + i;
		c->number = i + 1;
		c->done = threads < 0;
		getcontext(&c->context);
		c->context.uc_stack.ss_size = STACK_BYTES;
		c->context.uc_stack.ss_sp = mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		makecontext(&c->context, run, 0);
	}
	for (i = 0; i < threads; i++)
		pthread_create(ids + i, NULL, worker, NULL);
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (threads < 0 && (pthread_create(ids, NULL, deep, threads < -1 ? ids : NULL) || pthread_join(ids[0], NULL)))
		die("thread");
	if (!threads)
		talk(0);
	while (!threads && left > 0)
		step();
	for (i = 0; i < threads; i++)
		pthread_join(ids[i], NULL);
	return 0;
}
