/* wolfSSL: wolfssl PORT CERTIFICATE UPLOAD */
#define _GNU_SOURCE
#include "by_hand.h"
#include <wolfssl/options.h>
#include <wolfssl/ssl.h>

int main(int argc, char **argv)
{
	WOLFSSL_CTX *context;
	WOLFSSL *ssl;

	(void)argc;
	wolfSSL_Init();
	context = wolfSSL_CTX_new(wolfSSLv23_client_method());
	if (wolfSSL_CTX_load_verify_locations(context, argv[2], NULL) != WOLFSSL_SUCCESS)
		return 2;
	ssl = wolfSSL_new(context);
	wolfSSL_UseSNI(ssl, WOLFSSL_SNI_HOST_NAME, "localhost", 9);
	wolfSSL_set_fd(ssl, connect_to(argv[1]));
	if (wolfSSL_connect(ssl) != WOLFSSL_SUCCESS)
		return 1;
	for (int which = 0; which < 2; which++) {
		size_t have = compose(which, argv[1], argv[3]);
		if (wolfSSL_write(ssl, buffer, have) != (int)have)
			return 1;
		for (have = 0; !complete(have);) {
			int n = wolfSSL_read(ssl, buffer + have, sizeof(buffer) - have - 1);
			if (n <= 0)
				return 1;
			have += n;
		}
	}
	wolfSSL_shutdown(ssl);
	wolfSSL_free(ssl);
	return 0;
}
