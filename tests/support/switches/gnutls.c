/* gnutls PORT: on a stack of its own, asks for /bytes/5000 over TLS again and again, as QEMU does, and prints how many
 * bytes came. gnutls_record_send ends in a jump to gnutls_record_send2: two functions are entered, of one call.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <gnutls/gnutls.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <ucontext.h>
#include <unistd.h>

#define STACK_BYTES (1 << 18)
#define ROUNDS 5

static ucontext_t start, here;
static int port;

static int ask(void)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
	static const char request[] = "GET /bytes/5000 HTTP/1.0\r\nHost: localhost\r\n\r\n";
	int fd = socket(AF_INET, SOCK_STREAM, 0), n, have = 0;
	gnutls_certificate_credentials_t anyone;
	gnutls_session_t session;
	char text[1024];

	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (connect(fd, (void *)&a, sizeof(a)) || gnutls_certificate_allocate_credentials(&anyone) ||
	    gnutls_init(&session, GNUTLS_CLIENT) || gnutls_set_default_priority(session) ||
	    gnutls_credentials_set(session, GNUTLS_CRD_CERTIFICATE, anyone))
		exit(1);
	gnutls_transport_set_int(session, fd);
	if (gnutls_handshake(session) || gnutls_record_send(session, request, sizeof(request) - 1) < 0)
		exit(1);
	while ((n = gnutls_record_recv(session, text, sizeof(text))) > 0 || n == GNUTLS_E_AGAIN)
		have += n > 0 ? n : 0;
	gnutls_deinit(session);
	gnutls_certificate_free_credentials(anyone);
	close(fd);
	return have;
}

static void talk(void)
{
	int have = 0, i;

	for (i = 0; i < ROUNDS; i++)
		have += ask();
	printf("%d\n", have);
}

int main(int count, char **arguments)
{
	if (count != 2)
		return 2;
	port = atoi(arguments[1]);
	getcontext(&start);
	start.uc_stack.ss_size = STACK_BYTES;
	start.uc_stack.ss_sp = malloc(STACK_BYTES);
	start.uc_link = &here;
	makecontext(&start, talk, 0);
	swapcontext(&here, &start);
	return 0;
}
