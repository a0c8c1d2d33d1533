/* SPDX-License-Identifier: GPL-2.0-or-later
 * TLS libraries: one pair of uprobes for all shapes of calls. Entry keeps the arguments, return knows the length.
 *
 * Since Linux 6.13 a uprobe program with 64 or more bytes of stack gets a per-CPU one, which a preemption
 * corrupts; a program from which a tail call can be reached never does. So each program here can reach one.
 */
/* 1: the first record inside of a session is set up for the copying program, for it has the name that was asked for. */
INLINE int tell_inner_hello(struct session *s, struct tls_call *call, u64 id, u64 n)
{
	u64 sk = call->connection ? call->sk : s->sk;
	struct connection *c = connections.lookup(&sk);
	struct job *job;

	if (!c || !c->announced || call->blocks || has_setting(DROP_TLS))
		return 0;
	job = new_job((u32)id);
	if (!job)
		return 0;
	job->kind = SAMPLE_INNER_HELLO;
	job->connection = c->id;
	job->tgid = id >> 32;
	job->tid = id;
	job->direction = DIRECTION_SENT;
	job->protocol = PROTOCOL_TLS;
	job->time = call->entered;
	job->left = job->length = n > MAX_HELLO_BYTES ? MAX_HELLO_BYTES : n;
	job->memory = call->memory;
	job->base = call->buffer;
	return 1;
}

/* 1: n bytes of plaintext are set up for the copying program. `around`: the call of another object that this one is
 * inside of. */
INLINE int tls_moved(struct tls_call *call, struct tls_call *around, u64 id, u32 direction, u64 n)
{
	struct session *s = session_of(call, id);
	u32 tid = id, d = direction & 1;
	struct connection *c;

	if (s && d == DIRECTION_SENT && call->count >= LONG_CALL_BYTES && !(n = left_to_tell(s, call, n)))
		return 0;
	count(COUNTER_PLAINTEXT_REPORTED, n);
	u32 tunnelled = s && s->tunnels;

	if (s && (carries_records(call, around, s, n) || relays_records(call, s, id, d))) {
		count(COUNTER_PLAINTEXT_FILTERED, n);
		return !tunnelled && d == DIRECTION_SENT && tell_inner_hello(s, call, id, n);
	}
	if (!s) {
		count(COUNTER_PLAINTEXT_TABLE_FULL, n);
		return 0;
	}
	u64 answers = d == DIRECTION_RECEIVED && s->writing, position;

	if (s->without_bio && !s->connection && !call->connection)
		note_order(s, call, id, d, n);
	c = bind(s, call, id);
	position = __sync_fetch_and_add(&s->position[d], n);
	if (c) {
		c->session_position[d] = position + n;
		if (d == DIRECTION_RECEIVED)
			c->notified = 0;
	}
	/* Also of connections that are not known yet. */
	if (has_setting(DROP_TLS) || (c ? c->unwanted : s->gone > 1) || goes_over_datagrams(s, call)) {
		count(COUNTER_PLAINTEXT_FILTERED, n);
		return 0;
	}
	if (c && mirrored.lookup(&s->connection)) {
		count(COUNTER_PLAINTEXT_MIRRORED, n);
		return 0;
	}
	if (c && !announce(c, id >> 32, tid)) {
		count(COUNTER_PLAINTEXT_RING_FULL, n);
		return 0;
	}
	struct job *job = new_job(tid);
	if (!job) {
		count(COUNTER_PLAINTEXT_TABLE_FULL, n);
		note_hole(0, s->id, d, position, n, REASON_TABLE_FULL);
		return 0;
	}
	job->kind = SAMPLE_DATA;
	job->connection = s->connection;
	job->session = s->id;
	job->library = s->library;
	job->tgid = id >> 32;
	job->tid = tid;
	job->direction = d;
	job->protocol = PROTOCOL_TLS;
	job->time = d == DIRECTION_SENT ? call->entered : bpf_ktime_get_ns();
	job->position = position;
	job->left = n;
	job->answers = answers;
	job->memory = call->memory;
	if (s->unseen) {
		job->unreadable = REASON_UNSEEN_RETURN;	/* a gap, where it belongs and when it was */
	} else if (call->shape == SHAPE_WRITE_FILE) {
		job->unreadable = REASON_NOT_IN_USER_SPACE;
	} else if (call->blocks) {
		job->vector = call->buffer;
		job->blocks = call->blocks;
	} else {
		job->base = call->buffer;
		job->length = n;
	}
	return 1;
}

