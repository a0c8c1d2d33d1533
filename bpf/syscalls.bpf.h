/* SPDX-License-Identifier: GPL-2.0-or-later
 * Tracepoints of system calls. Entry resolves the descriptor, so that a close() by another thread cannot
 * confuse the exit; exit knows how many bytes moved and finds their pages resident.
 */
/* The number is an int: what follows it is whatever the stack held. */
struct enter_arguments {
	u64 common;
	u32 number;
	u32 pad;
	u64 args[6];
};
struct exit_arguments {
	u64 common;
	u32 number;
	u32 pad;
	long result;
};

/* What is received with MSG_OOB is not part of the stream; what is sent with it is. */
INLINE int is_urgent(struct syscall *call)
{
	return (call->flags & MSG_OOB) && call->direction == DIRECTION_RECEIVED;
}

/* Each packet is seen as it is discarded (below_packets.bpf.h), if no other thread receives meanwhile. */
INLINE int shows_discarded(struct connection *c, u64 sk, u32 flags)
{
	return BELOW && c->copied_known && !c->untold && !c->in_flight[1] && !(flags & MSG_OOB) &&
		!has_upper_layer(sk);
}

/* A socket that has no stream, or none that is recorded. */
INLINE void without_stream(struct sock_reference *s, u64 buffer, u32 blocks, u8 direction, u64 id)
{
	if (s->datagrams)
		note_datagrams(id);
	if ((s->datagrams || s->family == AF_UNIX) && direction == DIRECTION_SENT)
		look_at_unrecorded(s, buffer, blocks, id);
}

INLINE void io_enter(u32 fd, u64 buffer, u32 blocks, u8 direction, u32 flags)
{
	u64 id = bpf_get_current_pid_tgid();
	u32 tid = id, tgid = id >> 32;
	struct sock_reference s = {};
	struct connection *c;
	u64 file = file_of(fd);

	c = held_connection(tgid, fd, file, &s.sk);
	if (!c) {
		if (!socket_of(file, &s)) {
			without_stream(&s, buffer, blocks, direction, id);
			return;
		}
		c = connection_of(&s, tgid, fd);
		if (!c)
			return;
		hold(tgid, fd, file, s.sk, c->id);
	}
	if (flags & MSG_TRUNC && shows_discarded(c, s.sk, flags))
		return;
	struct syscall call = {
		.sk = s.sk, .id = c->id, .entered = bpf_ktime_get_ns(), .buffer = buffer, .blocks = blocks,
		.direction = direction, .flags = is_unix(c->family) ? flags & ~MSG_TRUNC : flags, .unsequenced = c->untold,
	};
	call_begins(&call, c);
	if (flags & INTO_PIPE)
		into_pipe(&call, file_of(buffer));
	if (syscalls.update(&tid, &call)) {
		count(COUNTER_TABLE_FULL, 1);
		comes_to_nothing(&call, tid);
	}
}

INLINE int io_exit(long result)
{
	u64 id = bpf_get_current_pid_tgid(), sk;
	u32 tid = id;
	struct syscall *call;
	struct connection *c;
	int ready = 0, step = 0, keyed = 0;

	call = syscalls.lookup(&tid);
	/* After the end the entry stays: user space takes back what was counted of it. */
	if (!call || call->below || !recording())
		return 0;
	sk = call->sk;
	c = connections.lookup(&sk);
	if (c && c->id != call->id)
		c = NULL;
	if (!c) {
		/* The connection's entry has gone, or is another's: what the socket layer counted is nobody's. */
		count(COUNTER_LOST_TABLE_FULL, call->reported);
	} else if (result > 0 && !(call->flags & (MSG_PEEK | MSG_ERRQUEUE))) {
		if (is_urgent(call)) {
			c->urgent += result;
		} else {
			if (call->memory == MEMORY_PIPE)
				from_pipe(call, tid);
			/* Where the socket layer does not count, or not this: of a splice it does from Multipath TCP alone. */
			if (!BELOW || (call->memory && !call->reported))
				count(COUNTER_REPORTED_SENT + (call->direction & 1), result);
			if (call->direction == DIRECTION_RECEIVED)
				note_copied(c, sk);
			ready = result > call->ahead && moved(call, c, result - call->ahead, id);
			step = !ready && call->in_long_call;
			keyed = may_have_keys(c, sk, id >> 32);
		}
	}
	if (c) {
		call_ended(call, c);
		if (!result && call->direction == DIRECTION_RECEIVED && c->untold)
			note_end(c, sk);
	}
	if (!ready)
		drop_notes(call, tid);
	/* exit_keyed still needs it. */
	if (keyed)
		return READY_KEYED;
	syscalls.delete(&tid);
	return step ? READY_STEP : ready;
}

