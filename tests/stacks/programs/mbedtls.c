/* mbedTLS: mbedtls PORT CERTIFICATE UPLOAD */
#define _GNU_SOURCE
#include "by_hand.h"
#include <mbedtls/ctr_drbg.h>
#include <mbedtls/entropy.h>
#include <mbedtls/net_sockets.h>
#include <mbedtls/ssl.h>

int main(int argc, char **argv)
{
	mbedtls_entropy_context entropy;
	mbedtls_ctr_drbg_context random;
	mbedtls_ssl_context ssl;
	mbedtls_ssl_config config;
	mbedtls_x509_crt trust;
	mbedtls_net_context net = {.fd = connect_to(argv[1])};

	(void)argc;
	mbedtls_entropy_init(&entropy);
	mbedtls_ctr_drbg_init(&random);
	mbedtls_ssl_init(&ssl);
	mbedtls_ssl_config_init(&config);
	mbedtls_x509_crt_init(&trust);
	if (mbedtls_ctr_drbg_seed(&random, mbedtls_entropy_func, &entropy, NULL, 0) ||
	    mbedtls_x509_crt_parse_file(&trust, argv[2]) ||
	    mbedtls_ssl_config_defaults(&config, MBEDTLS_SSL_IS_CLIENT, MBEDTLS_SSL_TRANSPORT_STREAM,
					MBEDTLS_SSL_PRESET_DEFAULT))
		return 2;
	mbedtls_ssl_conf_rng(&config, mbedtls_ctr_drbg_random, &random);
	mbedtls_ssl_conf_ca_chain(&config, &trust, NULL);
	if (mbedtls_ssl_setup(&ssl, &config) || mbedtls_ssl_set_hostname(&ssl, "localhost"))
		return 2;
	mbedtls_ssl_set_bio(&ssl, &net, mbedtls_net_send, mbedtls_net_recv, NULL);
	if (mbedtls_ssl_handshake(&ssl))
		return 1;
	for (int which = 0; which < 2; which++) {
		size_t have = compose(which, argv[1], argv[3]);
		for (size_t sent = 0; sent < have;) {
			int n = mbedtls_ssl_write(&ssl, (unsigned char *)buffer + sent, have - sent);
			if (n <= 0)
				return 1;
			sent += n;
		}
		for (have = 0; !complete(have);) {
			int n = mbedtls_ssl_read(&ssl, (unsigned char *)buffer + have, sizeof(buffer) - have - 1);
			if (n <= 0)
				return 1;
			have += n;
		}
	}
	mbedtls_ssl_close_notify(&ssl);
	mbedtls_ssl_free(&ssl);
	return 0;
}
