/* SPDX-License-Identifier: GPL-2.0-or-later
 * TLS libraries: a pair of uprobes for each shape of call. Entry keeps the arguments, return knows the length.
 *
 * Calls nest: within one object (SSL_connect calls SSL_do_handshake), where only the outermost counts, and
 * across objects (TLS in TLS), where each does. A return belongs to the entry with the same stack pointer.
 *
 * Since Linux 6.13 a uprobe program with 64 or more bytes of stack gets a per-CPU one, which a preemption
 * corrupts; a program from which a tail call can be reached never does. So each program here can reach one.
 */
#define MAX_DEPTH 2

#if defined(__x86_64__)
#define STACK_AT_ENTRY(ctx) ((ctx)->sp)
#define STACK_AT_RETURN(ctx) ((ctx)->sp - 8)	/* the return address is gone */
#elif defined(__aarch64__)
#define STACK_AT_ENTRY(ctx) ((ctx)->sp)
#define STACK_AT_RETURN(ctx) ((ctx)->sp)
#endif

INLINE int tls_enter(struct pt_regs *ctx, u64 ssl, u64 buffer, u64 count_, u64 done_pointer)
{
	u64 id = bpf_get_current_pid_tgid();
	struct tls_call_key key = {.tid = id};
	struct tls_call *outer;

	if (!wanted(id))
		return 0;
	outer = tls_calls.lookup(&key);
	/* An outer call that is further down the stack than we are has been left by a longjmp. */
	if (outer && outer->stack > STACK_AT_ENTRY(ctx)) {
		if (outer->ssl == ssl)
			return 0;
		key.depth = 1;
	}
	struct tls_call call = {
		.ssl = ssl, .buffer = buffer, .count = count_, .done_pointer = done_pointer,
		.entered = bpf_ktime_get_ns(), .stack = STACK_AT_ENTRY(ctx), .library = bpf_get_attach_cookie(ctx),
	};
	if (tls_calls.update(&key, &call)) {
		count(COUNTER_TABLE_FULL, 1);
		finish_uprobe(ctx, 1);	/* finds no job: see above */
	}
	return 0;
}

