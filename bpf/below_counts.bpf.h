/* SPDX-License-Identifier: GPL-2.0-or-later
 * The socket layer's own count of what was sent and received, which is the ledger's independent one, and the end of
 * transfers that no hooked call covers: what the programs of below_messages, below_packets and unix_below have prepared.
 */
#if BELOW
INLINE int was_unseen(u64 sk, u64 n)
{
	struct connection *c = connections.lookup(&sk);
	int was = c && c->silent >= n;

	if (c)
		c->silent = 0;
	return was;
}

/* A transfer of TCP's that none of its programs has prepared, though it moved bytes: it went with the SYN (MSG_FASTOPEN), was
 * discarded, or a BPF program handed it on (sockmap). If it had only begun before the recording, it moved nothing since. */
INLINE int is_unshown(u64 sk, s64 n, u8 direction, u32 flags)
{
	struct connection *c;

	if (direction == DIRECTION_SENT) {
		c = connections.lookup(&sk);
		if (!MESSAGES || (c && c->opened))
			return 1;
	} else if (flags & MSG_TRUNC) {
		return !was_unseen(sk, n);
	}
	return is_in_socket_map(sk);
}

/* A transfer of a connection that is older than the recording may be older too: how much of its n bytes it moved since. */
INLINE s64 moved_since(struct syscall *call, u64 sk, s64 n)
{
	struct connection *c = connections.lookup(&sk);
	u32 sequence = 0;
	s64 since;

	if ((c && c->opened) || call->taken || (call->flags & NOT_IN_USER_SPACE))
		return n;
	if (call->unsequenced || call->direction == DIRECTION_RECEIVED) {
		/* Of AF_UNIX, what stays of a packet is told of now. */
		since = call->told + (call->skb && call->direction == DIRECTION_RECEIVED ? call->most : 0);
		return since && since < n && (!c || c->position[call->direction & 1] == call->told) ? since : n;
	}
	READ_KERNEL(sequence, sk + OFFSET_tcp_sock_write_seq);
	sequence -= call->sequence;
	if (n > call->most)
		n = call->most;
	return n < sequence ? n : sequence;
}

/* A transfer of n bytes has ended. What is to be told of it, if no hooked call does that. Of AF_UNIX and MPTCP nothing shows a
 * transfer before its end. */
INLINE struct syscall *transferred(u64 sk, u32 tid, s64 n, u8 direction, u32 flags)
{
	struct syscall *call = syscalls.lookup(&tid);
	u16 protocol = 0, family = 0;

	/* A BPF program handed this on (sockmap), and what TCP showed was another socket's. */
	if (call && call->below && call->sk != sk) {
		comes_to_nothing(call, tid);
		syscalls.delete(&tid);
		call = NULL;
	}
	if (call && call->sk != sk)
		return NULL;
	if (call && !call->below) {
		if (n > 0) {
			n -= call->ahead;
			call->reported += n;
			count(COUNTER_REPORTED_SENT + direction, n);
		}
		return NULL;
	}
	if (call && n > 0)
		n = moved_since(call, sk, n);
	if (n <= 0) {
		if (call) {
			comes_to_nothing(call, tid);
			syscalls.delete(&tid);
		}
		return NULL;
	}
	if (!call) {
		READ_KERNEL(protocol, sk + OFFSET_sock_sk_protocol);
		READ_KERNEL(family, sk + OFFSET_sock_common_skc_family);
		if (unix_sock_of(sk, family) || protocol == IPPROTO_MPTCP ||
		    (protocol == IPPROTO_TCP && is_unshown(sk, n, direction, flags)))
			call = surprise(sk, tid, direction);
	}
	if (call) {
		/* Of AF_UNIX, a packet that another thread sent may have been taken for this one's. */
		call->moved = n > call->told ? n - call->told : 0;
		call->reported = n;
	}
	return call;
}

/* (sk, result, flags), once a message. */
int on_sock_send_length(struct bpf_raw_tracepoint_args *ctx)
{
	return go_on_if_wanted(ctx, WANTED_on_sock_send_length);
}

