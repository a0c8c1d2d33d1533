/* SPDX-License-Identifier: GPL-2.0-or-later
 * Which socket a TLS session's records go over. Four ways, kept for as long as the session lives:
 *
 * 1. A system call nested in the TLS function, on the same thread (sockets, and BIOs that make the calls), or by the
 *    same goroutine.
 * 2. The records themselves. With memory BIOs (asyncio, Node) the library only fills a buffer, which the program
 *    sends later, maybe from another thread. Of each record that a TLS function hands to BIO_write, the 16 bytes
 *    after the header are remembered: no two records share them. The write that sends them names the socket.
 *    Every session writes a record when it begins, and one for every request or response. Where a library hands its
 *    records to a function of the program's (GnuTLS, mbedTLS, wolfSSL), its object tells where the next one is.
 * 3. What a thread does in turn, for libraries without symbols whose BIO_write was not found (Bun's), and those of which
 *    is not known where their records are (s2n): it receives a record, and a TLS function returns as many bytes of
 *    plaintext as that record holds; or the other way round. Only if it had to do with no other socket and session in
 *    between, of those that are not known: a loop that first reads all sockets proves nothing.
 * 4. For sessions older than the recording, or their process, that write no more: what a thread has just received,
 *    which may begin inside a record, is handed to BIO_write outside of any TLS function. That BIO is one of the
 *    session's if its object points to it, or to the other half of a pair.
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

/* What a thread has received of a socket whose session is not known. key: tid. Replaced by the next one, deleted by the
 * next TLS call that is not known to belong elsewhere. */
struct arrival {
	u64 sk, connection;
	u64 several;		/* it received from others too */
	u64 length;		/* of the record that was the last to begin a call */
	struct record_key key;	/* those bytes of what was received, wherever that begins */
	u64 bio;		/* of the session that it was written to */
};
BPF_TABLE("lru_hash", u32, struct arrival, arrivals, 16384);
/* Words of an SSL object in which its BIOs are: the 3rd in OpenSSL 1.1 and 3.0, about the 10th from 3.2. */
#define OBJECT_WORDS 24
/* Plaintext that a thread wrote to a session whose socket is not known. key: tid. Deleted by the next send. */
struct departure {
	struct record_owner owner;	/* session SEVERAL: it wrote to more than one */
	u64 length;
};
BPF_TABLE("lru_hash", u32, struct departure, departures, 16384);
#define SEVERAL ~0ULL
#define MAX_RECORD_PLAINTEXT 16384

/* Whether a record of that length protects those bytes: with AEAD ciphers, a tag of 16 bytes, in TLS 1.3 and a
 * content type (RFC 8446 §5.2), in TLS 1.2 mostly and a nonce of 8 (RFC 5288 §3). */
INLINE int protects(u64 record, u64 plaintext)
{
	u64 overhead = record - (plaintext < MAX_RECORD_PLAINTEXT ? plaintext : MAX_RECORD_PLAINTEXT);

	return overhead == 16 || overhead == 17 || overhead == 24;
}

/* The length of a record of application data, 0 for others. */
INLINE u64 data_record_length(u8 *head)
{
	return is_tls_record(head, 5) && head[0] == 23 ? (u32)head[3] << 8 | head[4] : 0;
}

/* Of an older connection calls may begin anywhere in a record. */
INLINE int may_be_tls(struct connection *c)
{
	return c->protocol == PROTOCOL_TLS ||
		(c->protocol == PROTOCOL_UNDECIDED && !c->opened && c->misses < MAX_MISSES_OF_TLS);
}

INLINE void note_arrival(u8 *head, struct connection *c, u64 sk, u32 tid)
{
	struct arrival fresh = {.sk = sk, .connection = c->id, .length = data_record_length(head)};
	struct arrival *last = arrivals.lookup(&tid);

	if (last && (last->several || last->connection != c->id))
		fresh.several = 1;
	else if (last && !fresh.length)
		fresh.length = last->length;
	__builtin_memcpy(&fresh.key, head + RECORD_KEY_END - RECORD_KEY_BYTES, RECORD_KEY_BYTES);
	arrivals.update(&tid, &fresh);
}

