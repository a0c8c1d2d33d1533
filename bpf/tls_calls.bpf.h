/* SPDX-License-Identifier: GPL-2.0-or-later
 * Calls of TLS libraries in flight: which return belongs to which entry.
 *
 * Calls nest: within one object (SSL_connect calls SSL_do_handshake), where only the outermost of a kind counts, and
 * across objects (TLS in TLS), where each does. A return belongs to the entry with the same stack pointer. Where no
 * uretprobe can go, returns are probed on each RET, and the entry may be behind the function's first pushes.
 */
#if defined(__x86_64__)
#define STACK_AT_ENTRY(ctx) ((ctx)->sp)
#define STACK_AT_RETURN(ctx) ((ctx)->sp - 8)	/* the return address is gone */
/* By a site's cookie: at its return, or on its RET. */
#define STACK_AT_EXIT(ctx, cookie) ((cookie) >> 8 & ON_RET ? STACK_AT_ENTRY(ctx) : STACK_AT_RETURN(ctx))
#elif defined(__aarch64__)
#define STACK_AT_ENTRY(ctx) ((ctx)->sp)
#define STACK_AT_RETURN(ctx) ((ctx)->sp)
#define STACK_AT_EXIT(ctx, cookie) ((ctx)->sp)
#endif

/* Whether a call on `ssl`, at this depth of the stack, is a part of `outer`: the same bytes. A write inside a read is
 * none: Node calls back from within them, and what that writes is new. */
INLINE int is_part_of(struct tls_call *outer, u64 ssl, u64 stack, u32 kind)
{
	/* An outer call that is further down the stack than we are has been left by a longjmp. */
	return outer && outer->stack > stack && outer->ssl == ssl && (!kind || outer->kind == kind);
}

/* A call will not be seen to return: nobody knows how much it has moved, nor where what follows belongs. A handshake
 * moves nothing. */
INLINE void lose_return(struct tls_call *call, u64 id)
{
	struct session *s;

	if (call->kind == CALL_OTHER)
		return;
	count(COUNTER_UNSEEN_RETURNS, 1);
	s = session_of(call, id);
	if (s)
		s->unseen = 1;
}

/* The call that a thread was in when the recording began is over, if it still has an entry; and if its connection has
 * moved anything, that is what nobody saw. */
INLINE void forget_older_read(u64 id)
{
	u32 tid = id, d;
	struct older_read *older = older_reads.lookup(&tid);
	struct sock_reference s = {};
	struct connection *c = NULL;

	if (!older)
		return;
	d = older->direction & 1;
	if (recording() && older->tgid == id >> 32 && socket_of(file_of(older->fd), &s))
		c = connections.lookup(&s.sk);
	/* Its records' headers may be what was received unseen. */
	if (c && c->inode == s.inode && c->protocol <= PROTOCOL_TLS && c->position[d])
		count(COUNTER_UNSEEN_ENTRIES, 1);
	older_reads.delete(&tid);
}

/* A call of before the recording returns: which socket it has waited on, as the system call in it would have told. 0:
 * it is not of a process that is wanted. */
INLINE int know_older_call(struct tls_call *call, u64 id)
{
	struct sock_reference s = {};
	struct connection *c;
	u32 fd = call->older - 2;

	if (!wanted(id))
		return 0;
	if (call->older < 2 || call->connection || !socket_of(file_of(fd), &s))
		return 1;
	c = connection_of(&s, id >> 32, fd);
	if (c && c->protocol == PROTOCOL_UNDECIDED && !c->opened)
		c->protocol = PROTOCOL_TLS;
	if (c && c->protocol == PROTOCOL_TLS) {
		call->sk = s.sk;
		call->connection = c->id;
	}
	return 1;
}

/* On a switched stack: what tells a call from another that begins where it began. */
INLINE void note_origin(struct pt_regs *ctx, struct tls_call *call)
{
	u64 returns_to = 0;

	READ_USER(returns_to, call->stack);
	call->function = PT_REGS_IP(ctx);
	call->returns_to = returns_to;
}

/* One that began here on such a stack and is still kept has returned unseen: its process went on too early. Not so
 * where one function has jumped to another, as gnutls_record_send does: that returns to where the first would have. */
INLINE int was_left_behind(struct tls_call *kept, struct tls_call *call)
{
	return kept && kept->shape == call->shape && kept->stack == call->stack && kept->ssl == call->ssl &&
		(kept->function == call->function || kept->returns_to != call->returns_to);
}

