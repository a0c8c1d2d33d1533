/* SPDX-License-Identifier: GPL-2.0-or-later
 * Go's crypto/tls. A goroutine may return on another thread than it entered on, so a call is known by its
 * goroutine; a uretprobe would break Go's moving stacks, so each RET is probed. Arguments and results are in
 * registers since Go 1.17 (arm64: 1.18): capture/golang.py says which.
 */
#if defined(__x86_64__)
#define GO_FIRST(ctx) ((ctx)->ax)
#define GO_SECOND(ctx) ((ctx)->bx)
#define GO_THIRD(ctx) ((ctx)->cx)
#elif defined(__aarch64__)
#define GO_FIRST(ctx) ((ctx)->regs[0])
#define GO_SECOND(ctx) ((ctx)->regs[1])
#define GO_THIRD(ctx) ((ctx)->regs[2])
#endif

/* Calls nest: a Read or Write that finds no handshake makes it, and what is below may be a tls.Conn itself (TLS in TLS),
 * which may find none either. */
#define GO_DEPTH 4
struct go_key {
	u64 goroutine;
	u32 tgid, depth;
};
/* A function of tls.Conn in flight. key: {goroutine, tgid, how many it is inside of}. Deleted at return; a goroutine
 * that panics through one leaves an entry, which its next call, or the least recently used rule, replaces. */
BPF_TABLE("lru_hash", struct go_key, struct tls_call, go_calls, MAX_CALLS);
/* The outermost write that a thread was the last to begin. key: tid. A cache: deleted when the thread exits. */
BPF_TABLE("lru_hash", u32, struct go_key, go_writers, MAX_CALLS);

/* A g begins with where its stack is, from and to. */
INLINE u64 go_stack_end(u64 goroutine)
{
	u64 end = 0;

	READ_USER(end, goroutine + 8);
	return end;
}

/* How much of its stack a goroutine uses, which stays the same when the stack grows and moves. */
INLINE u64 go_stack_used(struct pt_regs *ctx)
{
	return go_stack_end(GO_GOROUTINE(ctx)) - ctx->sp;
}

/* A caller's buffer may be on that stack, and moves with it: `stack` is the stack pointer at entry. */
INLINE void go_note_buffer(struct tls_call *call, u64 stack)
{
	call->on_stack = call->buffer - stack < call->stack;
	if (call->on_stack)
		call->buffer -= stack;
}

/* Where the buffer is now, by where that stack pointer is now. */
INLINE void go_find_buffer(struct tls_call *call, u64 stack)
{
	if (call->on_stack)
		call->buffer += stack;
	call->on_stack = 0;
}

/* The place for a call that begins, in key->depth. 1: it is new. 0: it is known, for the function starts over with more
 * stack, or is in a wrapper's call. Below 0: there is none. */
INLINE int go_place(struct go_key *key, struct tls_call *call)
{
	struct tls_call *known;
	u32 depth;

	#pragma clang loop unroll(full)
	for (depth = 0; depth < GO_DEPTH; depth++) {
		key->depth = depth;
		known = go_calls.lookup(key);
		if (!known)
			return 1;
		if (known->ssl == call->ssl && known->kind == call->kind) {
			known->buffer = call->buffer;
			known->on_stack = call->on_stack;
			known->count = call->count;
			known->stack = call->stack;
			return 0;
		}
		/* Left by a panic. */
		if (known->stack >= call->stack)
			return 1;
	}
	return -1;
}

/* The call that returns where so much of the stack is used: it began there. Its key is left in *key. */
INLINE struct tls_call *go_returning(struct go_key *key, u64 used)
{
	struct tls_call *call;
	u32 depth;

	#pragma clang loop unroll(full)
	for (depth = 0; depth < GO_DEPTH; depth++) {
		key->depth = depth;
		call = go_calls.lookup(key);
		if (!call)
			return NULL;
		if (call->stack == used)
			return call;
	}
	return NULL;
}

/* The call that this one is directly inside of. */
INLINE struct tls_call *go_around(struct go_key key)
{
	if (!key.depth)
		return NULL;
	key.depth--;
	return go_calls.lookup(&key);
}

