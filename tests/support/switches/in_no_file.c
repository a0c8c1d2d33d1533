/* in_no_file PORT: on a stack of its own, asks for /bytes/5000 over TLS, and prints how many bytes came. Its calls are
 * made by code that is in no file, as compilers make while a program runs.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <openssl/ssl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <ucontext.h>
#include <unistd.h>

#define STACK_BYTES (1 << 16)

typedef int call(SSL *ssl, void *bytes, int n, void *function);

/* sub rsp, 8; call rcx; add rsp, 8; ret */
static const unsigned char CODE[] = {0x48, 0x83, 0xec, 8, 0xff, 0xd1, 0x48, 0x83, 0xc4, 8, 0xc3};
static ucontext_t start, here;
static call *generated;
static int port;

static void talk(void)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
	static const char request[] = "GET /bytes/5000 HTTP/1.0\r\nHost: localhost\r\n\r\n";
	int fd = socket(AF_INET, SOCK_STREAM, 0), n, have = 0;
	SSL *ssl = SSL_new(SSL_CTX_new(TLS_client_method()));
	char text[1024];

	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (connect(fd, (void *)&a, sizeof(a)) || !SSL_set_fd(ssl, fd) || generated(ssl, NULL, 0, SSL_connect) != 1)
		exit(1);
	if (generated(ssl, (void *)request, sizeof(request) - 1, SSL_write) != sizeof(request) - 1)
		exit(1);
	while ((n = generated(ssl, text, sizeof(text), SSL_read)) > 0)
		have += n;
	printf("%d\n", have);
	SSL_shutdown(ssl);
	SSL_free(ssl);
	close(fd);
}

int main(int count, char **arguments)
{
	void *code = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (count != 2 || code == MAP_FAILED)
		return 2;
	generated = memcpy(code, CODE, sizeof(CODE));
	port = atoi(arguments[1]);
	getcontext(&start);
	start.uc_stack.ss_size = STACK_BYTES;
	start.uc_stack.ss_sp = malloc(STACK_BYTES);
	start.uc_link = &here;
	makecontext(&start, talk, 0);
	swapcontext(&here, &start);
	return 0;
}
