/* OpenSSL's less usual calls: early data on a resumed session, key updates, looks before reads:
 * openssl_early PORT CERTIFICATE UPLOAD */
#define _GNU_SOURCE
#include "by_hand.h"
#include <openssl/ssl.h>

/* As much as the server allows: nginx takes 16 KiB. */
#define EARLY_BYTES 10000

static SSL_SESSION *ticket;

static int keep(SSL *ssl, SSL_SESSION *session)
{
	(void)ssl;
	ticket = session;
	return 1;
}

static int read_response(SSL *ssl)
{
	char first[100];

	for (size_t have = 0; !complete(have);) {
		int n, seen = SSL_peek(ssl, first, sizeof(first));

		if (seen <= 0 || SSL_pending(ssl) < seen)
			return 1;
		n = SSL_read(ssl, buffer + have, sizeof(buffer) - have - 1);
		if (n < seen || memcmp(first, buffer + have, seen))
			return 1;
		have += n;
	}
	return 0;
}

int main(int argc, char **argv)
{
	SSL_CTX *context = SSL_CTX_new(TLS_client_method());

	(void)argc;
	SSL_CTX_load_verify_locations(context, argv[2], NULL);
	SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
	SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_CLIENT);
	SSL_CTX_sess_set_new_cb(context, keep);
	for (int which = 0; which < 2; which++) {
		SSL *ssl = SSL_new(context);
		int fd = connect_to(argv[1]);
		size_t have = compose(which, argv[1], argv[3]), sent = 0;

		SSL_set_fd(ssl, fd);
		SSL_set_tlsext_host_name(ssl, "localhost");
		if (which && (!ticket || !SSL_set_session(ssl, ticket) ||
			      SSL_write_early_data(ssl, buffer, EARLY_BYTES, &sent) != 1))
			return 2;
		if (SSL_connect(ssl) != 1)
			return 3;
		if (which && SSL_get_early_data_status(ssl) != SSL_EARLY_DATA_ACCEPTED)
			return 4;
		SSL_key_update(ssl, SSL_KEY_UPDATE_REQUESTED);
		while (sent < have) {
			int n = SSL_write(ssl, buffer + sent, have - sent > 9999 ? 9999 : have - sent);
			if (n <= 0)
				return 5;
			SSL_key_update(ssl, SSL_KEY_UPDATE_NOT_REQUESTED);
			sent += n;
		}
		if (read_response(ssl))
			return 6;
		SSL_shutdown(ssl);
		SSL_free(ssl);
		close(fd);
	}
	return 0;
}
