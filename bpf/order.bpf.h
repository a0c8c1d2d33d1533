/* SPDX-License-Identifier: GPL-2.0-or-later
 * Where a call's bytes are in their direction. Calls that follow each other are in the order of their exits, and
 * a position is a count. Where calls on one socket overlap (threads), exits come in any order, and a call that
 * waits for room lets others in between its own bytes: then TCP's sequence numbers, which the hooks of
 * below_messages.bpf.h and below_packets.bpf.h read under the socket's lock, say what came where.
 *
 * A sequence number becomes a position by an anchor: a pair that is known. Each call that overlaps with none
 * sets it anew, for sequence numbers also count what no call moves (urgent bytes, other processes' calls).
 */
/* Times that others may come between the bytes of one call. A call of 8 MiB waits some hundred times if the
 * socket's buffer is at its smallest, and some ten times at the size that TCP gives it. */
#define MAX_SPLITS 128
struct splits {
	u32 count, next;
	/* After so many of the call's bytes come so many that are others', in all. */
	u32 after[MAX_SPLITS];
	u32 others[MAX_SPLITS];
};
/* key: tid. Deleted when the copy is done. */
BPF_HASH(splits, u32, struct splits, 256);
BPF_ARRAY(no_splits, struct splits, 1);

/* The compiler knows that the index fits and leaves out the mask; the verifier does not. */
INLINE u64 split_slot(u64 at)
{
	asm volatile("" : "+r"(at));
	return at & (MAX_SPLITS - 1);
}

INLINE void call_begins(struct syscall *call, struct connection *c)
{
	u32 d = call->direction & 1;

	if (__sync_fetch_and_add(&c->in_flight[d], 1)) {
		call->overlapped = 1;
		__sync_fetch_and_add(&c->overlaps[d], 1);
	}
	call->overlaps = c->overlaps[d];
}

/* Once its bytes have their place: one that begins before that overlaps. */
INLINE void call_ended(struct syscall *call, struct connection *c)
{
	__sync_fetch_and_add(&c->in_flight[call->direction & 1], -1);
}

INLINE void add_split(struct syscall *call, u32 tid, u32 after, u32 others)
{
	int zero = 0;
	struct splits *s = splits.lookup(&tid), *none = no_splits.lookup(&zero);
	u32 at;

	if (!call->splits && none) {
		splits.update(&tid, none);
		s = splits.lookup(&tid);
	}
	if (!s) {
		count(COUNTER_TABLE_FULL, 1);
		return;
	}
	call->splits = 1;
	at = s->count;
	/* It waited twice, and nothing of it was taken in between: the later wait replaces the earlier. */
	if (at && s->after[split_slot(at - 1)] == after)
		at--;
	if (at >= MAX_SPLITS) {
		count(COUNTER_TABLE_FULL, 1);
		return;
	}
	s->after[split_slot(at)] = after;
	s->others[split_slot(at)] = others;
	s->count = at + 1;
}

/* Under the socket's lock: the call's next byte, after `done` of them, will have this sequence number. */
INLINE void in_sequence(struct syscall *call, u32 tid, u32 sequence, u32 done)
{
	u32 d = call->direction & 1, others;
	u64 sk = call->sk;
	struct connection *c;

	if (!call->sequenced) {
		call->sequenced = 1;
		call->sequence = sequence;
		c = connections.lookup(&sk);
		if (c && !c->anchored[d]) {
			c->anchored[d] = 1;
			c->anchor[d] = sequence;
			c->anchor_position[d] = c->position[d];
		}
		return;
	}
	others = sequence - call->sequence - done;
	if (!done)
		call->sequence = sequence;
	else if (others || call->splits)
		add_split(call, tid, done, others);
}

/* What was noted of a call for a copy that is not made. */
INLINE void drop_notes(struct syscall *call, u32 tid)
{
	if (call->memory == MEMORY_KERNEL)
		pieces.delete(&tid);
	if (call->splits)
		splits.delete(&tid);
}

/* call_begins() was for a connection that is known. */
INLINE void ends_on_its_connection(struct syscall *call)
{
	u64 sk = call->sk;
	struct connection *c = connections.lookup(&sk);

	if (c && c->id == call->id)
		call_ended(call, c);
}

/* A call of which nothing will be told: it moved nothing, or its entry found no room. */
INLINE void comes_to_nothing(struct syscall *call, u32 tid)
{
	ends_on_its_connection(call);
	drop_notes(call, tid);
}

INLINE int overlaps(struct syscall *call, struct connection *c)
{
	return call->overlapped || call->overlaps != c->overlaps[call->direction & 1];
}

#define USER_DATA_PSOCK 4	/* sk_user_data: the socket is in a map of sockets */

INLINE int is_in_socket_map(u64 sk)
{
	u64 data = 0;

	READ_KERNEL(data, sk + OFFSET_sock_sk_user_data);
	return (data & USER_DATA_PSOCK) != 0;
}

/* The position of the first of n bytes, which are now taken. */
INLINE u64 place(struct syscall *call, struct connection *c, u64 n)
{
	u32 d = call->direction & 1;
	u64 count = __sync_fetch_and_add(&c->position[d], n), position, since;

	/* No sequence number: perhaps TCP never had the bytes either, for a sockmap took them. */
	if (!call->sequenced) {
		if (!c->diverted && !c->untold)
			c->diverted = is_in_socket_map(call->sk);
		return count;
	}
	/* Of calls that are not hooked, others may be in flight at the first. */
	if (!c->anchored[d] || !overlaps(call, c)) {
		c->anchor[d] = call->sequence;
		c->anchor_position[d] = count;
		c->anchored[d] = 1;
		return count;
	}
	/* 32 bits of it, near what has been counted since. */
	since = count - c->anchor_position[d];
	position = count + (s64)(s32)(call->sequence - c->anchor[d] - (u32)since);
	return (s64)position < 0 ? count : position;
}

/* The next split of a job that has come to one: moves its position on. */
INLINE void next_split(volatile struct job *j, u32 tid)
{
	struct splits *s = splits.lookup(&tid);
	u32 at, before = 0;

	j->split = 0;
	if (!s)
		return;
	at = s->next;
	if (at && at <= MAX_SPLITS) {
		/* Those before the last one are in the position already. */
		before = at > 1 ? s->others[split_slot(at - 2)] : 0;
		j->position += (u32)(s->others[split_slot(at - 1)] - before);
	}
	if (at < s->count && at < MAX_SPLITS && j->total > s->after[split_slot(at)])
		j->split = j->total - s->after[split_slot(at)];
	s->next = at + 1;
}
