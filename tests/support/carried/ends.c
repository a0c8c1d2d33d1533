/* Ends of TLS connections whose library only fills and empties memory: what is in it goes over the sockets later.
 *
 * ends server CERTIFICATE KEY HOW CONNECTIONS: says its port; ends client PORT HOW CONNECTIONS. HOW: "loop", one thread
 * receives from all sockets, then calls TLS for all, then sends; "turns", it sends what one has, each time another;
 * "relay", another thread does what is to do with sockets.
 * Each session writes and reads by turns, none more than what is due, so that all are at the same message. Prints
 * for each connection the client's port and how many bytes of plaintext were sent and received; which they are is known
 * (tests/kernel/test_carried.py). Which library is said at compilation: -DUSE_GNUTLS and so on. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define MOST 64
#define ROOM (1 << 20)
#define ROUNDS 6
#define PERIOD 65521
#define SHIFT 4099

struct memory {
	char bytes[ROOM];
	size_t from, to;
};

struct end {
	int number, fd, port, greeted, round, closed;
	size_t sent, received, due; /* `due` of the message that is being sent or received */
	struct memory in, out;
	void *session;
};

static struct end ends[MOST];
static int is_server, count, relays, takes_turns, done;
static char noise[2 * PERIOD];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;

static void fail(const char *what)
{
	fprintf(stderr, "%s %s: %s\n", is_server ? "server" : "client", what, strerror(errno));
	exit(1);
}

static long put(struct end *e, const void *from, size_t n)
{
	struct memory *m = &e->out;

	if (m->from == m->to)
		m->from = m->to = 0;
	if (m->to + n > ROOM)
		fail("room");
	memcpy(m->bytes + m->to, from, n);
	m->to += n;
	return n;
}

/* -1: there is nothing. */
static long take(struct end *e, void *to, size_t n)
{
	struct memory *m = &e->in;

	if (m->from == m->to)
		return -1;
	if (n > m->to - m->from)
		n = m->to - m->from;
	memcpy(to, m->bytes + m->from, n);
	m->from += n;
	return n;
}

/* What a library's functions say: 0 for what would block, -1 for an error. */
#if defined(USE_GNUTLS)
#include <gnutls/gnutls.h>
static gnutls_certificate_credentials_t credentials;
static void begin(const char *certificate, const char *key)
{
	gnutls_certificate_allocate_credentials(&credentials);
	if (is_server && gnutls_certificate_set_x509_key_file(credentials, certificate, key, GNUTLS_X509_FMT_PEM))
		fail("certificate");
}
#if defined(VECTORS)
static ssize_t push_all(gnutls_transport_ptr_t e, const giovec_t *blocks, int n)
{
	ssize_t total = 0;

	for (; n; n--, blocks++)
		total += put(e, blocks->iov_base, blocks->iov_len);
	return total;
}
#else
static ssize_t push(gnutls_transport_ptr_t e, const void *from, size_t n) { return put(e, from, n); }
#endif
static ssize_t pull(gnutls_transport_ptr_t e, void *to, size_t n)
{
	long taken = take(e, to, n);

	if (taken < 0)
		gnutls_transport_set_errno(((struct end *)e)->session, EAGAIN);
	return taken;
}
static void attach(struct end *e)
{
	gnutls_session_t session;

	gnutls_init(&session, is_server ? GNUTLS_SERVER : GNUTLS_CLIENT);
	gnutls_set_default_priority(session);
	gnutls_credentials_set(session, GNUTLS_CRD_CERTIFICATE, credentials);
	gnutls_transport_set_ptr(session, e);
#if defined(VECTORS)
	gnutls_transport_set_vec_push_function(session, push_all);
#else
	gnutls_transport_set_push_function(session, push);
#endif
	gnutls_transport_set_pull_function(session, pull);
	e->session = session;
}
static int result(long n) { return n == GNUTLS_E_AGAIN || n == GNUTLS_E_INTERRUPTED ? 0 : n < 0 ? -1 : n; }
static int greet(struct end *e)
{
	int n = gnutls_handshake(e->session);
	return n == 0 ? 1 : gnutls_error_is_fatal(n) ? -1 : 0;
}
static int send_some(struct end *e, char *p, size_t n) { return result(gnutls_record_send(e->session, p, n)); }
static int receive(struct end *e, char *p, size_t n) { return result(gnutls_record_recv(e->session, p, n)); }

