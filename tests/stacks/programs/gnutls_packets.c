/* GnuTLS's less usual calls: early data on a resumed session, key updates, writes that wait for a last one or go on
 * without data, received bytes on loan:
 * gnutls_packets PORT CERTIFICATE UPLOAD */
#define _GNU_SOURCE
#include "by_hand.h"
#include <errno.h>
#include <gnutls/gnutls.h>

/* As much as the server allows: nginx takes 16 KiB. */
#define EARLY_BYTES 10000

static int read_response(gnutls_session_t session)
{
	for (size_t have = 0; !complete(have);) {
		gnutls_packet_t packet;
		gnutls_datum_t data;
		ssize_t n = gnutls_record_recv_packet(session, &packet);

		if (n == GNUTLS_E_AGAIN || n == GNUTLS_E_INTERRUPTED)
			continue;
		if (n <= 0)
			return 1;
		gnutls_packet_get(packet, &data, NULL);
		memcpy(buffer + have, data.data, data.size);
		have += data.size;
		gnutls_packet_deinit(packet);
	}
	return 0;
}

static ssize_t push_all(gnutls_transport_ptr_t fd, const void *data, size_t length)
{
	return send((long)fd, data, length, 0);
}

/* A socket that has room for a part of a record, and then for none. */
static ssize_t push_a_part(gnutls_transport_ptr_t fd, const void *data, size_t length)
{
	static int full;

	full = !full;
	errno = EAGAIN;
	return full ? -1 : send((long)fd, data, length < 4096 ? length : 4096, 0);
}

/* A write that would wait has its record made, and needs its data no more. */
static ssize_t send_in_parts(gnutls_session_t session, const char *data, size_t length)
{
	ssize_t n;

	gnutls_transport_set_push_function(session, push_a_part);
	n = gnutls_record_send(session, data, length);
	while (n == GNUTLS_E_AGAIN)
		n = gnutls_record_send(session, NULL, 0);
	gnutls_transport_set_push_function(session, push_all);
	return n;
}

int main(int argc, char **argv)
{
	gnutls_certificate_credentials_t trust;
	gnutls_datum_t ticket = {0};

	(void)argc;
	if (gnutls_certificate_allocate_credentials(&trust) ||
	    gnutls_certificate_set_x509_trust_file(trust, argv[2], GNUTLS_X509_FMT_PEM) < 1)
		return 2;
	for (int which = 0; which < 2; which++) {
		size_t have = compose(which, argv[1], argv[3]), sent = 0;
		gnutls_session_t session;
		int fd = connect_to(argv[1]);

		if (gnutls_init(&session, GNUTLS_CLIENT) || gnutls_set_default_priority(session) ||
		    gnutls_credentials_set(session, GNUTLS_CRD_CERTIFICATE, trust) ||
		    gnutls_server_name_set(session, GNUTLS_NAME_DNS, "localhost", strlen("localhost")))
			return 3;
		gnutls_session_set_verify_cert(session, "localhost", 0);
		gnutls_transport_set_int(session, fd);
		if (which) {
			if (gnutls_session_set_data(session, ticket.data, ticket.size) ||
			    gnutls_record_send_early_data(session, buffer, EARLY_BYTES))
				return 4;
			sent = EARLY_BYTES;
		}
		if (gnutls_handshake(session))
			return 5;
		if (which && !(gnutls_session_get_flags(session) & GNUTLS_SFLAGS_EARLY_DATA))
			return 6;
		gnutls_record_cork(session);
		for (int piece = 0; piece < 2; piece++) {
			if (gnutls_record_send(session, buffer + sent, 20) != 20)
				return 10;
			sent += 20;
		}
		if (gnutls_record_uncork(session, GNUTLS_RECORD_WAIT) < 0)
			return 11;
		while (sent < have) {
			ssize_t n = send_in_parts(session, buffer + sent, have - sent);
			if (n <= 0 || gnutls_session_key_update(session, 0))
				return 7;
			sent += n;
		}
		if (read_response(session))
			return 8;
		if (!which && gnutls_session_get_data2(session, &ticket))
			return 9;
		gnutls_bye(session, GNUTLS_SHUT_WR);
		gnutls_deinit(session);
		close(fd);
	}
	return 0;
}
