/* SPDX-License-Identifier: GPL-2.0-or-later
 * What becomes of the bytes that a call moved: which protocol they speak, whether they are copied, as what, and which
 * place in their direction they have. For system calls and what is below them alike.
 */
#define MSG_OOB 0x1
#define MSG_PEEK 0x2
#define MSG_TRUNC 0x20	/* the program's flags that matter are PROGRAM_FLAGS, ours above */
#define MSG_ZEROCOPY 0x4000000
#define PROGRAM_FLAGS (0xffff | MSG_ZEROCOPY)
#define MSG_ERRQUEUE 0x2000	/* copies of what was sent, with its time stamps */
/* Ours: a splice; `buffer` is the descriptor of the pipe that it fills. */
#define INTO_PIPE 0x20000000

/* The first bytes that a call moved, up to HEAD_BYTES, from its first blocks: writev() may send a request's
 * method, target and version as a block each, and empty ones between. */
#define HEAD_BYTES 24
#define HEAD_BLOCKS 4
#define HEAD_ROOM 64	/* so that the verifier, which cannot relate an offset to a length, sees it suffice */

INLINE u32 first_bytes(struct syscall *call, u64 moved, u8 *to)
{
	volatile struct syscall *v = call;
	u64 want = moved < HEAD_BYTES ? moved : HEAD_BYTES, have = 0, n, i;
	u64 block[2] = {v->buffer, moved};

	if (call->flags & (NOT_IN_USER_SPACE | MSG_TRUNC))
		return 0;
	#pragma clang loop unroll(disable)
	for (i = 0; i < HEAD_BLOCKS && have < want; i++) {
		if (v->blocks) {
			if (i >= v->blocks || read_block(v->memory, v->buffer, i, block))
				break;
			if (!i) {
				block[0] += v->skip;
				block[1] -= v->skip;
			}
		}
		n = block[1] < want - have ? block[1] : want - have;
		asm volatile("" : "+r"(n), "+r"(have));
		n &= HEAD_ROOM / 2 - 1;
		have &= HEAD_ROOM / 2 - 1;
		if (read_bytes(v->memory, to + have, n, block[0]))
			break;
		have += n;
	}
	return have;
}

/* What becomes of a call's bytes: told of without a copy, copied as handshake, copied, or only counted, under the
 * counter it names. */
#define FATE_GAP -3
#define FATE_HELLO -2
#define FATE_COPY -1

/* Whether a call's bytes may belong to what is said before TLS: whoever reads along keeps them until that follows. Without
 * branches, for the verifier's sake.
 */
INLINE s64 is_said_before_tls(struct connection *c, u64 n)
{
	s64 room = (s64)(c->position[0] + c->position[1] + n) - (MAX_SAID_BEFORE_TLS + 1);

	return (room & -(s64)c->opened & -(s64)c->may_precede_tls) >> 63;
}

INLINE int fate_of(struct connection *c, u32 d, u64 n, u32 flags)
{
	u64 id = c->id;

	if (c->unwanted)
		return COUNTER_FILTERED;
	if (c->protocol == PROTOCOL_TLS)
		return c->hello_left[d] && !(flags & NOT_IN_USER_SPACE) && !has_setting(DROP_TLS) ? FATE_HELLO :
			COUNTER_SUPPRESSED;
	if (mirrored.lookup(&id))
		return COUNTER_MIRRORED;
	if (c->protocol == PROTOCOL_HTTP && has_setting(DROP_HTTP))
		return COUNTER_FILTERED;
	if (!has_setting(KEEP_ALL_PROTOCOLS)) {
		if (c->protocol == PROTOCOL_OTHER && !is_said_before_tls(c, n))
			return COUNTER_OTHER_PROTOCOLS;
		if (c->protocol == PROTOCOL_UNDECIDED && !c->prefix_length[d] && !is_said_before_tls(c, n))
			return COUNTER_UNDECIDED;
	}
	/* With MSG_TRUNC, TCP discards what it would have copied. */
	if (flags & (NOT_IN_USER_SPACE | MSG_TRUNC))
		return FATE_GAP;
	return FATE_COPY;
}