#elif defined(USE_MBEDTLS)
#include <mbedtls/ctr_drbg.h>
#include <mbedtls/entropy.h>
#include <mbedtls/ssl.h>
static mbedtls_ssl_config settings;
static void begin(const char *certificate, const char *key)
{
	static mbedtls_entropy_context entropy;
	static mbedtls_ctr_drbg_context random;
	static mbedtls_x509_crt chain;
	static mbedtls_pk_context secret;

	mbedtls_entropy_init(&entropy);
	mbedtls_ctr_drbg_init(&random);
	mbedtls_ctr_drbg_seed(&random, mbedtls_entropy_func, &entropy, NULL, 0);
	mbedtls_ssl_config_init(&settings);
	mbedtls_ssl_config_defaults(&settings, is_server ? MBEDTLS_SSL_IS_SERVER : MBEDTLS_SSL_IS_CLIENT,
				    MBEDTLS_SSL_TRANSPORT_STREAM, 0);
	mbedtls_ssl_conf_rng(&settings, mbedtls_ctr_drbg_random, &random);
	mbedtls_ssl_conf_authmode(&settings, MBEDTLS_SSL_VERIFY_NONE);
	if (!is_server)
		return;
	mbedtls_x509_crt_init(&chain);
	mbedtls_pk_init(&secret);
	if (mbedtls_x509_crt_parse_file(&chain, certificate) || mbedtls_pk_parse_keyfile(&secret, key, NULL))
		fail("certificate");
	mbedtls_ssl_conf_own_cert(&settings, &chain, &secret);
}
static int push(void *e, const unsigned char *from, size_t n) { return put(e, from, n); }
static int pull(void *e, unsigned char *to, size_t n)
{
	long taken = take(e, to, n);
	return taken < 0 ? MBEDTLS_ERR_SSL_WANT_READ : taken;
}
static void attach(struct end *e)
{
	e->session = calloc(1, sizeof(mbedtls_ssl_context));
	mbedtls_ssl_init(e->session);
	mbedtls_ssl_setup(e->session, &settings);
	mbedtls_ssl_set_bio(e->session, e, push, pull, NULL);
}
static int result(int n) { return n == MBEDTLS_ERR_SSL_WANT_READ || n == MBEDTLS_ERR_SSL_WANT_WRITE ? 0 : n < 0 ? -1 : n; }
static int greet(struct end *e)
{
	int n = mbedtls_ssl_handshake(e->session);
	return n == 0 ? 1 : result(n);
}
static int send_some(struct end *e, char *p, size_t n) { return result(mbedtls_ssl_write(e->session, (void *)p, n)); }
static int receive(struct end *e, char *p, size_t n) { return result(mbedtls_ssl_read(e->session, (void *)p, n)); }