INLINE int tls_free(struct pt_regs *ctx, u64 ssl)
{
	u64 id = bpf_get_current_pid_tgid();
	struct session_key key = {.ssl = ssl, .tgid = id >> 32};
	struct session *s;

	if (!wanted(id))
		return 0;
	s = sessions.lookup(&key);
	if (!s)
		return 0;
	put_session_event(SAMPLE_SESSION_END, s, 0, id);
	leave_session(s);
	sessions.delete(&key);
	if (!key.ssl)
		finish_uprobe(ctx, 1);	/* finds no job: see the head of this file */
	return 0;
}

/* BIO_write inside a TLS function: what it is given will cross a socket later (association.bpf.h). */
INLINE int bio_write_enter(struct pt_regs *ctx, u64 bio, u64 buffer, u64 length)
{
	u64 id = bpf_get_current_pid_tgid();
	struct record_key record = {};
	struct tls_call *call;

	if (!wanted(id))
		return 0;
	call = innermost_call(stack_name(id, STACK_AT_ENTRY(ctx)));
	if (!call && (u32)length >= RECORD_KEY_END)
		note_feed(id, bio, buffer);
	/* With a socket below it, the system call that follows tells more directly. */
	if (call && !call->connection && (u32)length >= RECORD_KEY_END)
		remember_record(call, id, buffer);
	/* The rest of a record that found no room before has no header, and was counted. */
	if (call && !call->connection && is_long(call) && read_record_key(buffer, &record)) {
		call->last = (u32)length;
		emit_from_uprobe.call(ctx, TELL_STEP);
	}
	if (!buffer)
		finish_uprobe(ctx, 1);	/* finds no job: see the head of this file */
	return 0;
}

/* In GnuTLS's packet, as open_packet has it: where it says how many bytes are used up. */
#define PACKET_USED 16

/* Where the record begins that a library is about to hand to a function of the program's. */
INLINE u64 record_place(int shape, u64 object, u64 offsets)
{
	u64 place = 0, words[2] = {};
	u32 size = sizeof(words[0]);

	READ_USER(place, object + (offsets >> OFFSET_SHIFT & MAX_OFFSET));
	object += offsets >> SECOND_OFFSET_SHIFT & MAX_OFFSET;
	if (shape == SHAPE_RECORD_QUEUED) {
		READ_USER(words, place + PACKET_USED);
		return words[0] + words[1];
	}
	if (shape == SHAPE_RECORD_BEHIND)
		size = sizeof(u32);
	bpf_probe_read_user(words, size, (void *)object);
	return shape == SHAPE_RECORD_BEHIND ? place + words[0] : place - words[0];
}

/* The program may only keep it. Which socket a session has is known after its first records; this then costs a look-up. */
INLINE int record_enter(struct pt_regs *ctx, int shape, struct tls_call *call)
{
	u64 id = bpf_get_current_pid_tgid(), place;
	struct session_key key = {.ssl = call->ssl, .tgid = id >> 32};
	struct session *s;

	if (!wanted(id))
		return 0;
	s = sessions.lookup(&key);
	if (s && s->sk)
		return 0;
	place = record_place(shape, call->ssl, call->library);
	call->library &= WITHOUT_BIO - 1;
	remember_record(call, id, place);
	if (!place)
		finish_uprobe(ctx, 1);	/* finds no job: see the head of this file */
	return 0;
}

/* The 7th argument is the number of bytes, the 8th where to put how many were written. */
INLINE int read_stack_arguments(struct pt_regs *ctx, struct tls_call *call)
{
#if defined(__x86_64__)
	u64 stack = STACK_AT_ENTRY(ctx);
	return bpf_probe_read_user(&call->count, 8, (void *)(stack + 8)) ||
		bpf_probe_read_user(&call->done_pointer, 8, (void *)(stack + 16));
#else
	return 1;	/* nothing is located there (capture/located_libraries.py) */
#endif
}

INLINE int writes(int shape)
{
	return shape == SHAPE_WRITE_INT || shape == SHAPE_WRITE_LONG || shape == SHAPE_WRITE_FILE ||
		shape == SHAPE_WRITE_EX || shape == SHAPE_WRITE_EX2 || shape == SHAPE_WRITE_VECTORS || shape == SHAPE_WRITE_KEPT;
}

INLINE int is_distrusted(u64 library)
{
	u32 number = library & (WITHOUT_BIO - 1);
	return (library & LOCATED) && distrusted.lookup(&number);
}

INLINE void distrust(u64 library)
{
	u32 number = library & (WITHOUT_BIO - 1);
	u8 one = 1;

	if (library & LOCATED)
		distrusted.update(&number, &one);
}

