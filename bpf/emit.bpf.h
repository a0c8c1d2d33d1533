/* SPDX-License-Identifier: GPL-2.0-or-later
 * Records into the ring. A call's bytes go straight from the program's memory into reserved records of six
 * size classes, block after block, in a bounded loop that continues by tail call: some 30 rounds of MAX_PIECES.
 * Nothing wakes a reader: user space polls.
 *
 * The job lives in a map and is read through a volatile pointer, so that the verifier sees the same unknown
 * values in every iteration instead of following each of them.
 */
#define MAX_PIECES 96

INLINE void fill_head(struct sample *h, struct job *j, u32 captured, u64 length, u64 position)
{
	h->kind = j->kind;
	h->direction = j->direction;
	h->reason = REASON_NONE;
	h->protocol = j->protocol;
	h->captured = captured;
	h->time = j->time;
	h->connection = j->connection;
	h->session = j->session;
	h->position = position;
	h->length = length;
	h->tgid = j->tgid;
	h->tid = j->tid;
	h->library = j->library;
	h->overlapped = j->overlapped;
	h->answers = j->answers;
	h->by_reference = j->by_reference;
}

struct record0 { struct sample head; u8 payload[CLASS0_BYTES]; };
struct record1 { struct sample head; u8 payload[CLASS1_BYTES]; };
struct record2 { struct sample head; u8 payload[CLASS2_BYTES]; };
struct record3 { struct sample head; u8 payload[CLASS3_BYTES]; };
struct record4 { struct sample head; u8 payload[CLASS4_BYTES]; };
struct record5 { struct sample head; u8 payload[CLASS5_BYTES]; };

/* BCC rewrites no map calls inside macros. */
INLINE struct record0 *reserve0(void) { return ring.ringbuf_reserve(sizeof(struct record0)); }
INLINE struct record1 *reserve1(void) { return ring.ringbuf_reserve(sizeof(struct record1)); }
INLINE struct record2 *reserve2(void) { return ring.ringbuf_reserve(sizeof(struct record2)); }
INLINE struct record3 *reserve3(void) { return ring.ringbuf_reserve(sizeof(struct record3)); }
INLINE struct record4 *reserve4(void) { return ring.ringbuf_reserve(sizeof(struct record4)); }
INLINE struct record5 *reserve5(void) { return ring.ringbuf_reserve(sizeof(struct record5)); }
INLINE void submit(void *record) { ring.ringbuf_submit(record, RINGBUF_NO_WAKEUP); }

