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

/* 1: what a library's write in flight has sent is set up for the copying program. */
INLINE int tls_left(u64 id, u32 depth)
{
	struct tls_call_key key = {.stack = (u32)id, .depth = depth};
	struct tls_call *call = tls_calls.lookup(&key);
	int ready = 0;

	if (!call)
		return 0;
	if (recording() && call->connection && was_sent(call))
		ready = tls_moved(call, tls_around(call, (u32)id), id, DIRECTION_SENT, call->count);
	tls_calls.delete(&key);
	return ready;
}

/* The same of the write that Go began on this thread. The connection's own count shows what it has sent since then, or
 * since the handshake in it, which a thread may end in too. */
INLINE int go_left(u64 id)
{
	u32 tid = id;
	struct go_key *found = go_writers.lookup(&tid), key;
	struct tls_call *call, *inside;
	struct connection *c;
	struct session *s;
	int ready = 0;

	if (!found)
		return 0;
	key = *found;
	go_writers.delete(&tid);
	call = go_calls.lookup(&key);
	if (!call || call->tid != tid || key.tgid != id >> 32 || call->kind != CALL_WRITES)
		return 0;
	s = recording() ? session_of(call, id) : NULL;
	if (s) {
		key.depth++;
		inside = go_calls.lookup(&key);
		key.depth--;
		c = connections.lookup(&call->sk);
		if (c && c->id == call->connection && !(inside && inside->ssl == call->ssl) &&
		    call->count && c->position[DIRECTION_SENT] - call->sent_before > call->count)
			ready = tls_moved(call, NULL, id, DIRECTION_SENT, call->count);
		go_end_write(call, s, id >> 32);
	}
	go_calls.delete(&key);
	return ready;
}

/* (task, …) */
int on_sched_process_exit(struct bpf_raw_tracepoint_args *ctx)
{
	u64 id = bpf_get_current_pid_tgid(), signal = 0;
	u32 tid = id, tgid = id >> 32;
	struct tls_call_key key = {.stack = tid};
	int live = 0, ready;

	forget_unwanted(id);
	syscalls.delete(&tid);
	pieces.delete(&tid);
	splits.delete(&tid);
	jobs.delete(&tid);
	forget_older_read(id);
	/* The inner one's bytes are what the outer one writes. */
	ready = tls_left(id, 1) || tls_left(id, 0) || go_left(id);
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