/* A record's type, 0 if there is none. */
INLINE u8 read_record_key(u64 from, struct record_key *key)
{
	u8 head[5] = {};

	if (bpf_probe_read_user(head, sizeof(head), (void *)from) || !is_tls_record(head, sizeof(head)))
		return 0;
	return bpf_probe_read_user(key, sizeof(*key), (void *)(from + sizeof(head))) ? 0 : head[0];
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
		struct session fresh = {
			.id = new_id(), .library = call->library & (WITHOUT_BIO - 1),
			.without_bio = !!(call->library & WITHOUT_BIO),
			.unfreed = !!(call->library & LOCATED),
		};
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
	c->left = 0;
}

/* Whether it is to be found out which session of this process the connection has: one that a child has inherited is
 * another than its parent's. */
INLINE int lacks_session(struct connection *c, u64 id)
{
	return c->ssl_tgid != id >> 32;
}

/* A connection that no call was seen to open. */
INLINE void note_passive_open(struct connection *c, u64 sk)
{
	u64 *opened = c->opened ? NULL : passive_opens.lookup(&sk);

	if (!opened)
		return;
	c->opened = c->established = *opened;
	c->role = ROLE_SERVER;
}

/* Before anything is told of a connection: who is at its ends, and whether that is wanted. */
INLINE void know_ends(struct connection *c, u64 sk)
{
	if (c->addressed)
		return;
	note_passive_open(c, sk);
	read_addresses(c, sk);
	decide_wanted(c);
	c->addressed = 1;
}

/* Plaintext that waits in user space for its connection must find it announced, or hear that it is not wanted. */
INLINE void tell_bound(struct connection *c, struct session *s, u64 id)
{
	know_ends(c, s->sk);
	if (has_setting(DROP_TLS))
		return;
	if (!c->unwanted)
		announce(c, id >> 32, id);
	put_session_event(SAMPLE_BOUND, s, c->unwanted, id);
}

/* What an older read gave, by a session that had no name, is this one's (older_reads.bpf.h). */
INLINE void adopt(struct connection *c, struct session *s)
{
	struct session_key key = {.ssl = c->ssl, .tgid = c->ssl_tgid};
	struct session *older = sessions.lookup(&key);

	c->nameless = 0;
	if (!older || older->id != c->session || s->position[0] || s->position[1])
		return;
	s->id = older->id;
	s->position[0] = older->position[0];
	s->position[1] = older->position[1];
	sessions.delete(&key);
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
	if (fresh && c->nameless)
		adopt(c, s);
	if (!s->tunnels)
		take_over(c, s, call->ssl, id >> 32);
	if (fresh)
		tell_bound(c, s, id);
	return c;
}

/* n bytes of plaintext were moved for a session whose socket is not known. */
INLINE void note_order(struct session *s, struct tls_call *call, u64 id, u32 direction, u64 n)
{
	u32 tid = id;
	struct departure fresh = {.owner = {.ssl = call->ssl, .session = s->id, .tgid = id >> 32}, .length = n};
	struct departure *earlier;
	struct arrival *last;

	if (direction == DIRECTION_SENT) {
		earlier = departures.lookup(&tid);
		if (earlier && earlier->owner.session == s->id)
			return;
		if (earlier)
			fresh.owner.session = SEVERAL;
		departures.update(&tid, &fresh);
		return;
	}
	last = arrivals.lookup(&tid);
	if (!last)
		return;
	if (!last->several && protects(last->length, n)) {
		call->sk = last->sk;
		call->connection = last->connection;
	}
	arrivals.delete(&tid);
}

