/* Android's BoringSSL, by its dynamic library: boringssl PORT CERTIFICATE UPLOAD (declared here: the package has no headers) */
#define _GNU_SOURCE
#include "by_hand.h"
typedef struct SSL SSL;
typedef struct SSL_CTX SSL_CTX;
typedef struct SSL_METHOD SSL_METHOD;
const SSL_METHOD *TLS_method(void);
SSL_CTX *SSL_CTX_new(const SSL_METHOD *);
SSL *SSL_new(SSL_CTX *);
int SSL_set_fd(SSL *, int);
int SSL_set_tlsext_host_name(SSL *, const char *);
int SSL_connect(SSL *);
int SSL_write(SSL *, const void *, int);
int SSL_read(SSL *, void *, int);
int SSL_shutdown(SSL *);
void SSL_free(SSL *);

int main(int argc, char **argv)
{
	SSL *ssl = SSL_new(SSL_CTX_new(TLS_method()));

	(void)argc;
	SSL_set_fd(ssl, connect_to(argv[1]));
	SSL_set_tlsext_host_name(ssl, "localhost");
	if (SSL_connect(ssl) != 1)
		return 1;
	for (int which = 0; which < 2; which++) {
		size_t have = compose(which, argv[1], argv[3]);
		if (SSL_write(ssl, buffer, have) != (int)have)
			return 1;
		for (have = 0; !complete(have);) {
			int n = SSL_read(ssl, buffer + have, sizeof(buffer) - have - 1);
			if (n <= 0)
				return 1;
			have += n;
		}
	}
	SSL_shutdown(ssl);
	SSL_free(ssl);
	return 0;
}
