/* SPDX-License-Identifier: GPL-2.0-or-later
 * Streams of AF_UNIX that move below the system calls, whose packets go from the sender straight into the receiver's
 * queue. Sending: sk_data_ready comes when a packet was put there, on the sender's thread and before the receiver is
 * woken. Receiving: skb_copy_datagram_iovec shows a packet before it is copied, as of TCP; consume_skb comes when all
 * of it was received, before it is given back; the rest of a call is what was received of a packet that stays.
 *
 * Neither is under a lock that keeps the other end off, but for consume_skb: what was read is believed if the packet is
 * in its place afterwards (is_gone).
 */
#if BELOW && RECORD_UNIX
/* A connect() that has no tracepoint here (32-bit, io_uring): what the listener got is the server's end. */
INLINE void connects(u64 listener, u64 id)
{
	struct sock_reference s = {.family = AF_UNIX, .untold = 1};
	u64 skb = 0, server = 0;
	struct connection *c;

	READ_KERNEL(skb, QUEUE_TAIL(listener));
	if (skb == QUEUE_HEAD(listener) || !wanted(id))
		return;
	READ_KERNEL(server, skb + OFFSET_sk_buff_sk);
	READ_KERNEL(s.sk, server + OFFSET_unix_sock_peer);
	if (!s.sk || !unix_sock_of(s.sk, AF_UNIX) || !(s.inode = inode_of(s.sk)))
		return;
	c = connection_of(&s, id >> 32, NO_FD);
	if (c && !c->opened) {
		c->opened = bpf_ktime_get_ns();
		c->role = ROLE_CLIENT;
	}
}

/* (sk) that has received. Of TCP that is on any thread. */
int on_sk_data_ready(struct bpf_raw_tracepoint_args *ctx)
{
	u64 sk = ctx->args[0], id = bpf_get_current_pid_tgid(), sender = 0, receiver = 0, in_pages = 0;
	u32 tid = id, length = 0, data_length = 0;
	struct syscall *call;
	u16 family = 0;

	READ_KERNEL(family, sk + OFFSET_sock_common_skc_family);
	if (family != AF_UNIX)
		return 0;
	end_in_unwanted_call();
	if (!recording())
		return 0;
	call = syscalls.lookup(&tid);
	if (call && !call->below)
		return 0;
	READ_KERNEL(sender, sk + OFFSET_unix_sock_peer);
	/* A listener has none. */
	if (!sender)
		connects(sk, id);
	if (!sender || !unix_sock_of(sender, family))
		return 0;
	READ_KERNEL(receiver, sender + OFFSET_unix_sock_peer);
	if (receiver != sk)
		return 0;
	if (!call || call->sk != sender || call->direction != DIRECTION_SENT)
		call = surprise(sender, tid, DIRECTION_SENT);
	if (!call || call->taken)
		return 0;
	call->unsequenced = 1;
	READ_KERNEL(call->skb, QUEUE_TAIL(sk));
	if (call->skb == QUEUE_HEAD(sk)) {
		call->taken = 1;
		return 0;
	}
	READ_KERNEL(length, call->skb + OFFSET_sk_buff_len);
	READ_KERNEL(data_length, call->skb + OFFSET_sk_buff_data_len);
	call->queue = QUEUE_TAIL(sk);
	call->sequence = call->reported = 0;
	call->moved = call->most = length;
	call->flags &= UNCHECKED;
	if (!from_packet(call, tid))
		call->flags |= NOT_IN_USER_SPACE;
	/* The receiver may have given it back while it was looked at: how long it was is known when the call ends. */
	if (is_gone(call->queue, call->skb)) {
		call->taken = 1;
		return 0;
	}
	/* What is copied has a beginning outside of pages. */
	if (length == data_length)
		call->flags |= MSG_ZEROCOPY;
	move_below.call(ctx, !!(call->flags & UNCHECKED));
	return 0;
}

/* A packet that no call was seen to copy, as a splice by io_uring or of 32 bits takes it. 1: it is ready. */
INLINE int unseen_packet(u64 skb, u32 tid)
{
	u64 sender = 0, sk, *receiver;
	u32 length = 0, received = 0;
	struct connection *c;
	struct syscall *call;

	READ_KERNEL(sender, skb + OFFSET_sk_buff_sk);
	if (!sender || !recording() || !(receiver = unix_receivers.lookup(&sender)))
		return 0;
	sk = *receiver;
	c = connections.lookup(&sk);
	READ_KERNEL(length, skb + OFFSET_sk_buff_len);
	READ_KERNEL(received, skb + OFFSET_sk_buff_cb + OFFSET_unix_skb_parms_consumed);
	/* Of what was sent out of band, nothing may have been. */
	if (!c || !is_unix(c->family) || received != length)
		return 0;
	received = c->unix_skb == skb ? c->unix_seen : 0;
	if (received >= length || !(call = surprise(sk, tid, DIRECTION_RECEIVED)))
		return 0;
	call->unsequenced = 1;
	call->skb = skb;
	call->sequence = received;
	call->moved = call->most = call->reported = length - received;
	if (from_packet(call, tid))
		call->flags = UNCHECKED;
	call->skb = 0;
	return 1;
}

/* (skb, …): all of it was received. */
int on_consume_skb(struct bpf_raw_tracepoint_args *ctx)
{
	u64 skb = ctx->args[0], id = bpf_get_current_pid_tgid();
	u32 tid = id;
	struct syscall *call;

	end_in_unwanted_call();
	call = syscalls.lookup(&tid);
	if (!call) {
		if (unseen_packet(skb, tid))
			move_below.call(ctx, 1);
		return 0;
	}
	if (call->skb != skb || !call->below || !call->unsequenced || call->direction != DIRECTION_RECEIVED)
		return 0;
	call->moved = call->most;
	call->flags = from_packet(call, tid) ? 0 : NOT_IN_USER_SPACE;
	call->queue = call->skb = 0;
	move_below.call(ctx, 0);
	return 0;
}
#endif