#elif defined(USE_WOLFSSL)
#include <wolfssl/options.h>
#include <wolfssl/ssl.h>
static WOLFSSL_CTX *context;
static int push(WOLFSSL *session, char *from, int n, void *e) { (void)session; return put(e, from, n); }
static int pull(WOLFSSL *session, char *to, int n, void *e)
{
	long taken = take(e, to, n);

	(void)session;
	return taken < 0 ? WOLFSSL_CBIO_ERR_WANT_READ : taken;
}
static void begin(const char *certificate, const char *key)
{
	wolfSSL_Init();
	context = wolfSSL_CTX_new(is_server ? wolfTLS_server_method() : wolfTLS_client_method());
	wolfSSL_CTX_set_verify(context, WOLFSSL_VERIFY_NONE, NULL);
	wolfSSL_CTX_SetIOSend(context, push);
	wolfSSL_CTX_SetIORecv(context, pull);
	if (!is_server)
		return;
	if (wolfSSL_CTX_use_certificate_chain_file(context, certificate) != WOLFSSL_SUCCESS ||
	    wolfSSL_CTX_use_PrivateKey_file(context, key, WOLFSSL_FILETYPE_PEM) != WOLFSSL_SUCCESS)
		fail("certificate");
}
static void attach(struct end *e)
{
	e->session = wolfSSL_new(context);
	wolfSSL_SetIOReadCtx(e->session, e);
	wolfSSL_SetIOWriteCtx(e->session, e);
}
static int result(struct end *e, int n)
{
	int error = n > 0 ? 0 : wolfSSL_get_error(e->session, n);
	return n > 0 ? n : error == WOLFSSL_ERROR_WANT_READ || error == WOLFSSL_ERROR_WANT_WRITE ? 0 : -1;
}
static int greet(struct end *e) { return result(e, is_server ? wolfSSL_accept(e->session) : wolfSSL_connect(e->session)); }
static int send_some(struct end *e, char *p, size_t n) { return result(e, wolfSSL_write(e->session, p, n)); }
static int receive(struct end *e, char *p, size_t n) { return result(e, wolfSSL_read(e->session, p, n)); }
#endif

/* Messages are small, of whole records, or of several. */
static size_t length_of(int number, int round, int from_server)
{
	switch (round % 3) {
	case 0: return 1 + (number * 37 + round * 11 + from_server * 5) % 200;
	case 1: return 16384;
	}
	return 2 * 16384 + number;
}

static char *content(struct end *e, int from_server, size_t at)
{
	return noise + ((e->number * 2 + from_server) * (size_t)SHIFT + at) % PERIOD;
}

/* One call of the library, at most; whether anything happened. */
static int step(struct end *e)
{
	char room[20000];
	int n, turn = e->round & 1; /* even: the client's message */

	if (!e->greeted) {
		size_t written = e->out.to;
		n = e->greeted = greet(e);
		if (n < 0)
			fail("handshake");
		return n || e->out.to != written;
	}
	if (e->round == 2 * ROUNDS)
		return 0;
	if (!e->due)
		e->due = length_of(e->number, e->round / 2, turn);
	if (turn == is_server) {
		n = send_some(e, content(e, is_server, e->sent), e->due < 16384 ? e->due : 16384);
		if (n < 0)
			fail("write");
		e->sent += n;
	} else {
		n = receive(e, room, sizeof(room));
		if (n < 0 || (size_t)n > e->due || memcmp(room, content(e, !is_server, e->received), n))
			fail("read");
		e->received += n;
	}
	e->due -= n;
	e->round += n && !e->due;
	return n;
}

static int is_done(struct end *e) { return e->round == 2 * ROUNDS && e->out.from == e->out.to; }

/* What a socket's end has, or takes. */
static int receive_some(struct end *e)
{
	struct memory *m = &e->in;
	ssize_t n;

	if (e->closed)
		return 0;
	if (m->from == m->to)
		m->from = m->to = 0;
	n = recv(e->fd, m->bytes + m->to, ROOM - m->to < 40000 ? ROOM - m->to : 40000, MSG_DONTWAIT);
	e->closed = n == 0 || (n < 0 && errno != EAGAIN);
	m->to += n > 0 ? n : 0;
	return n > 0;
}