/* The descriptor of a net.TCPConn: its netFD's poll.FD begins with a 16-byte mutex, then Sysfd. */
INLINE int go_socket_of(u64 tcp_conn, struct sock_reference *s, u32 *fd)
{
	u64 net_fd = 0, number = 0;

	if (READ_USER(net_fd, tcp_conn) || !net_fd || READ_USER(number, net_fd + 16) || number >> 20)
		return 0;
	*fd = number;
	return socket_of(file_of(number), s);
}

/* The connection below a tls.Conn: its first member is the net.Conn interface (type, data). A type that wraps
 * a net.Conn mostly has that as its first member; of others go_find_call tells. */
INLINE void go_find_socket(struct tls_call *call, u32 tgid)
{
	struct sock_reference s = {};
	struct connection *c;
	u64 inner = 0, wrapped = 0;
	u32 fd = 0;

	if (READ_USER(inner, call->ssl + 8) || !inner)
		return;
	if (!go_socket_of(inner, &s, &fd)) {
		if (READ_USER(wrapped, inner + 8) || !wrapped || !go_socket_of(wrapped, &s, &fd))
			return;
	}
	c = connection_of(&s, tgid, fd);
	if (!c || (c->protocol != PROTOCOL_TLS && c->opened && c->protocol != PROTOCOL_UNDECIDED))
		return;
	c->protocol = PROTOCOL_TLS;
	call->sk = s.sk;
	call->connection = c->id;
}

/* The system call that the goroutine made since the call began. Of calls that nest the innermost returns first. */
INLINE void go_find_call(struct tls_call *call, struct go_key *of)
{
	struct goroutine key = {.address = of->goroutine, .tgid = of->tgid};
	struct goroutine_call *found = goroutine_calls.lookup(&key);

	if (!found || found->time < call->entered)
		return;
	call->sk = found->sk;
	call->connection = found->connection;
	goroutine_calls.delete(&key);
}

/* The session's socket, looked for where it is not known or no longer there. */
INLINE void go_bind(struct tls_call *call, struct session *s, u64 id)
{
	u64 sk = s->sk;
	struct connection *c = sk ? connections.lookup(&sk) : NULL;

	if (!c || c->id != s->connection)
		go_find_socket(call, id >> 32);
}

INLINE int go_reads(int shape)
{
	return shape == SHAPE_GO_READ || shape == SHAPE_GO_READ_SPILLED || shape == SHAPE_GO_READ_WRAPPED;
}

INLINE int go_shakes_hands(int shape)
{
	return shape == SHAPE_GO_HANDSHAKE || shape == SHAPE_GO_HANDSHAKE_WRAPPED;
}

INLINE u32 go_kind(int shape)
{
	return go_reads(shape) ? CALL_READS : go_shakes_hands(shape) ? CALL_OTHER : CALL_WRITES;
}

/* What a call writes is seen when it returns. By then the peer may have answered it, and another goroutine have
 * closed the connection: session and connection wait for it. */
INLINE void go_begin_write(struct tls_call *call, u64 id)
{
	struct session *s = session_of(call, id);
	struct connection *c;

	if (!s)
		return;
	__sync_fetch_and_add(&s->writing, 1);
	go_bind(call, s, id);
	c = bind(s, call, id);
	if (!c)
		return;
	call->sk = s->sk;
	call->connection = c->id;
	call->sent_before = c->position[DIRECTION_SENT];
}

INLINE void go_end_write(struct tls_call *call, struct session *s, u32 tgid)
{
	struct session_key key = {.ssl = call->ssl, .tgid = tgid};

	if (s->writing)
		__sync_fetch_and_add(&s->writing, -1);
	if (s->closing && !s->writing)
		sessions.delete(&key);
}

INLINE int go_close(struct pt_regs *ctx, u64 conn, u64 id)
{
	struct session_key key = {.ssl = conn, .tgid = id >> 32};
	struct session *s = sessions.lookup(&key);

	if (!s || !s->writing)
		return tls_free(ctx, conn);
	s->closing = 1;
	return 0;
}