/* A hello begins the next session of this object. */
#define HANDSHAKE_RECORD 22
INLINE void forget_gone(u64 ssl, u64 id)
{
	struct session_key key = {.ssl = ssl, .tgid = id >> 32};
	struct session *s = sessions.lookup(&key);

	if (!s || !s->gone)
		return;
	put_session_event(SAMPLE_SESSION_END, s, 0, id);
	sessions.delete(&key);
}

INLINE void remember_record(struct tls_call *call, u64 id, u64 buffer)
{
	struct record_key key = {};
	struct session *s;
	u8 type = read_record_key(buffer, &key);

	if (!type)
		return;
	if (type == HANDSHAKE_RECORD)
		forget_gone(call->ssl, id);
	s = session_of(call, id);
	/* Once bound it stays bound; a new socket would begin with a handshake, on a new object. */
	if (!s || s->connection)
		return;
	struct record_owner owner = {.ssl = call->ssl, .session = s->id, .tgid = id >> 32};
	records.update(&key, &owner);
}

/* Whether what is sent (RECORD_KEY_END bytes at least) is a record that a TLS function of this process has made. */
INLINE int is_own_record(u8 *head, u64 id)
{
	struct record_key key = {};
	struct record_owner *owner;

	if (!is_tls_record(head, RECORD_KEY_END))
		return 0;
	__builtin_memcpy(&key, head + RECORD_KEY_END - RECORD_KEY_BYTES, RECORD_KEY_BYTES);
	owner = records.lookup(&key);
	return owner && owner->tgid == id >> 32;
}

/* Words of a BIO of which one leads to what its method keeps: the 9th in OpenSSL 3, the 8th in 1.1, the 7th in 1.0.2, the
 * 5th or 6th in BoringSSL. Of a pair's BIO (bio_bio_st) that begins with the other. */
#define FIRST_KEPT_WORD 4
#define LAST_KEPT_WORD 8

/* The other half of a pair of BIOs, which points back; else the BIO itself. */
INLINE u64 session_s_bio(u64 bio)
{
	u64 word = 0, other = 0, i;

	/* Unrolled it needs more stack than there is. */
	#pragma clang loop unroll(disable)
	for (i = FIRST_KEPT_WORD * 8; i <= LAST_KEPT_WORD * 8; i += 8) {
		if (!READ_USER(word, bio + i) && !READ_USER(other, word) && !READ_USER(word, other + i) &&
		    !READ_USER(word, word) && word == bio)
			return other;
	}
	return bio;
}

/* BIO_write outside of any TLS function: is it what this thread has just received? */
INLINE void note_feed(u32 tid, u64 bio, u64 buffer)
{
	struct arrival *last = arrivals.lookup(&tid);
	struct record_key key = {};

	if (!last || READ_USER(key, buffer + RECORD_KEY_END - RECORD_KEY_BYTES))
		return;
	if (key.bytes[0] == last->key.bytes[0] && key.bytes[1] == last->key.bytes[1])
		last->bio = session_s_bio(bio);
}

/* An older connection is known to be TLS by what is done with what it has received. */
INLINE void turn_fed_to_tls(struct arrival *fed)
{
	u64 sk = fed->sk;
	struct connection *c = connections.lookup(&sk);

	if (c && c->id == fed->connection && c->protocol == PROTOCOL_UNDECIDED)
		c->protocol = PROTOCOL_TLS;
}

/* A read begins: is the BIO that was fed its session's? */
INLINE void find_feed(struct tls_call *call, u32 tid)
{
	struct arrival *last = arrivals.lookup(&tid);
	u64 words[OBJECT_WORDS] = {}, i;

	if (!last || !last->bio || bpf_probe_read_user(words, sizeof(words), (void *)call->ssl))
		return;
	#pragma clang loop unroll(full)
	for (i = 0; i < OBJECT_WORDS; i++)
		if (words[i] == last->bio) {
			call->sk = last->sk;
			call->connection = last->connection;
		}
	if (!call->connection)
		return;
	turn_fed_to_tls(last);
	arrivals.delete(&tid);
}

