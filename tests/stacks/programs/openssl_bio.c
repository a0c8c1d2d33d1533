/* OpenSSL through BIO_f_ssl, which calls no exported SSL_read or SSL_write: openssl_bio PORT CERTIFICATE UPLOAD */
#define _GNU_SOURCE
#include "by_hand.h"
#include <openssl/bio.h>
#include <openssl/ssl.h>

int main(int argc, char **argv)
{
	SSL_CTX *context = SSL_CTX_new(TLS_client_method());
	BIO *bio = BIO_new_ssl_connect(context);
	SSL *ssl;
	char peer[64];

	(void)argc;
	SSL_CTX_load_verify_locations(context, argv[2], NULL);
	snprintf(peer, sizeof(peer), "127.0.0.1:%s", argv[1]);
	BIO_get_ssl(bio, &ssl);
	SSL_set_tlsext_host_name(ssl, "localhost");
	BIO_set_conn_hostname(bio, peer);
	if (BIO_do_connect(bio) <= 0)
		return 1;
	for (int which = 0; which < 2; which++) {
		size_t have = compose(which, argv[1], argv[3]);
		if (BIO_write(bio, buffer, have) != (int)have)
			return 1;
		for (have = 0; !complete(have);) {
			int n = BIO_read(bio, buffer + have, sizeof(buffer) - have - 1);
			if (n <= 0)
				return 1;
			have += n;
		}
	}
	BIO_free_all(bio);
	return 0;
}