/* A wanted process enters a function of a TLS library. 1: its return is to be seen. */
INLINE int tls_enter(struct pt_regs *ctx, struct tls_call *call)
{
	u64 id = bpf_get_current_pid_tgid();
	struct tls_call_key key = {};
	struct tls_call *outer;
	u32 tid = id;

	call->entered = bpf_ktime_get_ns();
	call->stack = STACK_AT_ENTRY(ctx) + (call->library >> PUSHED_SHIFT) * 8;
	key.stack = stack_name(id, call->stack);
	outer = tls_calls.lookup(&key);
	if (is_part_of(outer, call->ssl, call->stack, call->kind))
		return 0;
	if (outer && outer->stack > call->stack) {
		key.depth = 1;
		if (is_part_of(tls_calls.lookup(&key), call->ssl, call->stack, call->kind))
			return 0;
	} else if (!outer && names_window(key.stack)) {
		struct tls_call_key above = {.stack = key.stack + NEXT_WINDOW};
		if (is_part_of(tls_calls.lookup(&above), call->ssl, call->stack, call->kind))
			return 0;
	}
	if (names_window(key.stack)) {
		note_origin(ctx, call);
		if (call->kind && was_left_behind(outer, call))
			lose_return(outer, id);
	}
	count(COUNTER_PROBE_HITS, 1);
	forget_older_read(id);
	if (call->kind == CALL_READS)
		find_feed(call, tid);
	if (tls_calls.update(&key, call)) {
		count(COUNTER_TABLE_FULL, 1);
		finish_uprobe(ctx, 1);	/* finds no job: see the head of tls.bpf.h */
		return 0;
	}
	return 1;
}

/* The call that is returning, its return address at `stack`; its key is left in *key. */
INLINE struct tls_call *tls_returning(u64 id, u64 stack, struct tls_call_key *key)
{
	struct tls_call *call;

	key->stack = stack_name(id, stack);
	call = tls_calls.lookup(key);
	if (!call || call->stack == stack)
		return call;
	key->depth = 1;
	call = tls_calls.lookup(key);
	return call && call->stack == stack ? call : NULL;
}

/* The call of another object, on its stack, that this one is inside of. */
INLINE struct tls_call *tls_around(struct tls_call *call, u64 name)
{
	struct tls_call_key key = {.stack = name};
	struct tls_call *around = tls_calls.lookup(&key);

	return around && around->ssl != call->ssl && around->stack > call->stack ? around : NULL;
}

/* Whether a program that is run at a function's entry and at its return is at the former. */
INLINE int is_at_entry(struct pt_regs *ctx, u64 at)
{
	return at == bpf_get_func_ip(ctx);
}

/* Whether there is a probe where a call on a switched stack returns to, or will be before it does: then its process
 * is held. User space is told of a place that is new. */
INLINE int has_return_place(u64 id, u64 stack, int moves_bytes)
{
	struct return_place place = {};
	struct new_code_sample *r;
	u64 now = bpf_ktime_get_ns(), *known;
	u32 tgid = id >> 32;
	int held;

	READ_KERNEL(place.mm, bpf_get_current_task() + OFFSET_task_struct_mm);
	READ_USER(place.address, stack);
	known = return_places.lookup(&place);
	if (known && (u32)*known == tgid)
		return *known == tgid;
	r = new_code_ring.ringbuf_reserve(sizeof(*r));
	if (!r) {
		count(COUNTER_EVENTS_RING_FULL, 1);
		return 0;
	}
	__builtin_memset(r, 0, sizeof(*r));
	r->head.kind = SAMPLE_RETURN_PLACE;
	r->head.direction = moves_bytes;
	r->head.time = now;
	r->head.position = place.address;
	r->head.length = place.mm;
	r->head.tgid = tgid;
	r->head.tid = id;
	held = hold_process(tgid, now);
	r->head.reason = held;
	new_code_ring.ringbuf_submit(r, RINGBUF_FORCE_WAKEUP);
	return held;
}

/* At the entry of a call whose return is to be seen: whether the kernel is to show it. */
INLINE int shows_return(u64 id, u64 stack)
{
	struct tls_call *call;
	u32 yes = 1;
	int zero = 0;

	if (!is_switched(id, stack))
		return SHOW_RETURN;
	switched_stacks.update(&zero, &yes);
	call = innermost_call(stack_name(id, stack));
	if (!has_return_place(id, stack, call && call->kind != CALL_OTHER) && call)
		lose_return(call, id);
	return NO_RETURN;
}