/* n must be at most the class's room. 1: in the ring; 0: no room. */
#define DEFINE_PUT(class)							\
INLINE int put##class(struct job *j, u64 from, u64 n, u64 position)		\
{										\
	struct record##class *r = reserve##class();				\
	if (!r)									\
		return 0;							\
	asm volatile("" : "+r"(n));						\
	if (n > CLASS##class##_BYTES)						\
		n = CLASS##class##_BYTES;					\
	fill_head(&r->head, j, n, n, position);					\
	if (read_bytes(j->memory, r->payload, n, from) || is_gone(j->queue, j->skb)) {		\
		r->head.captured = 0;						\
		r->head.reason = REASON_FAULT;					\
	}									\
	submit(r);								\
	return 1;								\
}

DEFINE_PUT(0)
DEFINE_PUT(1)
DEFINE_PUT(2)
DEFINE_PUT(3)
DEFINE_PUT(4)
DEFINE_PUT(5)

INLINE int put(struct job *j, u64 from, u64 n, u64 position)
{
	if (n <= CLASS0_BYTES)
		return put0(j, from, n, position);
	if (n <= CLASS1_BYTES)
		return put1(j, from, n, position);
	if (n <= CLASS2_BYTES)
		return put2(j, from, n, position);
	if (n <= CLASS3_BYTES)
		return put3(j, from, n, position);
	if (n <= CLASS4_BYTES)
		return put4(j, from, n, position);
	return put5(j, from, n, position);
}

/* Says that bytes moved which cannot be copied. */
INLINE int put_gap(struct job *j, u64 n, u8 reason)
{
	struct record0 *r = ring.ringbuf_reserve(sizeof(*r));
	if (!r) {
		count(COUNTER_EVENTS_RING_FULL, 1);
		note_hole(j->connection, j->session, j->direction, j->position, n, reason);
		return 0;
	}
	fill_head(&r->head, j, 0, n, j->position);
	r->head.reason = reason;
	submit(r);
	return 1;
}

/* An empty one, in its map: it is too large for the stack of what sets it up. NULL: no room. */
INLINE struct job *new_job(u32 tid)
{
	int zero = 0;
	struct job *none = no_jobs.lookup(&zero);

	if (none && !jobs.update(&tid, none))
		return jobs.lookup(&tid);
	count(COUNTER_TABLE_FULL, 1);
	return NULL;
}

/* One round. 1: bytes are left for another. */
INLINE int emit_round(u32 tid)
{
	struct job *job = jobs.lookup(&tid);
	volatile struct job *j = job;
	int i;

	if (!job)
		return 0;
	#pragma clang loop unroll(disable)
	for (i = 0; i < MAX_PIECES; i++) {
		if (!j->left)
			break;
		if (j->offset >= j->length) {
			u64 block[2] = {}, at = j->block;
			if (at >= j->blocks)
				break;
			j->unreadable = read_block(j->memory, j->vector, at, block);
			if (j->unreadable)
				break;
			if (!at) {
				block[0] += j->skip;
				block[1] -= j->skip;
			}
			j->base = block[0];
			j->length = block[1] < j->left ? block[1] : j->left;
			j->offset = 0;
			j->block = at + 1;
			continue;
		}
		u64 n = j->length - j->offset;
		if (n > CLASS5_BYTES)
			n = CLASS5_BYTES;
		if (j->split) {
			if (j->left == j->split) {
				next_split(j, tid);
				continue;
			}
			if (n > j->left - j->split)
				n = j->left - j->split;
			if (n > CLASS5_BYTES)
				break;
		}
		if (put(job, j->base + j->offset, n, j->position))
			j->captured += n;
		else
			j->ring_full += n;
		j->offset += n;
		j->position += n;
		j->left -= n;
	}
	return j->left && i == MAX_PIECES;
}

INLINE int has_setting(u32 flag)
{
	int zero = 0;
	struct settings *s = settings.lookup(&zero);
	return s && (s->flags & flag);
}

/* Under which counter bytes go that could not be told of: of what is only told because TLS may follow, nobody asked for it. */
INLINE u32 lost_as(u32 protocol, u32 counter)
{
	return protocol == PROTOCOL_OTHER && !has_setting(KEEP_ALL_PROTOCOLS) ? COUNTER_OTHER_PROTOCOLS : counter;
}

INLINE void emit_done(u32 tid)
{
	struct job *j = jobs.lookup(&tid);
	if (!j)
		return;
	u64 rest = j->left;
	/* Faults are counted by user space, which sees them. */
	if (rest && put_gap(j, rest, j->unreadable ? j->unreadable : REASON_LIMIT) && j->unreadable == REASON_FAULT)
		rest = 0;
	if (j->session) {
		if (j->ring_full)
			count(COUNTER_PLAINTEXT_RING_FULL, j->ring_full);
		if (rest)
			count(j->unreadable == REASON_UNSEEN_RETURN ? COUNTER_PLAINTEXT_UNSEEN_RETURN :
			      j->unreadable == REASON_NOT_IN_USER_SPACE ? COUNTER_PLAINTEXT_NOT_IN_USER_SPACE :
			      COUNTER_PLAINTEXT_LIMIT, rest);
	} else if (j->kind == SAMPLE_DATA) {
		if (j->by_reference)
			count(COUNTER_BY_REFERENCE, j->captured);
		if (j->ring_full)
			count(lost_as(j->protocol, COUNTER_LOST_RING_FULL), j->ring_full);
		if (rest)
			count(lost_as(j->protocol, j->unreadable == REASON_NOT_IN_USER_SPACE ? COUNTER_LOST_NOT_IN_USER_SPACE :
				COUNTER_LOST_LIMIT), rest);
	}
	if (j->memory == MEMORY_KERNEL)
		pieces.delete(&tid);
	if (j->split_up)
		splits.delete(&tid);
	jobs.delete(&tid);
}

int continue_from_tracepoint(void *ctx)
{
	u32 tid = bpf_get_current_pid_tgid();
	if (emit_round(tid))
		emit_from_tracepoint.call(ctx, COPY_JOB);
	emit_done(tid);
	return 0;
}

int continue_from_raw_tracepoint(void *ctx)
{
	u32 tid = bpf_get_current_pid_tgid();
	if (emit_round(tid))
		emit_from_raw_tracepoint.call(ctx, 0);
	emit_done(tid);
	return 0;
}

/* What a uprobe program returns: whether the kernel is to show it the function's return. It asks since Linux 6.13, where
 * NO_RETURN is 1 (program.py), and changes the stack of any function for SHOW_RETURN; before, attachment says it. */
#define SHOW_RETURN 0

int continue_from_uprobe(struct pt_regs *ctx)
{
	u32 tid = bpf_get_current_pid_tgid();
	if (emit_round(tid))
		emit_from_uprobe.call(ctx, COPY_JOB);
	emit_done(tid);
	return NO_RETURN;
}

int continue_from_place(struct pt_regs *ctx)
{
	u32 tid = bpf_get_current_pid_tgid();
	if (emit_round(tid))
		emit_from_place.call(ctx, 0);
	emit_done(tid);
	return 0;
}

/* 0 before the start and after the end: whatever is in flight then is nobody's. */
INLINE int recording(void)
{
	int zero = 0;
	struct settings *s = settings.lookup(&zero);
	return s && s->self;
}

/* Ends a program; where a job is ready, by copying its bytes. */
#define READY_STEP 2
#define READY_KEYED 3	/* what was moved is to be looked at once more, before it is copied */
INLINE int finish_tracepoint(void *ctx, int ready)
{
	if (ready == READY_STEP)
		emit_from_tracepoint.call(ctx, TELL_STEP);
	else if (ready == READY_KEYED)
		emit_from_tracepoint.call(ctx, LOOK_FOR_KEYS);
	else if (ready)
		emit_from_tracepoint.call(ctx, COPY_JOB);
	return 0;
}

/* The tail call stays in programs that never come to it: see tls.bpf.h. */
INLINE int finish_uprobe(struct pt_regs *ctx, int ready)
{
	asm volatile("" : "+r"(ready));
	if (ready)
		emit_from_uprobe.call(ctx, COPY_JOB);
	return NO_RETURN;
}

/* Tells user space of a connection, once, before its first data. 0: no room, so its data must wait too. */
INLINE int announce(struct connection *c, u32 tgid, u32 tid)
{
	struct connection_sample *r;

	if (c->announced)
		return 1;
	if (!c->based) {
		c->base[0] = c->position[0];
		c->base[1] = c->position[1];
		c->based = 1;
	}
	r = ring.ringbuf_reserve(sizeof(*r));
	if (!r) {
		count(COUNTER_EVENTS_RING_FULL, 1);
		return 0;
	}
	__builtin_memset(r, 0, sizeof(*r));
	r->head.kind = SAMPLE_CONNECTION;
	r->head.protocol = c->protocol;
	r->head.time = bpf_ktime_get_ns();
	r->head.connection = c->id;
	r->head.tgid = tgid;
	r->head.tid = tid;
	r->opened = c->opened;
	r->established = c->established;
	r->base_sent = c->base[0];
	r->base_received = c->base[1];
	r->inode = c->inode;
	r->netns = c->netns;
	r->fd = c->fd;
	r->family = c->family;
	r->local_port = c->local_port;
	r->remote_port = c->remote_port;
	r->role = c->role;
	__builtin_memcpy(r->local, c->local, 16);
	if (is_unix(c->family))
		r->path_bytes = read_unix_path(c, r->path);
	else
		__builtin_memcpy(r->remote, c->remote, 16);
	__builtin_memcpy(r->comm, c->comm, COMM_BYTES);
	submit(r);
	c->announced = 1;
	return 1;
}
