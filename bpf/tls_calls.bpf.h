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
#elif defined(__aarch64__)
#define STACK_AT_ENTRY(ctx) ((ctx)->sp)
#define STACK_AT_RETURN(ctx) ((ctx)->sp)
#endif

enum {
	CALL_OTHER,		/* a handshake */
	CALL_READS,
	CALL_WRITES,
};

/* Whether a call on `ssl`, at this depth of the stack, is a part of `outer`: the same bytes. A write inside a read is
 * none: Node calls back from within them, and what that writes is new. */
INLINE int is_part_of(struct tls_call *outer, u64 ssl, u64 stack, u32 kind)
{
	/* An outer call that is further down the stack than we are has been left by a longjmp. */
	return outer && outer->stack > stack && outer->ssl == ssl && (!kind || outer->kind == kind);
}

/* A wanted process enters a function of a TLS library. */
INLINE int tls_enter(struct pt_regs *ctx, struct tls_call *call)
{
	struct tls_call_key key = {.tid = bpf_get_current_pid_tgid()};
	struct tls_call *outer = tls_calls.lookup(&key);

	call->entered = bpf_ktime_get_ns();
	call->stack = STACK_AT_ENTRY(ctx) + (call->library >> PUSHED_SHIFT) * 8;
	if (is_part_of(outer, call->ssl, call->stack, call->kind))
		return 0;
	if (outer && outer->stack > call->stack) {
		key.depth = 1;
		if (is_part_of(tls_calls.lookup(&key), call->ssl, call->stack, call->kind))
			return 0;
	}
	count(COUNTER_PROBE_HITS, 1);
	if (older_reads.lookup(&key.tid))
		older_reads.delete(&key.tid);
	if (call->kind == CALL_READS)
		find_feed(call, key.tid);
	if (tls_calls.update(&key, call)) {
		count(COUNTER_TABLE_FULL, 1);
		finish_uprobe(ctx, 1);	/* finds no job: see the head of tls.bpf.h */
	}
	return 0;
}

/* The call that is returning, its return address at `stack`; its key is left in *key. */
INLINE struct tls_call *tls_returning(u64 stack, struct tls_call_key *key)
{
	struct tls_call *call;

	call = tls_calls.lookup(key);
	if (!call || call->stack == stack)
		return call;
	key->depth = 1;
	call = tls_calls.lookup(key);
	return call && call->stack == stack ? call : NULL;
}

/* The call of another object, on this thread, that this one is inside of. */
INLINE struct tls_call *tls_around(struct tls_call *call, u32 tid)
{
	struct tls_call_key key = {.tid = tid};
	struct tls_call *around = tls_calls.lookup(&key);

	return around && around->ssl != call->ssl && around->stack > call->stack ? around : NULL;
}
