/* SPDX-License-Identifier: GPL-2.0-or-later
 * TLS libraries whose connections have no address: rustls's are values, which programs move about. What stays where
 * it is are keys, one for each direction and epoch, in boxes of their own. So a key is an object, with a session of
 * its own until it is settled which connection it is of; then what it has told of joins the connection's session, whose
 * object is the socket.
 *
 * The records settle that, and nothing else: the 16 bytes after the header of a sealed record are looked for in what
 * the process sends, and those of each record that it receives are found again when it is opened.
 */
struct record_source {
	u64 sk, connection;
};
/* Sealed by a key, not sent yet; received, not opened yet. Apart, for the peer on this machine may have a record before
 * its sender's call returns. Caches: what is never sent or opened goes when room is needed. */
BPF_TABLE("lru_hash", struct record_key, struct record_owner, sealed_records, 16384);
BPF_TABLE("lru_hash", struct record_key, struct record_source, received_records, 16384);
/* Processes that were seen to use keys. key: tgid. A cache: one that is missing is entered anew. */
BPF_TABLE("lru_hash", u32, u8, key_users, 4096);
/* Records of a call that are looked at: before the first of a key come those of the handshake. */
#define MAX_PASSING 8

/* Whether a TLS connection may be one of keys: no other session is known on it. */
INLINE int may_have_keys(struct connection *c, u64 sk, u32 tgid)
{
	return c->protocol == PROTOCOL_TLS && (!c->session || c->ssl == sk) && key_users.lookup(&tgid);
}

/* Plaintext that a key has told of is the connection's session's, from the position `base` on. */
INLINE void tell_joined(struct session *key, struct session *s, u32 direction, u64 base, u64 id)
{
	struct sample *r = ring.ringbuf_reserve(sizeof(*r));

	if (!r) {
		count(COUNTER_EVENTS_RING_FULL, 1);
		return;
	}
	__builtin_memset(r, 0, sizeof(*r));
	r->kind = SAMPLE_JOINED;
	r->direction = direction;
	r->time = bpf_ktime_get_ns();
	r->connection = s->connection;
	r->session = key->id;
	r->library = s->library;
	r->position = base;
	r->length = s->id;
	r->tgid = id >> 32;
	r->tid = id;
	submit(r);
}

/* The key's records go over this connection. */
INLINE void settle_key(struct session *key, struct connection *c, u64 sk, u64 id)
{
	struct tls_call whole = {.ssl = sk, .sk = sk, .connection = c->id, .library = key->library};
	u32 d = key->position[DIRECTION_RECEIVED] ? DIRECTION_RECEIVED : DIRECTION_SENT;
	u64 told = key->position[d], base;
	struct session *s;

	key->sk = sk;
	key->connection = c->id;
	s = session_of(&whole, id);
	if (!s)
		return;
	bind(s, &whole, id);
	if (!told || has_setting(DROP_TLS))
		return;
	base = __sync_fetch_and_add(&s->position[d], told);
	c->session_position[d] = base + told;
	/* Too late: what came after it in the other direction was told. It is a hole. */
	if (s->told_at[!d] > key->told_at[d])
		return;
	if (c->unwanted)
		put_session_event(SAMPLE_BOUND, key, 1, id);
	else
		tell_joined(key, s, d, base, id);
}

INLINE void settle_sealed(struct session_key *key, u64 session, struct connection *c, u64 sk, u64 id)
{
	struct session *k = sessions.lookup(key);

	if (k && k->id == session && !k->connection)
		settle_key(k, c, sk, id);
}

/* A key tells of plaintext, its own or its connection's. */
INLINE void note_told(struct session *s, u32 direction, int settled)
{
	u32 d = direction & 1;

	if (settled || !s->told_at[d])
		s->told_at[d] = bpf_ktime_get_ns();
}

/* A call on a socket that may be one of keys has moved n bytes: which records begin there? */
INLINE void note_passing(struct syscall *call, struct connection *c, u64 n, u64 id)
{
	struct session_key sealed = {.tgid = id >> 32};
	u64 block[2] = {call->buffer, n}, session = 0, i;
	u8 head[RECORD_KEY_END] = {};
	struct record_source source = {.sk = call->sk, .connection = c->id};
	struct record_owner *owner;
	struct record_key key = {};

	if (call->memory != MEMORY_USER || (call->flags & NOT_IN_USER_SPACE))
		return;
	if (call->direction == DIRECTION_RECEIVED && !call->blocks) {
		if (c->record_left >= n) {
			c->record_left -= n;
			return;
		}
		block[0] += c->record_left;
		block[1] -= c->record_left;
		c->record_left = 0;
	}
	#pragma clang loop unroll(disable)
	for (i = 0; i < MAX_PASSING; i++) {
		/* rustls writes each record as a block of its own, and reads many at once. */
		if (call->blocks && (i >= call->blocks || read_block(MEMORY_USER, call->buffer, i, block)))
			break;
		if (block[1] < RECORD_KEY_END || bpf_probe_read_user(head, sizeof(head), (void *)block[0]) ||
		    !is_tls_record(head, sizeof(head))) {
			if (call->blocks)
				continue;
			break;
		}
		__builtin_memcpy(&key, head + RECORD_KEY_END - RECORD_KEY_BYTES, RECORD_KEY_BYTES);
		if (call->direction == DIRECTION_RECEIVED) {
			received_records.update(&key, &source);
		} else if ((owner = sealed_records.lookup(&key)) && owner->tgid == sealed.tgid) {
			sealed.ssl = owner->ssl;
			session = owner->session;
		}
		u64 length = RECORD_KEY_END - RECORD_KEY_BYTES + ((u64)head[3] << 8 | head[4]);
		if (length > block[1]) {
			if (call->direction == DIRECTION_RECEIVED)
				c->record_left = length - block[1];
			length = block[1];
		}
		block[0] += length;
		block[1] -= length;
	}
	/* The last of them: a handshake's key has nothing to tell. */
	if (session)
		settle_sealed(&sealed, session, c, call->sk, id);
}
