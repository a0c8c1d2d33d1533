/* SPDX-License-Identifier: GPL-2.0-or-later
 * The end of a connection. Of TCP's sockets tcp_destroy_sock tells it (lifecycle.bpf.h). No tracepoint tells that of
 * others (`untold`: AF_UNIX, MPTCP): user space asks from time to time whether a file still has them, and whoever
 * finds another socket at the same address knows. Of TCP it asks too, and less often: for what was not told after all.
 */
/* key: sock pointer, value: connection id. Deleted when its end is found. */
BPF_HASH(untold_ends, u64, u64, 32768);

/* Connections that have `ended`. key: as in `connections`, value: connection id. Deleted by user space when it has told
 * the end; of what finds no room it is told when the recording ends. */
BPF_HASH(late_ends, u64, u64, 8192);

/* The end finds no room, or must wait. */
INLINE void end_later(struct connection *c, u64 sk)
{
	c->ended = 1;
	late_ends.update(&sk, &c->id);
	count(COUNTER_ENDS_PENDING, 1);
}

/* Seen only now: whoever had the socket has closed it. */
INLINE void ended_unseen(struct connection *c)
{
	if (!c->local_fin && !c->local_reset && !c->peer_reset)
		c->local_fin = bpf_ktime_get_ns();
}

INLINE int put_end(struct connection *c)
{
	struct end_sample *r = ring.ringbuf_reserve(sizeof(*r));

	if (!r)
		return 0;
	__builtin_memset(r, 0, sizeof(*r));
	r->head.kind = SAMPLE_END;
	r->head.protocol = c->protocol;
	r->head.time = bpf_ktime_get_ns();
	r->head.connection = c->id;
	r->head.session = c->session;
	r->head.tgid = c->tgid;
	r->local_fin = c->local_fin;
	r->peer_fin = c->notified ? c->notified : c->peer_fin;
	r->local_reset = c->local_reset;
	r->peer_reset = c->peer_reset;
	r->sent = c->position[0];
	r->received = c->position[1];
	r->session_sent = c->session_position[0];
	r->session_received = c->session_position[1];
	ring.ringbuf_submit(r, RINGBUF_NO_WAKEUP);
	return 1;
}