static int send_out(struct end *e)
{
	struct memory *m = &e->out;
	ssize_t n;

	if (m->from == m->to)
		return 0;
	n = send(e->fd, m->bytes + m->from, m->to - m->from, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (n < 0 && errno != EAGAIN)
		fail("send");
	m->from += n > 0 ? n : 0;
	return n > 0;
}

static int for_all(int (*what)(struct end *))
{
	int i, happened = 0;

	for (i = 0; i < count; i++)
		happened |= what(&ends[i]);
	return happened;
}

/* What is to be sent, of all or of the next that has anything. */
static int send_what_is_due(void)
{
	static int turn;
	int i;

	if (!takes_turns)
		return for_all(send_out);
	for (i = 0; i < count; i++)
		if (send_out(&ends[turn++ % count]))
			return 1;
	return 0;
}

static int all_done(void)
{
	int i;

	for (i = 0; i < count && is_done(&ends[i]); i++)
		;
	return i == count;
}

static void await_sockets(void)
{
	struct pollfd waits[MOST];
	int i;

	for (i = 0; i < count; i++)
		waits[i] = (struct pollfd){.fd = ends[i].closed ? -1 : ends[i].fd,
			.events = POLLIN | (ends[i].out.from != ends[i].out.to ? POLLOUT : 0)};
	poll(waits, count, 10);
}

static void *relay(void *nothing)
{
	int happened;

	while (!__atomic_load_n(&done, __ATOMIC_SEQ_CST)) {
		pthread_mutex_lock(&lock);
		happened = for_all(send_out);
		happened |= for_all(receive_some);
		if (happened)
			pthread_cond_signal(&changed);
		pthread_mutex_unlock(&lock);
		if (!happened)
			await_sockets();
	}
	return nothing;
}

static void play_all(void)
{
	pthread_t other;

	if (relays && pthread_create(&other, NULL, relay, NULL))
		fail("thread");
	pthread_mutex_lock(&lock);
	while (!all_done()) {
		int happened = relays ? 0 : for_all(receive_some);
		happened |= for_all(step);
		happened |= relays ? 0 : send_what_is_due();
		if (!happened && relays)
			pthread_cond_wait(&changed, &lock);
		else if (!happened)
			await_sockets();
	}
	pthread_mutex_unlock(&lock);
	__atomic_store_n(&done, 1, __ATOMIC_SEQ_CST);
	if (relays)
		pthread_join(other, NULL);
}

int main(int argc, char **arguments)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)}, peer;
	socklen_t length = sizeof(address);
	unsigned r = 2463534242u;
	int i, s = -1;

	if (argc < 5)
		return 2;
	is_server = !strcmp(arguments[1], "server");
	relays = !strcmp(arguments[argc - 2], "relay");
	takes_turns = !strcmp(arguments[argc - 2], "turns");
	count = atoi(arguments[argc - 1]);
	for (i = 0; i < 2 * PERIOD; i++) {
		r ^= r << 13;
		r ^= r >> 17;
		r ^= r << 5;
		noise[i] = i < PERIOD ? r >> 24 : (unsigned char)noise[i - PERIOD];
	}
	begin(arguments[2], arguments[3]);
	if (is_server) {
		s = socket(AF_INET, SOCK_STREAM, 0);
		if (bind(s, (void *)&address, length) || listen(s, MOST) || getsockname(s, (void *)&address, &length))
			fail("listen");
		printf("%d\n", ntohs(address.sin_port));
		fflush(stdout);
	} else {
		address.sin_port = htons(atoi(arguments[2]));
	}
	for (i = 0; i < count; i++) {
		struct end *e = &ends[i];

		length = sizeof(peer);
		e->number = i;
		e->fd = is_server ? accept(s, (void *)&peer, &length) : socket(AF_INET, SOCK_STREAM, 0);
		if (!is_server && (connect(e->fd, (void *)&address, sizeof(address)) || getsockname(e->fd, (void *)&peer, &length)))
			fail("connect");
		e->port = ntohs(peer.sin_port);
		attach(e);
	}
	play_all();
	for (i = 0; i < count; i++) {
		char rest[4096];

		printf("{\"port\": %d, \"sent\": %zu, \"received\": %zu}\n", ends[i].port, ends[i].sent, ends[i].received);
		shutdown(ends[i].fd, SHUT_WR);
		while (recv(ends[i].fd, rest, sizeof(rest), 0) > 0)
			;
		close(ends[i].fd);
	}
	return 0;
}
