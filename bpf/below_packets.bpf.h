/* SPDX-License-Identifier: GPL-2.0-or-later
 * What is received below the system calls: skb_copy_datagram_iovec shows a packet before it is copied,
 * tcp_rcv_space_adjust comes after it; what no packet showed, TCP's sequence tells the length of.
 */
#if BELOW
/* struct sk_buff_head: the first packet, the last. */
#define QUEUE_HEAD(sk) ((sk) + OFFSET_sock_sk_receive_queue)
#define QUEUE_TAIL(sk) ((sk) + OFFSET_sock_sk_receive_queue + 8)

/* The socket that a packet waits at; 0: it is none of a stream of AF_UNIX that is wanted. */
INLINE u64 unix_receiver(u64 skb, u64 sender)
{
	u64 receiver = 0, senders = 0;
	u16 family = 0;

	if (!RECORD_UNIX)
		return 0;
	READ_KERNEL(family, sender + OFFSET_sock_common_skc_family);
	if (!unix_sock_of(sender, family))
		return 0;
	READ_KERNEL(receiver, sender + OFFSET_unix_sock_peer);
	if (receiver)
		return receiver;
	/* The sender is closed. The first packet's neighbour is the queue itself. */
	READ_KERNEL(receiver, skb + OFFSET_sk_buff_prev);
	receiver -= OFFSET_sock_sk_receive_queue;
	READ_KERNEL(senders, receiver + OFFSET_unix_sock_peer);
	return senders == sender ? receiver : 0;
}

/* A system call that has an entry receives so many more bytes of a packet. What is then left of it may go unseen. */
INLINE void note_unix_copy(u64 sk, u64 skb, u32 n)
{
	struct connection *c = connections.lookup(&sk);
	u32 before = 0, length = 0;

	if (!c || !is_unix(c->family))
		return;
	READ_KERNEL(before, skb + OFFSET_sk_buff_cb + OFFSET_unix_skb_parms_consumed);
	READ_KERNEL(length, skb + OFFSET_sk_buff_len);
	c->unix_seen = before + n;
	/* Of one that is given back, the next may have the address. */
	c->unix_skb = c->unix_seen < length ? skb : 0;
}

/* A packet of which `length` bytes are about to be copied. */
INLINE void receives(u64 id, u64 skb, u32 length)
{
	u32 tid = id;
	struct syscall *known, fresh = {.direction = DIRECTION_RECEIVED, .below = 1};
	struct sock_reference s = {};
	u32 sequence = 0;
	u64 receiver;

	known = syscalls.lookup(&tid);
	if (known && !known->below) {
		if (RECORD_UNIX && known->direction == DIRECTION_RECEIVED && !(known->flags & MSG_PEEK))
			note_unix_copy(known->sk, skb, length);
		if (known->direction == DIRECTION_RECEIVED && !known->unsequenced && !(known->flags & MSG_PEEK)) {
			READ_KERNEL(sequence, known->sk + OFFSET_tcp_sock_copied_seq);
			in_sequence(known, tid, sequence, known->told);
			known->told += length;
		}
		return;
	}
	READ_KERNEL(s.sk, skb + OFFSET_sk_buff_sk);
	if (!s.sk)
		return;
	receiver = unix_receiver(skb, s.sk);
	if (receiver)
		s.sk = receiver;
	else if (!tcp_sock_of(s.sk, &s))
		return;
	if (!known || known->sk != s.sk) {
		fresh.sk = s.sk;
		if (syscalls.update(&tid, &fresh)) {
			count(COUNTER_TABLE_FULL, 1);
			return;
		}
		known = syscalls.lookup(&tid);
		if (!known)
			return;
	}
	known->skb = skb;
	known->most = length;
	known->unsequenced = receiver != 0;
	if (receiver)
		READ_KERNEL(known->sequence, skb + OFFSET_sk_buff_cb + OFFSET_unix_skb_parms_consumed);
	else
		READ_KERNEL(known->sequence, s.sk + OFFSET_tcp_sock_copied_seq);
}

/* (skb, length), before it is copied to the program. */
int on_skb_copy_datagram_iovec(struct bpf_raw_tracepoint_args *ctx)
{
	return go_on_if_wanted(ctx, WANTED_on_skb_copy_datagram_iovec);
}

int wanted_on_skb_copy_datagram_iovec(struct bpf_raw_tracepoint_args *ctx)
{
	u64 id = bpf_get_current_pid_tgid();

	if (wanted(id))
		receives(id, ctx->args[0], ctx->args[1]);
	return 0;
}

