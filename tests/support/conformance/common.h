/* What the programs share: bytes that anyone can make again, SHA-256 (FIPS 180-4), and the report. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static size_t check(ssize_t n, const char *what)
{
	if (n < 0)
		die(what);
	return n;
}

struct sha256 {
	uint32_t h[8];
	uint8_t block[64];
	uint64_t length;
};

static uint32_t turn(uint32_t x, int n)
{
	return x >> n | x << (32 - n);
}

static void sha256_block(struct sha256 *s)
{
	static uint32_t k[64];
	uint32_t w[64], v[8];
	int i;

	if (!k[0]) {
		/* The fractions of the cube roots of the first 64 primes. */
		int found = 0, n;
		for (n = 2; found < 64; n++) {
			int d, prime = 1;
			for (d = 2; d * d <= n; d++)
				prime &= n % d != 0;
			if (!prime)
				continue;
			long double low = 1, high = 8;
			for (i = 0; i < 100; i++) {
				long double middle = (low + high) / 2;
				if (middle * middle * middle > n)
					high = middle;
				else
					low = middle;
			}
			k[found++] = (uint32_t)((low - (int)low) * 4294967296.0L);
		}
	}
	for (i = 0; i < 16; i++)
		w[i] = s->block[4 * i] << 24 | s->block[4 * i + 1] << 16 | s->block[4 * i + 2] << 8 | s->block[4 * i + 3];
	for (; i < 64; i++)
		w[i] = w[i - 16] + (turn(w[i - 15], 7) ^ turn(w[i - 15], 18) ^ w[i - 15] >> 3) + w[i - 7] +
			(turn(w[i - 2], 17) ^ turn(w[i - 2], 19) ^ w[i - 2] >> 10);
	memcpy(v, s->h, sizeof(v));
	for (i = 0; i < 64; i++) {
		uint32_t a = v[7] + (turn(v[4], 6) ^ turn(v[4], 11) ^ turn(v[4], 25)) + ((v[4] & v[5]) ^ (~v[4] & v[6])) + k[i] + w[i];
		uint32_t b = (turn(v[0], 2) ^ turn(v[0], 13) ^ turn(v[0], 22)) + ((v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]));
		memmove(v + 1, v, 7 * sizeof(*v));
		v[4] += a;
		v[0] = a + b;
	}
	for (i = 0; i < 8; i++)
		s->h[i] += v[i];
}

static void sha256_begin(struct sha256 *s)
{
	static const uint32_t h[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};

	memcpy(s->h, h, sizeof(h));
	s->length = 0;
}

static void sha256_add(struct sha256 *s, const void *bytes, size_t n)
{
	const uint8_t *b = bytes;

	while (n--) {
		s->block[s->length++ % 64] = *b++;
		if (s->length % 64 == 0)
			sha256_block(s);
	}
}

static void sha256_print(struct sha256 *s)
{
	uint64_t bits = s->length * 8, i;
	uint8_t tail = 0x80, size[8];

	sha256_add(s, &tail, 1);
	for (tail = 0; s->length % 64 != 56;)
		sha256_add(s, &tail, 1);
	for (i = 0; i < 8; i++)
		size[i] = bits >> (56 - 8 * i);
	sha256_add(s, size, 8);
	for (i = 0; i < 8; i++)
		printf("%08x", s->h[i]);
}

/* The two directions of one connection, as the program sees them. */
static struct sha256 sent, received;
static uint64_t sent_bytes, received_bytes;

static __attribute__((unused)) void was_sent(const void *bytes, size_t n)
{
	sha256_add(&sent, bytes, n);
	sent_bytes += n;
}

static __attribute__((unused)) void was_received(const void *bytes, size_t n)
{
	sha256_add(&received, bytes, n);
	received_bytes += n;
}

/* Bytes that begin like an HTTP request and go on as noise. Below 4 GiB, for int 0x80. */
static __attribute__((unused)) char *payload(size_t n, uint32_t seed)
{
	static const char head[] = "POST /upload HTTP/1.1\r\nHost: conformance\r\n\r\n";
	int low = 0;
#ifdef MAP_32BIT
	low = MAP_32BIT;
#endif
	char *p = mmap(NULL, n + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | low, -1, 0);
	size_t i;

	if (p == MAP_FAILED)
		die("mmap");
	for (i = 0; i < n; i++) {
		seed = seed * 1103515245 + 12345;
		p[i] = seed >> 16;
	}
	memcpy(p, head, n < sizeof(head) - 1 ? n : sizeof(head) - 1);
	return p;
}

static __attribute__((unused)) int connect_to(int port)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
	int s = socket(AF_INET, SOCK_STREAM, 0);

	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (s < 0 || connect(s, (void *)&a, sizeof(a)))
		die("connect");
	return s;
}

static int local_port(int s)
{
	/* The port is at the same place in both of IP's. */
	union {
		struct sockaddr_in v4;
		struct sockaddr_in6 v6;
	} a;
	socklen_t n = sizeof(a);

	if (getsockname(s, (void *)&a, &n))
		die("getsockname");
	return ntohs(a.v4.sin_port);
}

/* What names a connection in a capture; of a Unix socket it is made of its inode, as capture.unix_streams does. */
static __attribute__((unused)) int number_of(int s)
{
	struct stat status;
	int domain;
	socklen_t n = sizeof(domain);

	if (getsockopt(s, SOL_SOCKET, SO_DOMAIN, &domain, &n) || fstat(s, &status))
		die("getsockopt");
	return domain == AF_UNIX ? (int)(32768 | (status.st_ino & 32767)) : local_port(s);
}

static __attribute__((unused)) int unix_to(const char *path, int type)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int s = socket(AF_UNIX, type, 0);
	socklen_t n = offsetof(struct sockaddr_un, sun_path) + strlen(path);

	memcpy(a.sun_path, path, strlen(path));
	if (path[0] == '@')
		a.sun_path[0] = 0;
	else
		n++;
	if (s < 0 || connect(s, (void *)&a, n))
		die("connect");
	return s;
}

/* To a port, or a path. */
static __attribute__((unused)) int connect_to_where(const char *where)
{
	return where[0] == '/' || where[0] == '@' ? unix_to(where, SOCK_STREAM) : connect_to(atoi(where));
}

static __attribute__((unused)) void begin_report(void)
{
	sha256_begin(&sent);
	sha256_begin(&received);
}

/* One line of JSON for one connection. */
static __attribute__((unused)) void report(int port, int calls)
{
	printf("{\"port\": %d, \"calls\": %d, \"sent_bytes\": %llu, \"received_bytes\": %llu, \"sent\": \"", port, calls,
	       (unsigned long long)sent_bytes, (unsigned long long)received_bytes);
	sha256_print(&sent);
	printf("\", \"received\": \"");
	sha256_print(&received);
	printf("\"}\n");
	fflush(stdout);
}
