/* A server whose thread waits in a TLS library's read while its only connection is idle: answers each request of
 * HTTP with its path. Arguments: certificate, key. Which library is said at compilation: -DUSE_OPENSSL and so on. */
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#if defined(USE_OPENSSL)
#include <openssl/ssl.h>
static SSL *session;
static int begin(int fd, const char *certificate, const char *key)
{
	SSL_CTX *context = SSL_CTX_new(TLS_server_method());
	SSL_CTX_use_certificate_chain_file(context, certificate);
	SSL_CTX_use_PrivateKey_file(context, key, SSL_FILETYPE_PEM);
	session = SSL_new(context);
	SSL_set_fd(session, fd);
	return SSL_accept(session) == 1;
}
static int receive(char *to, int room) { return SSL_read(session, to, room); }
static int send_all(const char *from, int n) { return SSL_write(session, from, n); }
#elif defined(USE_GNUTLS)
#include <gnutls/gnutls.h>
static gnutls_session_t session;
#if defined(PULL)
/* The program's own function, which receives by messages. */
static ssize_t pull(gnutls_transport_ptr_t fd, void *to, size_t room)
{
	struct iovec block = {to, room};
	struct msghdr message = {.msg_iov = &block, .msg_iovlen = 1};
	return recvmsg((int)(long)fd, &message, 0);
}
#endif
static int begin(int fd, const char *certificate, const char *key)
{
	gnutls_certificate_credentials_t credentials;
	gnutls_certificate_allocate_credentials(&credentials);
	gnutls_certificate_set_x509_key_file(credentials, certificate, key, GNUTLS_X509_FMT_PEM);
	gnutls_init(&session, GNUTLS_SERVER);
	gnutls_set_default_priority(session);
	gnutls_credentials_set(session, GNUTLS_CRD_CERTIFICATE, credentials);
	gnutls_transport_set_int(session, fd);
#if defined(PULL)
	gnutls_transport_set_pull_function(session, pull);
#endif
	return gnutls_handshake(session) == 0;
}
#if defined(UNCLEAR)
/* Calls a function so that its caller's code does not tell of an argument, or of the function: they are exchanged. */
long unclear(void *function, void *session, char *to, long room);
__asm__("unclear: .cfi_startproc\n push %rbx\n .cfi_def_cfa_offset 16\n .cfi_offset %rbx, -16\n"
	"mov %rdi, %rax\n mov %rsi, %rdi\n mov %rdx, %rsi\n xchg %rcx, %rdx\n" UNCLEAR "\n call *%rax\n"
	"pop %rbx\n .cfi_def_cfa_offset 8\n ret\n .cfi_endproc");
static int receive(char *to, int room) { return unclear(gnutls_record_recv, session, to, room); }
#else
static int receive(char *to, int room) { return gnutls_record_recv(session, to, room); }
#endif
static int send_all(const char *from, int n) { return gnutls_record_send(session, from, n); }
#elif defined(USE_MBEDTLS)
#include <mbedtls/ctr_drbg.h>
#include <mbedtls/entropy.h>
#include <mbedtls/net_sockets.h>
#include <mbedtls/ssl.h>
static mbedtls_ssl_context session;
static int begin(int fd, const char *certificate, const char *key)
{
	static mbedtls_entropy_context entropy;
	static mbedtls_ctr_drbg_context random;
	static mbedtls_ssl_config settings;
	static mbedtls_x509_crt chain;
	static mbedtls_pk_context secret;
	static mbedtls_net_context net;
	net.fd = fd;
	mbedtls_entropy_init(&entropy);
	mbedtls_ctr_drbg_init(&random);
	mbedtls_ctr_drbg_seed(&random, mbedtls_entropy_func, &entropy, NULL, 0);
	mbedtls_x509_crt_init(&chain);
	mbedtls_x509_crt_parse_file(&chain, certificate);
	mbedtls_pk_init(&secret);
	mbedtls_pk_parse_keyfile(&secret, key, NULL);
	mbedtls_ssl_config_init(&settings);
	mbedtls_ssl_config_defaults(&settings, MBEDTLS_SSL_IS_SERVER, MBEDTLS_SSL_TRANSPORT_STREAM, 0);
	mbedtls_ssl_conf_rng(&settings, mbedtls_ctr_drbg_random, &random);
	mbedtls_ssl_conf_own_cert(&settings, &chain, &secret);
	mbedtls_ssl_init(&session);
	mbedtls_ssl_setup(&session, &settings);
	mbedtls_ssl_set_bio(&session, &net, mbedtls_net_send, mbedtls_net_recv, NULL);
	return mbedtls_ssl_handshake(&session) == 0;
}
static int receive(char *to, int room) { return mbedtls_ssl_read(&session, (unsigned char *)to, room); }
static int send_all(const char *from, int n) { return mbedtls_ssl_write(&session, (const unsigned char *)from, n); }
#elif defined(USE_WOLFSSL)
#include <wolfssl/options.h>
#include <wolfssl/ssl.h>
static WOLFSSL *session;
static int begin(int fd, const char *certificate, const char *key)
{
	wolfSSL_Init();
	WOLFSSL_CTX *context = wolfSSL_CTX_new(wolfTLS_server_method());
	wolfSSL_CTX_use_certificate_chain_file(context, certificate);
	wolfSSL_CTX_use_PrivateKey_file(context, key, WOLFSSL_FILETYPE_PEM);
	session = wolfSSL_new(context);
	wolfSSL_set_fd(session, fd);
	return wolfSSL_accept(session) == 1;
}
static int receive(char *to, int room) { return wolfSSL_read(session, to, room); }
static int send_all(const char *from, int n) { return wolfSSL_write(session, from, n); }
#endif

int main(int count, char **arguments)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t length = sizeof(address);
	char request[4096], path[64], body[128], answer[512];
	int listener = socket(AF_INET, SOCK_STREAM, 0), connection, n;

	if (count != 3 || bind(listener, (struct sockaddr *)&address, length) || listen(listener, 1))
		return 1;
	getsockname(listener, (struct sockaddr *)&address, &length);
	printf("%d\n", ntohs(address.sin_port));
	fflush(stdout);
	connection = accept(listener, NULL, NULL);
	if (!begin(connection, arguments[1], arguments[2]))
		return 2;
	while ((n = receive(request, sizeof(request) - 1)) > 0) {
		request[n] = 0;
		if (sscanf(request, "GET %63s", path) != 1)
			return 3;
		snprintf(body, sizeof(body), "answer to %s", path);
		n = snprintf(answer, sizeof(answer), "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n\r\n%s", strlen(body), body);
		send_all(answer, n);
	}
	return 0;
}
