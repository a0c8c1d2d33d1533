/* SPDX-License-Identifier: GPL-2.0-or-later
 * What TCP is about to be sent, whoever asked for it (Linux 6.16): tcp_sendmsg_locked shows the message before TCP takes
 * from it. Under the socket's lock, so in TCP's order.
 */
#if MESSAGES
/* enum iter_type, since Linux 6.6 */
#define ITER_UBUF 0
#define ITER_IOVEC 1
#define ITER_BVEC 2
#define ITER_KVEC 3

/* A system call that moves more than a step: how much of it TCP has taken may be told of already (long_calls.bpf.h). Where
 * others' bytes may be between, it has to wait for its end. */
INLINE int step_of(struct syscall *call, u64 left)
{
	u64 sk = call->sk;
	struct connection *c;

	/* A message of another's making (kTLS) may be longer than the first. */
	call->moved = left < call->most ? call->most - left : 0;
	if (call->moved < STEP_BYTES || call->below || call->blocks || call->memory || call->splits ||
	    (call->flags & (NOT_IN_USER_SPACE | MSG_ZEROCOPY)))
		return 0;
	c = connections.lookup(&sk);
	return c && c->id == call->id && !overlaps(call, c);
}

/* What is about to be sent. 1: a step of the call that does is ready to be told of. */
INLINE int sends(u64 id, u64 sk, u64 message)
{
	u64 iter = message + OFFSET_msghdr_msg_iter;
	u32 tid = id, flags = 0;
	struct syscall *known, call = {.sk = sk, .direction = DIRECTION_SENT, .below = 1};
	u64 skip = 0, blocks = 0, left = 0;
	struct connection *c;
	u32 sequence = 0;
	u8 type = 0;

	known = syscalls.lookup(&tid);
	/* A BPF program (sockmap) hands on what a system call sends on another socket: it is told of as that one's. */
	if (known && !known->below && known->sk != sk) {
		c = connections.lookup(&sk);
		if (c)
			c->diverted = 1;
		return 0;
	}
	READ_KERNEL(left, iter + OFFSET_iov_iter_count);
	READ_KERNEL(sequence, sk + OFFSET_tcp_sock_write_seq);
	if (known && known->sk == sk && known->direction == DIRECTION_SENT) {
		if (!known->sequenced)
			known->most = left;
		in_sequence(known, tid, sequence, known->most - left);
		return step_of(known, left);
	}
	call.entered = bpf_ktime_get_ns();
	READ_KERNEL(type, iter + OFFSET_iov_iter_iter_type);
	READ_KERNEL(skip, iter + OFFSET_iov_iter_iov_offset);
	READ_KERNEL(call.buffer, iter + OFFSET_iov_iter___iov);
	call.most = left;
	READ_KERNEL(blocks, iter + OFFSET_iov_iter_nr_segs);
	if (type == ITER_UBUF) {
		call.buffer += skip;
	} else {
		call.blocks = blocks;
		call.skip = skip;
	}
	call.memory = type == ITER_IOVEC ? MEMORY_USER_COPIED : type == ITER_BVEC ? MEMORY_PAGES :
		type == ITER_KVEC ? MEMORY_KERNEL : MEMORY_USER;
	READ_KERNEL(flags, message + OFFSET_msghdr_msg_flags);
	call.flags = flags & MSG_ZEROCOPY;
	if (type > ITER_KVEC || has_upper_layer(sk))
		call.flags |= NOT_IN_USER_SPACE;
	/* A kernel thread makes no system call: no count would end it. */
	if (!is_kernel_thread())
		begin_below(&call, sk, id);
	in_sequence(&call, tid, sequence, 0);
	if (syscalls.update(&tid, &call)) {
		count(COUNTER_TABLE_FULL, 1);
		comes_to_nothing(&call, tid);
	}
	return 0;
}

/* (sk, msghdr, …), for every packet that TCP fills. */
int on_tcp_sendmsg_locked(struct bpf_raw_tracepoint_args *ctx)
{
	return go_on_if_wanted(ctx, WANTED_on_tcp_sendmsg_locked);
}

int wanted_on_tcp_sendmsg_locked(struct bpf_raw_tracepoint_args *ctx)
{
	u64 id = bpf_get_current_pid_tgid();

	if (wanted(id) && sends(id, ctx->args[0], ctx->args[1]))
		move_below.call(ctx, 0);
	return 0;
}
#endif