INLINE int go_enter(struct pt_regs *ctx, int shape, u64 library)
{
	u64 id = bpf_get_current_pid_tgid();
	struct go_key key = {.goroutine = GO_GOROUTINE(ctx), .tgid = id >> 32};
	u64 conn = GO_FIRST(ctx);
	u32 tid = id;
	int fresh;

	if (!wanted(id))
		return 0;
	if (shape == SHAPE_GO_CLOSE)
		return go_close(ctx, conn, id);
	if (shape >= SHAPE_GO_READ_WRAPPED && READ_USER(conn, conn))
		return 0;
	struct tls_call call = {
		.ssl = conn, .buffer = GO_SECOND(ctx), .count = GO_THIRD(ctx),
		.entered = bpf_ktime_get_ns(), .library = library, .kind = go_kind(shape), .tid = tid,
		.stack = go_stack_used(ctx),
	};
	go_note_buffer(&call, ctx->sp);
	fresh = go_place(&key, &call);
	if (!fresh)
		return 0;
	count(COUNTER_PROBE_HITS, 1);
	if (fresh > 0 && call.kind == CALL_WRITES) {
		go_begin_write(&call, id);
		if (!key.depth)
			go_writers.update(&tid, &key);
	}
	if (fresh < 0 || go_calls.update(&key, &call)) {
		count(COUNTER_TABLE_FULL, 1);
		finish_uprobe(ctx, 1);	/* finds no job: see the head of tls.bpf.h */
	}
	return 0;
}

/* A read that was waiting when the recording began, as one does on each idle connection. Above the return address is
 * the room for its arguments, and capture/golang.py has proven that they are put there. 0: it is none. */
INLINE int go_older_call(struct pt_regs *ctx, struct tls_call *call, u64 id)
{
	u64 words[3] = {};

	if (!wanted(id) || bpf_probe_read_user(words, sizeof(words), (void *)(ctx->sp + 8)))
		return 0;
	call->ssl = words[0];
	call->buffer = words[1];
	call->count = words[2];
	call->entered = bpf_ktime_get_ns();
	/* The only witness that it is a tls.Conn. */
	go_find_socket(call, id >> 32);
	return call->connection != 0;
}

INLINE int go_results(struct pt_regs *ctx, int shape, u64 library)
{
	u64 id = bpf_get_current_pid_tgid();
	struct go_key key = {.goroutine = GO_GOROUTINE(ctx), .tgid = id >> 32};
	struct tls_call *found = go_returning(&key, go_stack_used(ctx)), *around, call = {.library = library};
	struct connection *c;
	struct session *s;
	s64 n = GO_FIRST(ctx);
	int ready = 0;

	if (found) {
		call = *found;
		go_find_buffer(&call, ctx->sp);
		go_calls.delete(&key);
	} else if (shape != SHAPE_GO_READ_SPILLED || n <= 0 || !go_older_call(ctx, &call, id)) {
		return 0;
	}
	if (!recording())
		return 0;
	s = session_of(&call, id);
	if (!s)
		return 0;
	go_bind(&call, s, id);
	if (!call.connection && !s->connection)
		go_find_call(&call, &key);
	around = go_around(key);
	if (go_shakes_hands(shape)) {
		c = bind(s, &call, id);
		if (c && around && around->ssl == call.ssl)
			around->sent_before = c->position[DIRECTION_SENT];
		if (!n && !s->established) {
			s->established = 1;
			put_session_event(SAMPLE_HANDSHAKE, s, call.entered, id);
		}
	} else if (n > 0 && n <= call.count) {
		/* Also with an error: the bytes are the caller's. */
		if (around && around->ssl == call.ssl)
			around = NULL;
		ready = tls_moved(&call, around, id, go_reads(shape) ? DIRECTION_RECEIVED : DIRECTION_SENT, n);
	}
	if (!go_reads(shape) && !go_shakes_hands(shape))
		go_end_write(&call, s, id >> 32);
	return ready;
}

int go_enter_by_cookie(struct pt_regs *ctx)
{
	u64 cookie = bpf_get_attach_cookie(ctx);
	go_enter(ctx, cookie & 0xff, cookie >> 8);
	return NO_RETURN;
}

int go_return_by_cookie(struct pt_regs *ctx)
{
	u64 cookie = bpf_get_attach_cookie(ctx);
	return finish_uprobe(ctx, go_results(ctx, cookie & 0xff, cookie >> 8));
}