/* The innermost call of a stack. */
INLINE struct tls_call *innermost_call(u64 name)
{
	struct tls_call_key key = {.stack = name};
	struct tls_call *call = tls_calls.lookup(&key), *inner;

	if (!call && names_window(name)) {
		key.stack += NEXT_WINDOW;
		call = tls_calls.lookup(&key);
	}
	if (!call)
		return NULL;
	key.depth = 1;
	inner = tls_calls.lookup(&key);
	return inner ? inner : call;
}

/* What calls are kept by of the stack that a system call was made on. */
INLINE u64 callers_stack(u64 id)
{
	return has_switched_stacks() ? stack_name(id, users_stack()) : (u32)id;
}

/* Programs are called back from within TLS functions, by Node whatever waits for a handshake's end, and write to others
 * there. What is sent is not the session's that is called if that one's records go in memory, or if the connection is
 * another's; but a session may have an object for each direction (wolfSSL_write_dup). Nor is an older connection TLS that
 * nobody knows, such as that to a cache of sessions, if the call has to do with one that is known.
 */
INLINE int is_called_back(struct tls_call *outer, struct connection *c, u32 direction, u64 id)
{
	struct session_key key = {.ssl = outer->ssl, .tgid = id >> 32};
	struct session *own = sessions.lookup(&key), *there;
	struct connection *its;
	u64 sk, bound = 0;

	if (own) {
		bound = own->connection;
		if (bound == c->id)
			return 0;
		sk = own->sk;
		its = own->in_memory ? connections.lookup(&sk) : NULL;
		if (its && its->id == bound)
			return 1;
	}
	if (c->protocol == PROTOCOL_UNDECIDED && !c->opened && (bound || (outer->connection && outer->connection != c->id)))
		return 1;
	if (lacks_session(c, id))
		return 0;
	key.ssl = c->ssl;
	there = sessions.lookup(&key);
	return there && there->id == c->session && there->connection == c->id &&
		(bound || outer->kind != (direction == DIRECTION_SENT ? CALL_WRITES : CALL_READS));
}

/* A system call inside a TLS function, on its stack: the session's records go over this socket. */
INLINE void note_nested(u64 id, struct syscall *call, struct connection *c, u8 *head, u32 n, u64 moved)
{
	struct tls_call *outer = innermost_call(callers_stack(id));

	if (!outer || is_called_back(outer, c, call->direction, id))
		return;
	/* A callback of the handshake may talk cleartext on another socket (OCSP), also on one of before the recording: what
	 * libraries send are whole records. Without branches: the verifier would follow each. */
	if (c->protocol == PROTOCOL_UNDECIDED && !c->opened &&
	    (sign_of_record(head, apart(n)) & -(s32)apart(n) & ((s32)call->direction - 1)) >= 0)
		c->protocol = PROTOCOL_TLS;
	/* After STARTTLS a server's library may read the ClientHello's header on its own. */
	if (c->protocol != PROTOCOL_TLS && is_tls_record(head, n) && head[0] == 22)
		turn_to_tls(c);
	if (c->protocol != PROTOCOL_TLS)
		return;
	outer->sk = call->sk;
	outer->connection = c->id;
	if (call->direction == DIRECTION_SENT) {
		outer->sent += moved;
		outer->last = moved;
		call->in_long_call = outer->count >= LONG_CALL_BYTES;
	}
}

/* Go keeps its goroutine in a register, in system calls too. */
#if defined(__x86_64__)
#define GO_GOROUTINE(ctx) ((ctx)->r14)
#elif defined(__aarch64__)
#define GO_GOROUTINE(ctx) ((ctx)->regs[28])
#endif

/* The last system call of a goroutine on TLS whose session is not known. A cache: deleted by the function of tls.Conn
 * that it was nested in (golang.bpf.h). Of threads without goroutines the register holds anything, and nobody asks. */