/* At the exit of every call that moves bytes. */
int exit_io(struct exit_arguments *ctx)
{
	end_unwanted_call();
	wanted_tracepoint.call(ctx, WANTED_exit_io);
	return 0;
}

int wanted_exit_io(struct exit_arguments *ctx)
{
	return finish_tracepoint(ctx, io_exit(ctx->result));
}

/* What is left to do of a call on a connection that may be one of keys. */
int exit_keyed(struct exit_arguments *ctx)
{
	u64 id = bpf_get_current_pid_tgid(), sk;
	u32 tid = id;
	struct syscall *call = syscalls.lookup(&tid);
	struct connection *c;

	if (call) {
		sk = call->sk;
		c = connections.lookup(&sk);
		if (c && c->id == call->id)
			note_passing(call, c, ctx->result, id);
		syscalls.delete(&tid);
	}
	return finish_tracepoint(ctx, 1);
}

/* (fd, struct user_msghdr *, flags): the iovec array at 16, its count at 24. */
INLINE void message_enter(u32 fd, u64 message, u8 direction, u32 flags)
{
	u64 vector[2] = {};

	if (!bpf_probe_read_user(vector, sizeof(vector), (void *)(message + 16)) && vector[1])
		io_enter(fd, vector[0], vector[1], direction, flags);
}

/* (fd, struct mmsghdr *, …), which begins with the first message's user_msghdr. Of a stream it is seen below. */
INLINE void messages_enter(u32 fd, u64 messages, u8 direction)
{
	struct sock_reference s = {};
	u64 vector[2] = {};

	if (!socket_of(file_of(fd), &s) && !bpf_probe_read_user(vector, sizeof(vector), (void *)(messages + 16)))
		without_stream(&s, vector[0], vector[1], direction, bpf_get_current_pid_tgid());
}

/* At the entry of every call that moves bytes: one program, for each costs 0.1 s to compile. NR_* are the
 * architecture's, from system_calls.py. */
int enter_io(struct enter_arguments *ctx)
{
	end_if_unwanted_before();
	wanted_tracepoint.call(ctx, WANTED_enter_io);
	return 0;
}

int wanted_enter_io(struct enter_arguments *ctx)
{
	u64 fd = ctx->args[0], second = ctx->args[1], third = ctx->args[2];
	u32 blocks = 0, flags = 0;
	u8 direction = DIRECTION_SENT;

	if (!wanted_at_entry())
		return 0;
	/* Read before they are chosen between: the verifier wants no computed offset into the context. */
	asm volatile("" : "+r"(second), "+r"(third));
	switch (ctx->number) {
	case NR_recvmsg:
		message_enter(fd, second, DIRECTION_RECEIVED, third & PROGRAM_FLAGS);
		return 0;
	case NR_sendmsg:
		message_enter(fd, second, DIRECTION_SENT, third & PROGRAM_FLAGS);
		return 0;
	case NR_recvmmsg:
		messages_enter(fd, second, DIRECTION_RECEIVED);
		return 0;
	case NR_sendmmsg:
		messages_enter(fd, second, DIRECTION_SENT);
		return 0;
	case NR_read:
		direction = DIRECTION_RECEIVED;
		break;
	case NR_readv:
		direction = DIRECTION_RECEIVED;
		blocks = third;
		break;
	case NR_writev:
		blocks = third;
		break;
	case NR_sendfile64:
		/* (out, in, …): the bytes never are in user space; their number is known at exit. */
		flags = NOT_IN_USER_SPACE;
		break;
	case NR_splice:
		/* (in, …, out, …): into a pipe if `in` is a socket; into a socket, TCP shows it (below_messages.bpf.h). */
		direction = DIRECTION_RECEIVED;
		second = third;
		flags = INTO_PIPE;
		break;
	}
	io_enter(fd, second, blocks, direction, flags);
	return 0;
}