/* The packet that was copied, as pieces of memory. 0: it is not what it seemed. */
INLINE int from_packet(struct syscall *call, u32 tid)
{
	u64 skb = call->skb, data = 0, head = 0, shared, skip, fragment[2] = {}, address = 0;
	u32 sequence = 0, length = 0, in_pages = 0, end = 0, i;
	struct pieces *p;
	u8 fragments = 0;

	if (!call->unsequenced)
		READ_KERNEL(sequence, skb + OFFSET_sk_buff_cb + OFFSET_tcp_skb_cb_seq);
	READ_KERNEL(length, skb + OFFSET_sk_buff_len);
	READ_KERNEL(in_pages, skb + OFFSET_sk_buff_data_len);
	READ_KERNEL(data, skb + OFFSET_sk_buff_data);
	READ_KERNEL(head, skb + OFFSET_sk_buff_head);
	READ_KERNEL(end, skb + OFFSET_sk_buff_end);
	skip = call->sequence - sequence;
	if (skip + call->most > length || !(p = new_pieces(tid)))
		return 0;
	p->skip = skip;
	shared = head + end;
	READ_KERNEL(fragments, shared + OFFSET_skb_shared_info_nr_frags);
	add_piece(p, data, length - in_pages);
	#pragma clang loop unroll(disable)
	for (i = 0; i < MAX_KEPT_PIECES - 1; i++) {
		if (i >= fragments)
			break;
		READ_KERNEL(fragment, shared + OFFSET_skb_shared_info_frags + 16 * i);
		if (page_address(fragment[0], &address))
			return 0;
		add_piece(p, address + (fragment[1] >> 32), (u32)fragment[1]);
	}
	use_pieces(call, p);
	return 1;
}

/* A packet of which the call that ends has received a part: the last one that it copied. */
INLINE void begun_packet(struct syscall *call, u32 tid, u64 sk)
{
	if (!call->skb || call->moved != call->most)
		return;
	if (from_packet(call, tid))
		call->flags = 0;
	call->queue = QUEUE_HEAD(sk);
}

/* Received bytes that were not copied: into a pipe by a call that is not hooked (32-bit, io_uring), mapped
 * (TCP_ZEROCOPY_RECEIVE), discarded (MSG_TRUNC). How many they are, TCP's sequence tells. They are there if their packet
 * still is the first in the queue, as what is discarded. 1: it is ready. */
INLINE int unseen(u64 sk, u32 tid, u32 now)
{
	struct connection *c = connections.lookup(&sk);
	struct syscall *call;
	u32 n, end = 0;
	u64 flags = 0;

	if (!c || !c->copied_known || !recording())
		return 0;
	n = now - c->copied;
	c->copied = now;
	/* The peer's FIN has a sequence number too. */
	READ_KERNEL(flags, sk + OFFSET_sock_common_skc_flags);
	READ_KERNEL(end, sk + OFFSET_tcp_sock_rcv_nxt);
	if (n && (flags & SOCK_DONE) && now == end)
		n--;
	if (!n || has_upper_layer(sk))
		return 0;
	call = surprise(sk, tid, DIRECTION_RECEIVED);
	if (!call)
		return 0;
	c->silent += n;
	call->moved = call->reported = call->most = n;
	call->sequence = now - n;
	READ_KERNEL(call->skb, QUEUE_HEAD(sk));
	if (call->skb != QUEUE_HEAD(sk) && from_packet(call, tid))
		call->flags = UNCHECKED;
	call->skb = 0;
	return 1;
}

#if defined(__x86_64__)
#define NR32_getsockopt 365
#define NR32_socketcall 102
#define SYS_GETSOCKOPT 15
#else
#define NR32_getsockopt 295
#endif

/* TCP_ZEROCOPY_RECEIVE maps whole pages, and then copies as much as it was given room for: only the copied bytes were
 * seen in a packet, and more than those have moved. Without a whole page it copies everything, as a read does, but no
 * return value is counted. */
INLINE int is_getsockopt(void)
{
	struct pt_regs *regs = (struct pt_regs *)bpf_task_pt_regs(bpf_get_current_task_btf());
	u64 number = 0;

#if defined(__x86_64__)
	u64 first = 0;

	READ_KERNEL(number, &regs->orig_ax);
	READ_KERNEL(first, &regs->bx);
	/* A program of 32 bits has two ways to call it. Where a number means another call, that one receives nothing. */
	return number == NR_getsockopt || number == NR32_getsockopt ||
		(number == NR32_socketcall && (u32)first == SYS_GETSOCKOPT);
#else
	bpf_probe_read_kernel(&number, sizeof(regs->syscallno), &regs->syscallno);
	return number == NR_getsockopt || number == NR32_getsockopt;
#endif
}

/* (sk), after each packet that was copied to a program, and after others have taken packets. */
int on_tcp_rcv_space_adjust(struct bpf_raw_tracepoint_args *ctx)
{
	return go_on_if_wanted(ctx, WANTED_on_tcp_rcv_space_adjust);
}

int wanted_on_tcp_rcv_space_adjust(struct bpf_raw_tracepoint_args *ctx)
{
	u64 sk = ctx->args[0], id = bpf_get_current_pid_tgid();
	u32 tid = id, now = 0, n;
	struct syscall *call;
	int asks;

	call = syscalls.lookup(&tid);
	if (call && (!call->skb || call->sk != sk))
		return 0;
	READ_KERNEL(now, sk + OFFSET_tcp_sock_copied_seq);
	if (!call) {
		if (unseen(sk, tid, now))
			move_below.call(ctx, 1);
		return 0;
	}
	n = now - call->sequence;
	asks = n >= call->most && is_getsockopt();
	/* Peeked at: nothing has moved. */
	if ((asks || n == call->most) && !has_upper_layer(sk)) {
		call->moved = call->most = n;
		/* No count will end it. */
		if (asks)
			call->reported = n;
		call->flags = from_packet(call, tid) ? 0 : NOT_IN_USER_SPACE;
		call->skb = 0;
		move_below.call(ctx, 0);
	}
	call->skb = 0;
	return 0;
}
#endif