/* n bytes moved; 1: the job is set up and waits for the copying program. The call's entry is not deleted. */
INLINE int moved(struct syscall *call, struct connection *c, u64 n, u64 id)
{
	/* Of what goes by way of it the verifier forgets the value, instead of following each to the end. */
	volatile struct syscall *v = call;
	u8 head[HEAD_ROOM] = {};
	u32 d = call->direction & 1, tid = id, have = 0;
	u64 sk = call->sk;

	know_ends(c, sk);
	if (c->protocol != PROTOCOL_TLS || lacks_session(c, id) || !c->position[d])
		have = first_bytes(call, n, head);
	if (is_gone(v->queue, v->skb))
		have = 0;
	v->head_bytes = have;
	have = v->head_bytes;
	if (c->protocol == PROTOCOL_TLS &&
	    (c->left ? sign_of_cleartext(c, d, head, have) : sign_of_refusal(c, d, head, have)) >= 0)
		turn_to_cleartext(c);
	if (c->protocol != PROTOCOL_TLS)
		infer(c, d, head, have);
	note_nested(id, call, c, head, have, n);
	/* No hello was seen where the handshake is in packets of another protocol (TDS). */
	if (c->protocol != PROTOCOL_TLS && d == DIRECTION_SENT && have >= RECORD_KEY_END && is_own_record(head, id))
		c->protocol = PROTOCOL_TLS;

	v->fate = fate_of(c, d, n, call->flags);
	int fate = v->fate, overlapped = overlaps(call, c);
	int announced = fate < 0 && announce(c, id >> 32, tid);
	u64 position = place(call, c, n);

	if (may_be_tls(c) && lacks_session(c, id) && have >= RECORD_KEY_END) {
		note_goroutine(c, sk, id);
		if (d == DIRECTION_SENT)
			match_records(call, head, n, c, sk, id);
		else
			note_arrival(head, c, sk, tid);
	}
	if (fate >= 0 || fate == FATE_HELLO)
		count(fate == FATE_HELLO ? COUNTER_SUPPRESSED : fate, n);
	else if (!announced)
		count(lost_as(c->protocol, COUNTER_LOST_RING_FULL), n);
	if (fate == COUNTER_UNDECIDED && c->announced)
		note_hole(c->id, 0, d, position, n, REASON_UNDECIDED);
	if (!announced)
		return 0;
	struct job *job = new_job(tid);
	if (!job) {
		if (fate != FATE_HELLO) {
			count(lost_as(c->protocol, COUNTER_LOST_TABLE_FULL), n);
			note_hole(c->id, 0, d, position, n, REASON_TABLE_FULL);
		}
		return 0;
	}
	if (fate == FATE_HELLO) {
		if (n > c->hello_left[d])
			n = c->hello_left[d];
		c->hello_left[d] -= n;
		/* What was said before it is whole up to here. */
		job->library = c->position[!d];
	}
	job->kind = fate == FATE_HELLO ? SAMPLE_HELLO : SAMPLE_DATA;
	job->connection = c->id;
	job->tgid = id >> 32;
	job->tid = tid;
	job->direction = d;
	job->protocol = c->protocol;
	job->time = d == DIRECTION_SENT ? call->entered : bpf_ktime_get_ns();
	job->position = position;
	job->left = job->total = n;
	job->overlapped = call->sequenced && overlapped;
	job->by_reference = d == DIRECTION_SENT && (call->memory == MEMORY_PAGES || (call->flags & MSG_ZEROCOPY));
	job->memory = call->memory;
	job->queue = call->queue;
	job->skb = call->skb;
	if (call->splits && overlapped) {
		job->split_up = 1;
		next_split(job, tid);
	}
	if (fate == FATE_GAP) {
		job->unreadable = REASON_NOT_IN_USER_SPACE;
	} else if (call->blocks) {
		job->vector = call->buffer;
		job->blocks = call->blocks;
		job->skip = call->skip;
	} else {
		job->base = call->buffer;
		job->length = n;
	}
	return 1;
}