struct goroutine {
	u64 address;
	u32 tgid, pad;
};
struct goroutine_call {
	u64 sk, connection, time;
};
BPF_TABLE("lru_hash", struct goroutine, struct goroutine_call, goroutine_calls, 16384);

/* Without a branch: the verifier follows each to the end of the program. */
INLINE void note_goroutine(struct connection *c, u64 sk, u64 id)
{
	struct pt_regs *regs = (struct pt_regs *)bpf_task_pt_regs(bpf_get_current_task_btf());
	struct goroutine_call call = {.sk = sk, .connection = c->id, .time = bpf_ktime_get_ns()};
	struct goroutine key = {.tgid = id >> 32};

	READ_KERNEL(key.address, &GO_GOROUTINE(regs));
	goroutine_calls.update(&key, &call);
}

/* The same on a socket without a stream: DTLS (RFC 9147), which is left alone. */
INLINE void note_datagrams(u64 id)
{
	struct tls_call *call = innermost_call(callers_stack(id));

	if (call)
		call->datagrams = 1;
}

/* Whether a session's records are known to go over no stream. In the place of its socket it has no address of one. */
#define NO_STREAM 1
INLINE int goes_over_datagrams(struct session *s, struct tls_call *call)
{
	if (call->datagrams && !call->connection && !s->connection)
		s->sk = NO_STREAM;
	return s->sk == NO_STREAM;
}

/* Whether a record that is sent (its first RECORD_KEY_END bytes) is one that a TLS function of this process made; its
 * session then has this connection. */
INLINE int match_record(u8 *head, struct connection *c, u64 sk, u64 id)
{
	struct record_key key = {};
	struct record_owner *owner;
	struct departure *written;
	struct session *s;
	u32 tid = id;

	__builtin_memcpy(&key, head + RECORD_KEY_END - RECORD_KEY_BYTES, RECORD_KEY_BYTES);
	owner = records.lookup(&key);
	written = departures.lookup(&tid);
	if (written && !owner && protects(data_record_length(head), written->length))
		owner = &written->owner;
	/* A proxy passes on what others wrote. */
	if (!owner || owner->tgid != id >> 32)
		return 0;
	struct session_key session_key = {.ssl = owner->ssl, .tgid = owner->tgid};
	s = sessions.lookup(&session_key);
	if (!s || s->id != owner->session || s->connection)
		return 0;
	s->sk = sk;
	s->connection = c->id;
	s->in_memory = 1;
	take_over(c, s, owner->ssl, owner->tgid);
	tell_bound(c, s, id);
	return 1;
}

/* A request may be sent together with what ends the handshake, which functions have written that are not known where a
 * compiler has put them into their callers: in TLS 1.3 two records, in 1.2 three. */
#define MATCHED_RECORDS 3

/* TLS is sent on a connection whose session is not known: is one of the call's first records (in its first block; `head`
 * has how that begins) one of a TLS function? */
INLINE void match_records(struct syscall *call, u8 *head, u64 moved, struct connection *c, u64 sk, u64 id)
{
	volatile struct syscall *v = call;
	u64 block[2] = {v->buffer, moved}, at = 0;
	u32 tid = id, i;

	if (v->memory > MEMORY_USER_COPIED || (v->blocks && read_block(MEMORY_USER, v->buffer, 0, block)))
		block[1] = 0;
	else if (v->blocks)
		at = v->skip;
	#pragma clang loop unroll(disable)
	for (i = 0; i < MATCHED_RECORDS; i++) {
		if (!is_tls_record(head, RECORD_KEY_END) || match_record(head, c, sk, id))
			break;
		at += RECORD_KEY_END - RECORD_KEY_BYTES + ((u64)head[3] << 8 | head[4]);
		if (at + RECORD_KEY_END > block[1] || bpf_probe_read_user(head, RECORD_KEY_END, (void *)(block[0] + at)))
			break;
	}
	departures.delete(&tid);
}
