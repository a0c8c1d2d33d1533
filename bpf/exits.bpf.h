/* SPDX-License-Identifier: GPL-2.0-or-later
 * A thread ends, maybe inside a call: by exit() in another thread, or killed. A write whose record was sent may have
 * been answered by then, and its program done; it never returns, and is told of here. Since Linux 6.16 that is before
 * the thread's memory goes; earlier, its bytes are a gap of that length.
 */

/* Whether all of a library's write was sent: the last system call in it was one record, of what is left of the whole
 * ones. 0 for memory BIOs, which send nothing. */
INLINE int was_sent(struct tls_call *call)
{
	u64 tail = ((call->count - 1) & (MAX_RECORD_PLAINTEXT - 1)) + 1;

	return call->kind == CALL_WRITES && call->count && call->sent > call->count && protects(call->last - 5, tail);
}

/* A library's write in flight that was sent. */
INLINE struct tls_call *tls_left(u64 id, u32 depth)
{
	struct tls_call_key key = {.stack = (u32)id, .depth = depth};
	struct tls_call *call = tls_calls.lookup(&key);

	return call && recording() && call->connection && was_sent(call) ? call : NULL;
}

/* The write that Go began on this thread, and its key. */
INLINE struct tls_call *go_left(u64 id, struct go_key *key)
{
	u32 tid = id;
	struct go_key *found = go_writers.lookup(&tid);
	struct tls_call *call;

	if (!found)
		return NULL;
	*key = *found;
	go_writers.delete(&tid);
	call = go_calls.lookup(key);
	if (!call || call->tid != tid || key->tgid != id >> 32 || call->kind != CALL_WRITES)
		return NULL;
	go_find_buffer(call, go_stack_end(key->goroutine) - call->stack);
	return call;
}

/* The connection's own count shows what Go has sent since then, or since the handshake in it, which a thread may end in
 * too. */
INLINE int go_was_sent(struct tls_call *call, struct go_key *key)
{
	struct tls_call *inside;
	struct connection *c;

	key->depth++;
	inside = go_calls.lookup(key);
	key->depth--;
	c = connections.lookup(&call->sk);
	return c && c->id == call->connection && !(inside && inside->ssl == call->ssl) && call->count &&
		c->position[DIRECTION_SENT] - call->sent_before > call->count;
}

/* (task, …) */
int on_sched_process_exit(struct bpf_raw_tracepoint_args *ctx)
{
	u64 id = bpf_get_current_pid_tgid(), signal = 0;
	u32 tid = id, tgid = id >> 32;
	struct tls_call_key key = {.stack = tid};
	struct tls_call *call, *around = NULL, *go = NULL;
	struct session *s = NULL;
	struct go_key go_key;
	int live = 0, ready = 0;

	forget_unwanted(bpf_get_current_task());
	syscalls.delete(&tid);
	pieces.delete(&tid);
	splits.delete(&tid);
	jobs.delete(&tid);
	forget_older_read(id);
	/* The inner one's bytes are what the outer one writes. */
	call = tls_left(id, 1) ?: tls_left(id, 0);
	if (call) {
		around = tls_around(call, tid);
	} else {
		go = go_left(id, &go_key);
		s = go && recording() ? session_of(go, id) : NULL;
		if (s && go_was_sent(go, &go_key))
			call = go;
	}
	if (call)
		ready = tls_moved(call, around, id, DIRECTION_SENT, call->count);
	if (s)
		go_end_write(go, s, tgid);
	if (go)
		go_calls.delete(&go_key);
	tls_calls.delete(&key);
	key.depth = 1;
	tls_calls.delete(&key);
	/* The leader may go before the others, and one of them take over its number by exec(). */
	READ_KERNEL(signal, bpf_get_current_task() + OFFSET_task_struct_signal);
	READ_KERNEL(live, signal + OFFSET_signal_struct_live);
	if (!live)
		chosen_pids.delete(&tgid);
	if (ready)
		emit_from_raw_tracepoint.call(ctx, 0);
	return 0;
}