int wanted_on_sock_send_length(struct bpf_raw_tracepoint_args *ctx)
{
	u64 sk = ctx->args[0], id = bpf_get_current_pid_tgid();
	s64 n = (int)ctx->args[1];
	struct syscall *call;

	if (!recording())
		return 0;
	call = transferred(sk, id, n, DIRECTION_SENT, 0);
	if (!call)
		return 0;
	if (call->reported > call->most || call->unsequenced)
		call->flags |= NOT_IN_USER_SPACE;
	move_below.call(ctx, !!(call->flags & UNCHECKED));
	return 0;
}

/* (sk, result, flags), once a message. */
int on_sock_recv_length(struct bpf_raw_tracepoint_args *ctx)
{
	return go_on_if_wanted(ctx, WANTED_on_sock_recv_length);
}

int wanted_on_sock_recv_length(struct bpf_raw_tracepoint_args *ctx)
{
	u64 sk = ctx->args[0], id = bpf_get_current_pid_tgid();
	s64 n = (int)ctx->args[1];
	u32 flags = ctx->args[2];
	struct syscall *call;

	if (!recording())
		return 0;
	if (n <= 0 || (flags & (MSG_PEEK | MSG_OOB | MSG_ERRQUEUE)))
		n = 0;
	call = transferred(sk, id, n, DIRECTION_RECEIVED, flags);
	if (!call)
		return 0;
	if (!(call->flags & UNCHECKED)) {
		call->flags |= NOT_IN_USER_SPACE;
		if (RECORD_UNIX && call->unsequenced)
			begun_packet(call, id, sk);
	}
	move_below.call(ctx, !!(call->flags & UNCHECKED));
	return 0;
}

/* What the programs above have made ready: `moved` bytes; with `reported` the transfer has ended. Of a system call it is a
 * step, and the call goes on behind it. */
INLINE int below_moved(void)
{
	u64 id = bpf_get_current_pid_tgid(), n, reported;
	u32 tid = id, d;
	struct syscall *call = syscalls.lookup(&tid);
	struct sock_reference s = {};
	struct connection *c;
	int ready = 0;

	if (!call || !recording())
		return 0;
	n = call->moved;
	reported = call->reported;
	d = call->direction & 1;
	s.sk = call->sk;
	if (is_kernel_thread() || !stream_sock_of(s.sk, &s))
		goto out;
	if (reported)
		count(COUNTER_REPORTED_SENT + d, reported);
	if (!n)
		goto out;
	call->told += n;
	s.inode = inode_of(s.sk);
	c = connection_of(&s, id >> 32, NO_FD);
	if (c) {
		if (d == DIRECTION_RECEIVED) {
			note_copied(c, s.sk);
			if (RECORD_UNIX && call->unsequenced) {
				c->unix_skb = call->skb;
				c->unix_seen = call->sequence + call->most;
			}
			/* Told under the socket's lock: others may be told later of what they received before. */
			if (!s.untold && c->in_flight[1]) {
				call->sequenced = call->overlapped = 1;
				__sync_fetch_and_add(&c->overlaps[1], 1);
			}
		} else if (!call->below) {
			count(COUNTER_REPORTED_SENT, n);
		}
		ready = moved(call, c, n, id);
		if (call->below) {
			/* Looked up anew: what is kept until here the verifier follows through moved(). */
			ends_on_its_connection(call);
		} else {
			call->ahead += n;
			call->buffer += n;
			call->most -= n;
			call->sequence += n;
		}
	} else
		count(COUNTER_LOST_TABLE_FULL, n);
out:
	if (!ready)
		drop_notes(call, tid);
	if (reported)
		syscalls.delete(&tid);
	return ready;
}

int check_below_program(struct bpf_raw_tracepoint_args *ctx)
{
	u32 tid = bpf_get_current_pid_tgid();

	if (wanted(bpf_get_current_pid_tgid()))
		move_below.call(ctx, 0);
	else
		syscalls.delete(&tid);
	return 0;
}

int move_below_program(struct bpf_raw_tracepoint_args *ctx)
{
	if (below_moved())
		emit_from_raw_tracepoint.call(ctx, 0);
	return 0;
}
#endif
