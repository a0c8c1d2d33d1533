/* SPDX-License-Identifier: GPL-2.0-or-later
 * Calls that write more than the ring has room for: a request's body in one piece. Told of when they return, most of
 * it would be lost; so they are told of a step at a time while they go on, and user space empties the ring meanwhile.
 *
 * A TLS function makes a record of the next 16 KiB at most, and writes it (a system call, or BIO_write) before it
 * makes another. A record is longer than what it protects, but by less than a sixteenth: so what was written tells
 * how much plaintext has gone at least. A call that would block is repeated with the same bytes: hence it is the
 * session that remembers how many were told of.
 */
/* As many bytes of records have a step's plaintext in them. */
#define STEP_RECORD_BYTES (STEP_BYTES + STEP_BYTES / 16)

INLINE int tls_moved(struct tls_call *call, struct tls_call *around, u64 id, u32 direction, u64 n);

/* A TLS function's call that is long, where its bytes are in one block. */
INLINE int is_long(struct tls_call *call)
{
	return call->kind == CALL_WRITES && call->count >= LONG_CALL_BYTES && !call->blocks;
}

/* The call has moved n bytes: how many of them were not told of. Its buffer then begins with those. */
INLINE u64 left_to_tell(struct session *s, struct tls_call *call, u64 n)
{
	u64 told = s->told < n ? s->told : n;

	s->told -= told;
	s->written = 0;
	call->buffer += told;
	return n - told;
}

/* The long call that this stack is in has written another record. */
INLINE int tell_step(u64 id, u64 stack)
{
	struct tls_call *call = innermost_call(stack), step;
	struct session *s;

	if (!call || !is_long(call) || !recording())
		return 0;
	s = session_of(call, id);
	if (!s)
		return 0;
	s->written += call->last;
	if (s->written < STEP_RECORD_BYTES || s->told + STEP_BYTES > call->count)
		return 0;
	s->written -= STEP_RECORD_BYTES;
	step = *call;
	step.buffer += s->told;
	step.count = STEP_BYTES;
	s->told += STEP_BYTES;
	return tls_moved(&step, tls_around(call, stack), id, DIRECTION_SENT, STEP_BYTES);
}

int tell_step_from_tracepoint(void *ctx)
{
	u64 id = bpf_get_current_pid_tgid();

	if (tell_step(id, callers_stack(id)))
		emit_from_tracepoint.call(ctx, COPY_JOB);
	return 0;
}

int tell_step_from_uprobe(struct pt_regs *ctx)
{
	u64 id = bpf_get_current_pid_tgid();

	return finish_uprobe(ctx, tell_step(id, stack_name(id, STACK_AT_ENTRY(ctx))));
}