/* 1: the call's return is to be seen. */
INLINE int shape_enter(struct pt_regs *ctx, int shape, u64 library)
{
	u64 object = PT_REGS_PARM1(ctx), fourth = PT_REGS_PARM4(ctx), fifth = PT_REGS_PARM5(ctx);
	struct tls_call call = {.ssl = object, .library = library, .shape = shape};

	/* Read before they are chosen between: the verifier wants no computed offset into the context. */
	asm volatile("" : "+r"(fourth), "+r"(fifth));
	if (shape == SHAPE_FREE)
		return tls_free(ctx, object);
	if (shape == SHAPE_BIO_WRITE)
		return bio_write_enter(ctx, object, PT_REGS_PARM2(ctx), PT_REGS_PARM3(ctx));
	if (shape > SHAPE_BIO_WRITE)
		return record_enter(ctx, shape, &call);
	if (!wanted(bpf_get_current_pid_tgid()) || is_distrusted(library))
		return 0;
	if (shape < SHAPE_WRITE_KEPT && shape != SHAPE_WRITE_FILE) {
		call.buffer = PT_REGS_PARM2(ctx);
		call.count = PT_REGS_PARM3(ctx);
	}
	if (shape < SHAPE_HANDSHAKE)
		call.kind = writes(shape) ? CALL_WRITES : CALL_READS;
	/* The upper half of an int argument's register is anyone's. */
	if (shape < SHAPE_READ_LONG)
		call.count = (u32)call.count;
	if (shape == SHAPE_READ_EX || shape == SHAPE_READ_INTERNAL || shape == SHAPE_WRITE_EX)
		call.done_pointer = fourth;
	if (shape == SHAPE_WRITE_EX2)
		call.done_pointer = fifth;
	if (shape == SHAPE_WRITE_VECTORS) {
		call.output = call.buffer;
		call.buffer = fifth;
		call.blocks = PT_REGS_PARM6(ctx);
		if (read_stack_arguments(ctx, &call))
			return 0;
	}
	return tls_enter(ctx, &call);
}

/* GnuTLS's packet (struct mbuffer_st in lib/mbuffers.h, since 3.4): two links, how many bytes are used up, where they
 * are, how many. The call's buffer is then where the rest is; returns how long that is. */
INLINE u64 open_packet(struct tls_call *call)
{
	u64 packet = 0, used = 0, data = 0;
	u32 size = 0;

	if (READ_USER(packet, call->buffer) || !packet || READ_USER(used, packet + PACKET_USED) ||
	    READ_USER(data, packet + 24) || READ_USER(size, packet + 32) || used > size)
		return 0;
	call->buffer = data + used;
	return size - used;
}

/* BoringSSL's tls_open_app_data (ssl_open_record_t and Span<uint8_t> in its ssl/internal.h): a record is opened where it
 * is, and *opened is where its content begins and how long that is. The call's buffer is then that. */
#define OPENED_CLOSE_NOTIFY 3
#define MAX_CONTENT_BYTES 16384		/* RFC 8446 §5.1 */
INLINE u64 open_record(struct tls_call *call)
{
	u64 span[2] = {};

	READ_USER(span, call->buffer);
	call->buffer = span[0];
	call->count = MAX_CONTENT_BYTES;
	return span[1];
}

/* GnuTLS has made a record of a write that would have waited, and sends it when it is called again, without data if one
 * likes (gnutls_record_send(3)): what that returns was moved of the first call's data. If that is no longer there, it is
 * a gap. */
INLINE void go_on_with_write(struct pt_regs *ctx, struct tls_call *call, u64 id)
{
	s64 n = PT_REGS_RC(ctx);
	struct session *s;
	u64 head = 0;

	if (!n || (n < 0) != !!call->buffer)
		return;
	s = session_of(call, id);
	if (!s)
		return;
	READ_USER(head, call->buffer ?: s->unsent);
	if (n < 0) {
		s->unsent = call->buffer;
		s->unsent_head = head;
		return;
	}
	head ^= s->unsent_head;
	if (n < sizeof(head))
		head <<= (sizeof(head) - n) * 8;
	call->buffer = head ? 0 : s->unsent;
	call->count = n;
}

