/* leaving PORT WRITES LENGTH HANDSHAKE: a client that exits while it is inside of SSL_write: from a callback of its BIO,
 * when so many writes have sent what it was given. */
#include <arpa/inet.h>
#include <openssl/ssl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int left;

static long called(BIO *bio, int what, const char *data, size_t length, int argument, long other, int result, size_t *done)
{
	if (what == (BIO_CB_WRITE | BIO_CB_RETURN) && left && !--left)
		_exit(0);
	return result;
}

int main(int count, char **arguments)
{
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(atoi(arguments[1]))};
	int fd = socket(AF_INET, SOCK_STREAM, 0), length = atoi(arguments[3]), head;
	SSL *ssl = SSL_new(SSL_CTX_new(TLS_client_method()));
	char *text = malloc(length + 1000);

	to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (connect(fd, (struct sockaddr *)&to, sizeof(to)))
		return 2;
	SSL_set_fd(ssl, fd);
	SSL_set_connect_state(ssl);
	if (!strcmp(arguments[4], "first") && SSL_connect(ssl) != 1)
		return 3;
	BIO_set_callback_ex(SSL_get_wbio(ssl), called);
	left = atoi(arguments[2]);
	head = sprintf(text, "PUT /left HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n", length);
	memset(text + head, 'x', length);
	SSL_write(ssl, text, head + length);
	return 1;
}