/* The call that is returning; its key is left in *key. */
INLINE struct tls_call *tls_returning(struct pt_regs *ctx, struct tls_call_key *key)
{
	struct tls_call *call;

	call = tls_calls.lookup(key);
	if (!call || call->stack == STACK_AT_RETURN(ctx))
		return call;
	key->depth = 1;
	call = tls_calls.lookup(key);
	return call && call->stack == STACK_AT_RETURN(ctx) ? call : NULL;
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

/* The connection that a session's records go over, NULL while it is not known. */
INLINE struct connection *bind(struct session *s, struct tls_call *call, u64 id)
{
	struct connection *c;
	u64 sk;

	if (call->connection && s->connection != call->connection) {
		s->sk = call->sk;
		s->connection = call->connection;
		put_session_event(SAMPLE_BOUND, s, 0, id);
	}
	sk = s->sk;
	if (!sk)
		return NULL;
	c = connections.lookup(&sk);
	if (!c || c->id != s->connection)
		return NULL;
	c->session = s->id;
	c->ssl = call->ssl;
	return c;
}

/* 1: n bytes of plaintext are set up for the copying program. */
INLINE int tls_moved(struct tls_call *call, u64 id, u32 direction, u64 n)
{
	struct session *s = session_of(call, id);
	u32 tid = id, d = direction & 1;
	struct connection *c;

	count(COUNTER_PLAINTEXT_REPORTED, n);
	if (!s)
		return 0;
	struct job job = {
		.session = s->id, .base = call->buffer, .length = n, .left = n, .tgid = id >> 32, .tid = tid,
		.library = s->library, .kind = SAMPLE_DATA, .direction = d, .protocol = PROTOCOL_TLS,
		.time = d == DIRECTION_SENT ? call->entered : bpf_ktime_get_ns(),
	};
	c = bind(s, call, id);
	job.connection = s->connection;
	job.position = __sync_fetch_and_add(&s->position[d], n);
	if (c) {
		c->session_position[d] = job.position + n;
		if (c->unwanted) {
			count(COUNTER_PLAINTEXT_FILTERED, n);
			return 0;
		}
		if (!announce(c, job.tgid, tid)) {
			count(COUNTER_PLAINTEXT_RING_FULL, n);
			return 0;
		}
	}
	if (!jobs.update(&tid, &job))
		return 1;
	count(COUNTER_TABLE_FULL, 1);
	count(COUNTER_PLAINTEXT_RING_FULL, n);
	return 0;
}

enum result_shape {
	RESULT_INT,		/* bytes, or ≤ 0 */
	RESULT_LONG,
	RESULT_POINTER,		/* 1, and the bytes behind a pointer argument */
};

INLINE int tls_return(struct pt_regs *ctx, u32 direction, int shape)
{
	u64 id = bpf_get_current_pid_tgid();
	struct tls_call_key key = {.tid = id};
	struct tls_call *call = tls_returning(ctx, &key);
	u64 room;
	s64 n;
	int ready = 0;

	if (!call)
		return 0;
	n = shape == RESULT_LONG ? (s64)PT_REGS_RC(ctx) : (int)PT_REGS_RC(ctx);
	if (shape == RESULT_POINTER) {
		u64 done = 0;
		if (n == 1 && call->done_pointer)
			bpf_probe_read_user(&done, sizeof(done), (void *)call->done_pointer);
		n = n == 1 ? done : 0;
	}
	/* The upper half of an int argument's register is anyone's. */
	room = shape == RESULT_INT ? (u32)call->count : call->count;
	if (n > 0 && call->buffer && n <= room) {
		ready = tls_moved(call, id, direction, n);
	} else if (call->connection) {
		struct session *s = session_of(call, id);
		if (s)
			bind(s, call, id);
	}
	tls_calls.delete(&key);
	return ready;
}

#define TLS_RETURN(name, direction, shape)				\
int return_##name(struct pt_regs *ctx)					\
{									\
	return finish_uprobe(ctx, tls_return(ctx, direction, shape));	\
}

int enter_buffer(struct pt_regs *ctx)
{
	return tls_enter(ctx, PT_REGS_PARM1(ctx), PT_REGS_PARM2(ctx), PT_REGS_PARM3(ctx), 0);
}

int enter_buffer_done4(struct pt_regs *ctx)
{
	return tls_enter(ctx, PT_REGS_PARM1(ctx), PT_REGS_PARM2(ctx), PT_REGS_PARM3(ctx), PT_REGS_PARM4(ctx));
}

int enter_buffer_done5(struct pt_regs *ctx)
{
	return tls_enter(ctx, PT_REGS_PARM1(ctx), PT_REGS_PARM2(ctx), PT_REGS_PARM3(ctx), PT_REGS_PARM5(ctx));
}

TLS_RETURN(read_int, DIRECTION_RECEIVED, RESULT_INT)
TLS_RETURN(write_int, DIRECTION_SENT, RESULT_INT)
TLS_RETURN(read_long, DIRECTION_RECEIVED, RESULT_LONG)
TLS_RETURN(write_long, DIRECTION_SENT, RESULT_LONG)
TLS_RETURN(read_pointer, DIRECTION_RECEIVED, RESULT_POINTER)
TLS_RETURN(write_pointer, DIRECTION_SENT, RESULT_POINTER)

/* Handshake, shutdown: no plaintext, but system calls inside tell the socket. */
int enter_object(struct pt_regs *ctx)
{
	return tls_enter(ctx, PT_REGS_PARM1(ctx), 0, 0, 0);
}

INLINE int object_return(struct pt_regs *ctx, int handshake, int success)
{
	u64 id = bpf_get_current_pid_tgid();
	struct tls_call_key key = {.tid = id};
	struct tls_call *call = tls_returning(ctx, &key);
	struct session *s;

	if (!call)
		return 0;
	s = session_of(call, id);
	if (s) {
		bind(s, call, id);
		if (handshake && !s->handshake_started)
			s->handshake_started = call->entered;
		if (handshake && !s->established && (int)PT_REGS_RC(ctx) == success) {
			s->established = 1;
			put_session_event(SAMPLE_HANDSHAKE, s, s->handshake_started, id);
		}
	} else {
		finish_uprobe(ctx, 1);	/* finds no job: see the head of this file */
	}
	tls_calls.delete(&key);
	return 0;
}

int return_handshake(struct pt_regs *ctx)
{
	return object_return(ctx, 1, 1);
}

/* GnuTLS and its like return 0 for success. */
int return_handshake_zero(struct pt_regs *ctx)
{
	return object_return(ctx, 1, 0);
}

int return_object(struct pt_regs *ctx)
{
	return object_return(ctx, 0, 0);
}

int enter_free(struct pt_regs *ctx)
{
	u64 id = bpf_get_current_pid_tgid();
	struct session_key key = {.ssl = PT_REGS_PARM1(ctx), .tgid = id >> 32};
	struct session *s;

	if (!wanted(id))
		return 0;
	s = sessions.lookup(&key);
	if (!s)
		return 0;
	put_session_event(SAMPLE_SESSION_END, s, 0, id);
	sessions.delete(&key);
	if (!key.ssl)
		finish_uprobe(ctx, 1);	/* finds no job: see the head of this file */
	return 0;
}
