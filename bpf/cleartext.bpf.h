/* SPDX-License-Identifier: GPL-2.0-or-later
 * Cleartext that follows TLS on the same connection: FTP's CCC (RFC 4217 §12.3), LDAP's closure of StartTLS (RFC 4511
 * §4.14.3), SQL Server's log-in. Where TLS ends the library's object is freed, and what the program then sends is no
 * record. Not every free is such an end: what was received before may be the rest of a record that nobody reads (a server
 * that lingers), and what was made in memory may be sent after it, in parts.
 *
 * Or cleartext that answers a hello: who asks for https on a port that is http's is told so.
 */
enum {
	LEFT_SOCKET = 1,	/* the library itself made the calls */
	LEFT_MEMORY = 2,	/* its records were handed on in memory */
};

/* A session's object is freed, but the connection goes on. */
INLINE void leave_session(struct session *s)
{
	u64 sk = s->sk;
	struct connection *c = connections.lookup(&sk);

	if (!c || c->id != s->connection || c->session != s->id)
		return;
	c->left = s->in_memory ? LEFT_MEMORY : LEFT_SOCKET;
	c->ssl = c->ssl_tgid = 0;
}

/* Once a connection has left TLS: is this the beginning of something else? Negative for no. */
INLINE s32 sign_of_cleartext(struct connection *c, u32 d, u8 *b, u32 n)
{
	s32 own = -(s32)((d ^ DIRECTION_SENT) | (c->left ^ LEFT_SOCKET));

	return ((s32)n - 1) | ~sign_of_record(b, n) | (own & sign_of_text(b, n) & sign_of_tds_packet(b, n));
}

/* Is this the first that a direction says, and no record, though the other one's was a hello? Negative for no. */
INLINE s32 sign_of_refusal(struct connection *c, u32 d, u8 *b, u32 n)
{
	if (!c->opened || c->untold || c->position[d] || !c->position[!d])
		return -1;
	return ((s32)n - 1) | ~sign_of_record(b, n);
}

INLINE void turn_to_cleartext(struct connection *c)
{
	c->protocol = PROTOCOL_UNDECIDED;
	c->left = c->misses = c->may_precede_tls = 0;
	c->prefix_length[0] = c->prefix_length[1] = 0;
}
