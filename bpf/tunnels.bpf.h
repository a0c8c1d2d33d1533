/* SPDX-License-Identifier: GPL-2.0-or-later
 * TLS in TLS: sessions whose plaintext is the records of others.
 */
/* TLS in TLS (HTTPS over an HTTPS proxy): what this call moved are the records of the session around it, which goes
 * over the same socket, and whose plaintext is what matters. A call in a callback is inside another's too, but what
 * it moves is no record of a handshake; a session that has once moved another's says nothing of its own again. */
INLINE int carries_records(struct tls_call *call, struct tls_call *around, struct session *s, u64 n)
{
	u8 head[5] = {};

	if (!around)
		return 0;
	if (!s->tunnels) {
		if (n < sizeof(head) || bpf_probe_read_user(head, sizeof(head), (void *)call->buffer) ||
		    !is_tls_record(head, sizeof(head)) || head[0] != 22)
			return 0;
		s->tunnels = 1;
	}
	around->sk = call->connection ? call->sk : s->sk;
	around->connection = call->connection ? call->connection : s->connection;
	return 1;
}

/* Bytes after which a session is no proxy's: its first words are CONNECT and a handshake. */
#define MAX_BEFORE_TUNNEL 4096

/* The same with memory BIOs (urllib3, aiohttp): what is written is a record that another session made. */
INLINE int relays_records(struct tls_call *call, struct session *s, u64 id, u32 direction)
{
	struct record_key key = {};
	struct record_owner *owner;
	struct session *inner;
	u64 sk = s->sk;

	if (s->tunnels)
		return 1;
	if (direction != DIRECTION_SENT || !s->connection || s->position[0] > MAX_BEFORE_TUNNEL || call->blocks)
		return 0;
	if (!read_record_key(call->buffer, &key) || !(owner = records.lookup(&key)))
		return 0;
	struct session_key inner_key = {.ssl = owner->ssl, .tgid = owner->tgid};
	inner = sessions.lookup(&inner_key);
	if (!inner || inner->id != owner->session || inner->id == s->id || inner->connection)
		return 0;
	s->tunnels = 1;
	inner->sk = sk;
	inner->connection = s->connection;
	struct connection *c = connections.lookup(&sk);
	if (c && c->id == s->connection) {
		take_over(c, inner, owner->ssl, owner->tgid);
		tell_bound(c, inner, id);
	}
	return 1;
}
