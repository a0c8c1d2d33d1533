/* SPDX-License-Identifier: GPL-2.0-or-later
 * What TCP itself counted of a connection whose beginning was seen, against what its calls were seen to move: a
 * count that no hook of ours is part of. Bytes given to TCP: what is acknowledged and what is not yet; bytes taken:
 * what has arrived in order less what waits. SYN and FIN have a sequence number each (RFC 9293 §3.4).
 */
INLINE void compare_total(u64 tcp, u64 seen, int more, int fewer)
{
	if (tcp > seen)
		count(more, tcp - seen);
	else if (tcp < seen)
		count(fewer, seen - tcp);
}

/* When TCP lets go of it. */
INLINE void check_totals(struct connection *c, u64 sk)
{
	u64 acknowledged = 0, arrived = 0, flags = 0;
	u32 written = 0, unacknowledged = 0, next = 0, copied = 0;

	/* What is not plain TCP counts elsewhere, and what is above TCP gives it other bytes. */
	if (!c->opened || !c->established || c->untold || c->diverted || c->restored || has_upper_layer(sk))
		return;
	READ_KERNEL(acknowledged, sk + OFFSET_tcp_sock_bytes_acked);
	READ_KERNEL(arrived, sk + OFFSET_tcp_sock_bytes_received);
	READ_KERNEL(written, sk + OFFSET_tcp_sock_write_seq);
	READ_KERNEL(unacknowledged, sk + OFFSET_tcp_sock_snd_una);
	READ_KERNEL(next, sk + OFFSET_tcp_sock_rcv_nxt);
	READ_KERNEL(copied, sk + OFFSET_tcp_sock_copied_seq);
	READ_KERNEL(flags, sk + OFFSET_sock_common_skc_flags);
	/* connect() to AF_UNSPEC, and closing without lingering, begin anew. */
	if (!acknowledged && !arrived)
		return;
	acknowledged += (u32)(written - unacknowledged);
	acknowledged -= (c->role == ROLE_CLIENT) + !!c->local_fin;
	arrived -= (u32)(next - copied);
	if ((flags & SOCK_DONE) && copied == next)
		arrived--;
	count(COUNTER_TCP_CHECKED, 1);
	compare_total(acknowledged, c->position[0], COUNTER_TCP_UNSEEN_SENT, COUNTER_TCP_EXCESS_SENT);
	compare_total(arrived, c->position[1] + c->urgent, COUNTER_TCP_UNSEEN_RECEIVED, COUNTER_TCP_EXCESS_RECEIVED);
}