/* Bytes that a returning call moved; 0: none, or it is not a call that moves any. */
INLINE u64 bytes_moved(struct pt_regs *ctx, struct tls_call *call, int shape)
{
	s64 n = (int)PT_REGS_RC(ctx);
	u64 room = call->count, done = 0;

	if (shape >= SHAPE_READ_LONG && shape <= SHAPE_READ_PACKET)
		n = PT_REGS_RC(ctx);
	if (shape == SHAPE_WRITE_FILE)
		return n > 0 ? n : 0;
	if (shape == SHAPE_READ_PACKET && n > 0)
		room = open_packet(call);
	if (shape == SHAPE_READ_OPENED) {
		n = n ? 0 : open_record(call);
		room = call->count;
	}
	if (shape >= SHAPE_READ_EX) {
		if (n == (shape != SHAPE_WRITE_VECTORS) && call->done_pointer)
			bpf_probe_read_user(&done, sizeof(done), (void *)call->done_pointer);
		n = done;
	}
	if (n <= 0 || (!call->buffer && shape != SHAPE_WRITE_LONG))
		return 0;
	if (n <= room)
		return n;
	/* More than there was room for: no TLS function says that. */
	distrust(call->library);
	return 0;
}

/* Reads whose result says, of no bytes, whether it is by close_notify (RFC 8446 §6.1) or something failed. */
INLINE int notifies(int shape)
{
	return shape < SHAPE_WRITE_KEPT && shape != SHAPE_READ_EX && !writes(shape);
}

INLINE int is_notified(struct pt_regs *ctx, struct tls_call *call, int shape)
{
	if (shape == SHAPE_READ_OPENED)
		return (int)PT_REGS_RC(ctx) == OPENED_CLOSE_NOTIFY;
	return notifies(shape) && !(int)PT_REGS_RC(ctx) && (call->count || shape == SHAPE_READ_PACKET);
}

INLINE int shape_return(struct pt_regs *ctx, u64 stack)
{
	u64 id = bpf_get_current_pid_tgid(), n;
	int shape;
	u32 tid = id;
	struct tls_call_key key = {};
	struct tls_call *call = tls_returning(id, stack, &key);
	struct session *s;
	struct connection *c;
	int ready = 0;

	if (!call)
		return 0;
	shape = call->shape;
	if (!recording())
		goto out;
	if (shape == SHAPE_WRITE_LONG)
		go_on_with_write(ctx, call, id);
	if (shape < SHAPE_HANDSHAKE) {
		n = bytes_moved(ctx, call, shape);
		if (n) {
			if (call->output && !call->connection)
				remember_record(call, id, call->output);
			ready = tls_moved(call, tls_around(call, key.stack), id, writes(shape) ? DIRECTION_SENT : DIRECTION_RECEIVED, n);
			goto out;
		}
		if (!call->connection && !is_notified(ctx, call, shape)) {
			if (call->library & WITHOUT_BIO)
				arrivals.delete(&tid);
			goto out;
		}
	}
	s = session_of(call, id);
	if (!s)
		goto out;
	c = bind(s, call, id);
	if (c && notifies(shape)) {
		c->notifies = 1;
		if (!c->notified && is_notified(ctx, call, shape))
			c->notified = bpf_ktime_get_ns();
	}
	goes_over_datagrams(s, call);
	if (shape >= SHAPE_HANDSHAKE && !s->established) {
		if (!s->handshake_started)
			s->handshake_started = call->entered;
		if ((int)PT_REGS_RC(ctx) == (shape == SHAPE_HANDSHAKE)) {
			s->established = 1;
			put_session_event(SAMPLE_HANDSHAKE, s, s->handshake_started, id);
		}
	}
out:
	tls_calls.delete(&key);
	return ready;
}

/* One program serves all shapes: the cookie is shape | library << 8. Closing a link costs 0.1 s. */
int enter_by_cookie(struct pt_regs *ctx)
{
	u64 cookie = bpf_get_attach_cookie(ctx);
	shape_enter(ctx, cookie & 0xff, cookie >> 8);
	return NO_RETURN;
}

int return_by_cookie(struct pt_regs *ctx)
{
	return finish_uprobe(ctx, shape_return(ctx, STACK_AT_EXIT(ctx, bpf_get_attach_cookie(ctx))));
}

/* Entry and return of a call, where the kernel asks at entry whether to show the return (Linux 6.13). */
int call_by_cookie(struct pt_regs *ctx)
{
	u64 cookie = bpf_get_attach_cookie(ctx);

	if (!is_at_entry(ctx, PT_REGS_IP(ctx))) {
		call_returns.call(ctx, RETURN_OF_TLS);
		return NO_RETURN;
	}
	if (!shape_enter(ctx, cookie & 0xff, cookie >> 8))
		return NO_RETURN;
	return shows_return(bpf_get_current_pid_tgid(), STACK_AT_ENTRY(ctx));
}