/* The same for calls with flags as their fourth argument: the kernel refuses a program that could read more
 * arguments than its tracepoint has. */
int enter_io_flags(struct enter_arguments *ctx)
{
	end_if_unwanted_before();
	wanted_tracepoint.call(ctx, WANTED_enter_io_flags);
	return 0;
}

int wanted_enter_io_flags(struct enter_arguments *ctx)
{
	u8 direction = ctx->number == NR_recvfrom ? DIRECTION_RECEIVED : DIRECTION_SENT;

	if (!wanted_at_entry())
		return 0;
	io_enter(ctx->args[0], ctx->args[1], 0, direction, ctx->args[3] & PROGRAM_FLAGS);
	return 0;
}

int enter_connect(struct enter_arguments *ctx)
{
	u64 id = bpf_get_current_pid_tgid();
	struct sock_reference s = {};
	struct connection *c;

	if (!wanted(id) || !socket_of(file_of(ctx->args[0]), &s))
		return 0;
	c = connection_of(&s, id >> 32, ctx->args[0]);
	/* A second connect() asks how a non-blocking one went. */
	if (c && !c->opened) {
		c->opened = bpf_ktime_get_ns();
		c->role = ROLE_CLIENT;
	}
	return 0;
}

/* accept's address argument may be NULL: the socket knows better. */
int exit_accept(struct exit_arguments *ctx)
{
	u64 id = bpf_get_current_pid_tgid();
	struct sock_reference s = {};
	struct connection *c;

	if (ctx->result < 0 || !wanted(id) || !socket_of(file_of(ctx->result), &s))
		return 0;
	c = connection_of(&s, id >> 32, ctx->result);
	if (!c || c->opened)
		return 0;
	c->opened = c->established = bpf_ktime_get_ns();
	c->role = ROLE_SERVER;
	note_copied(c, s.sk);
	return 0;
}

/* The FIN of plain TCP is seen in its states, and there may be none: after a RST, shutdown() does nothing. */
int enter_shutdown(struct enter_arguments *ctx)
{
	struct sock_reference s = {};
	struct connection *c;

	if (!wanted(bpf_get_current_pid_tgid()) || !ctx->args[1] || !socket_of(file_of(ctx->args[0]), &s))
		return 0;
	c = connections.lookup(&s.sk);
	if (c && c->inode == s.inode && c->untold && !c->shut) {
		c->local_fin = bpf_ktime_get_ns();
		c->shut = 1;
	}
	return 0;
}

/* The process closes the socket of a session, and nobody will tell that its object is freed: what comes at that address
 * is another one's. If there is another descriptor of it, its next record tells whose it is. */
INLINE void forget_unfreed(struct connection *c, u64 id)
{
	struct session_key key = {.ssl = c->ssl, .tgid = c->ssl_tgid};
	struct session *s = lacks_session(c, id) ? NULL : sessions.lookup(&key);

	if (!s || !s->unfreed || !s->in_memory || s->writing || s->connection != c->id)
		return;
	put_session_event(SAMPLE_SESSION_END, s, 0, id);
	sessions.delete(&key);
	c->ssl = 0;
	c->ssl_tgid = 0;
}

int enter_close(struct enter_arguments *ctx)
{
	u64 id = bpf_get_current_pid_tgid();
	struct descriptor_key key = {.tgid = id >> 32, .fd = ctx->args[0]};
	struct descriptor *known = descriptors.lookup(&key);
	struct connection *c;
	u64 sk;

	if (!known)
		return 0;
	/* Its end, if this is the last that it is called. */
	sk = known->sk;
	c = connections.lookup(&sk);
	if (c && c->id == known->id && c->untold && !c->shut)
		c->local_fin = bpf_ktime_get_ns();
	if (c && c->id == known->id)
		forget_unfreed(c, id);
	descriptors.delete(&key);
	return 0;
}
