/* SPDX-License-Identifier: GPL-2.0-or-later
 * Which socket a TLS session's records go over. Two ways, kept for as long as the session lives:
 *
 * 1. A system call nested in the TLS function, on the same thread (sockets, and BIOs that make the calls).
 * 2. The records themselves. With memory BIOs (asyncio, Node) the library only fills a buffer, which the program
 *    sends later, maybe from another thread. Of each record that a TLS function hands to BIO_write, the 16 bytes
 *    after the header are remembered: no two records share them. The write that sends them names the socket.
 *    Every session writes a record when it begins, and one for every request or response.
 */

/* What is remembered of a record, and where that ends in it (RFC 8446 §5.1: a header of 5 bytes). */
#define RECORD_KEY_BYTES 16
#define RECORD_KEY_END 21
struct record_key {
	u64 bytes[2];
};
struct record_owner {
	u64 ssl, session;
	u32 tgid, pad;
};
/* Records between BIO_write and the socket. A cache: what never gets there goes when room is needed. */
BPF_TABLE("lru_hash", struct record_key, struct record_owner, records, 16384);

INLINE int read_record_key(u64 from, struct record_key *key)
{
	u8 head[5] = {};

	if (bpf_probe_read_user(head, sizeof(head), (void *)from) || !is_tls_record(head, sizeof(head)))
		return 0;
	return !bpf_probe_read_user(key, sizeof(*key), (void *)(from + sizeof(head)));
}

INLINE void put_session_event(u8 kind, struct session *s, u64 position, u64 id)
{
	struct sample *r = ring.ringbuf_reserve(sizeof(*r));
	if (!r) {
		count(COUNTER_EVENTS_RING_FULL, 1);
		return;
	}
	__builtin_memset(r, 0, sizeof(*r));
	r->kind = kind;
	r->time = bpf_ktime_get_ns();
	r->connection = s->connection;
	r->session = s->id;
	r->library = s->library;
	r->position = position;
	r->tgid = id >> 32;
	r->tid = id;
	submit(r);
}

/* The session of an object; a new one where the object has moved to another socket. */
INLINE struct session *session_of(struct tls_call *call, u64 id)
{
	struct session_key key = {.ssl = call->ssl, .tgid = id >> 32};
	struct session *s = sessions.lookup(&key);

	if (s && call->connection && s->connection && s->connection != call->connection)
		s = NULL;
	if (!s) {
		struct session fresh = {.id = new_id(), .library = call->library};
		if (sessions.update(&key, &fresh)) {
			count(COUNTER_TABLE_FULL, 1);
			return NULL;
		}
		s = sessions.lookup(&key);
	}
	return s;
}

/* From now on this is the connection's session. An earlier one's positions are not its own. */
INLINE void take_over(struct connection *c, struct session *s, u64 ssl, u32 tgid)
{
	if (c->session != s->id) {
		c->session = s->id;
		c->session_position[0] = s->position[0];
		c->session_position[1] = s->position[1];
	}
	c->ssl = ssl;
	c->ssl_tgid = tgid;
}

/* Plaintext that waits in user space for its connection must find it announced. */
INLINE void tell_bound(struct connection *c, struct session *s, u64 id)
{
	if (c->unwanted)
		return;
	announce(c, id >> 32, id);
	put_session_event(SAMPLE_BOUND, s, 0, id);
}

/* The connection that a session's records go over, NULL while it is not known. */
INLINE struct connection *bind(struct session *s, struct tls_call *call, u64 id)
{
	int fresh = call->connection && s->connection != call->connection;
	struct connection *c;
	u64 sk;

	if (fresh) {
		s->sk = call->sk;
		s->connection = call->connection;
	}
	sk = s->sk;
	if (!sk)
		return NULL;
	c = connections.lookup(&sk);
	if (!c || c->id != s->connection)
		return NULL;
	take_over(c, s, call->ssl, id >> 32);
	if (fresh)
		tell_bound(c, s, id);
	return c;
}

INLINE void remember_record(struct tls_call *call, u64 id, u64 buffer)
{
	struct record_key key = {};
	struct session *s;

	if (!read_record_key(buffer, &key))
		return;
	s = session_of(call, id);
	/* Once bound it stays bound; a new socket would begin with a handshake, on a new object. */
	if (!s || s->connection)
		return;
	struct record_owner owner = {.ssl = call->ssl, .session = s->id, .tgid = id >> 32};
	records.update(&key, &owner);
}

/* A system call inside a TLS function, on this thread: the session's records go over this socket. */
INLINE void note_nested(u32 tid, struct syscall *call, struct connection *c)
{
	struct tls_call_key key = {.tid = tid};
	struct tls_call *outer = tls_calls.lookup(&key), *inner;

	if (!outer)
		return;
	key.depth = 1;
	inner = tls_calls.lookup(&key);
	if (inner)
		outer = inner;
	/* A callback of the handshake may talk cleartext on another socket (OCSP). */
	if (c->protocol == PROTOCOL_UNDECIDED && !c->opened)
		c->protocol = PROTOCOL_TLS;
	if (c->protocol != PROTOCOL_TLS)
		return;
	outer->sk = call->sk;
	outer->connection = c->id;
}

/* TLS on a connection whose session is not known: is the record that is sent (its first RECORD_KEY_END bytes) one
 * that a TLS function made? */
INLINE void match_record(u8 *head, struct connection *c, u64 sk, u64 id)
{
	struct record_key key = {};
	struct record_owner *owner;
	struct session *s;

	if (!is_tls_record(head, RECORD_KEY_END))
		return;
	__builtin_memcpy(&key, head + RECORD_KEY_END - RECORD_KEY_BYTES, RECORD_KEY_BYTES);
	owner = records.lookup(&key);
	if (!owner)
		return;
	struct session_key session_key = {.ssl = owner->ssl, .tgid = owner->tgid};
	s = sessions.lookup(&session_key);
	if (!s || s->id != owner->session || s->connection)
		return;
	s->sk = sk;
	s->connection = c->id;
	take_over(c, s, owner->ssl, owner->tgid);
	tell_bound(c, s, id);
}
