/* SPDX-License-Identifier: GPL-2.0-or-later
 * rustls, from 0.20 on. Compilers inline what programs call of it; what they cannot is behind a vtable, and each record
 * passes through it: the keys' encrypt and decrypt. (result, key, message, sequence number), the result in memory.
 *
 * Rust promises no layout of result and message, and it differs between versions. What it holds is known, though: a
 * pointer to a record's bytes, their number, and what is in it. So each is recognised by its value; sealing never fails,
 * and a result without a record of the right length makes all of the file's probes distrusted.
 */
/* A message: a slice, or a Vec in any order of its words, then type and version in either order. */
#define MESSAGE_WORDS 6
#define RESULT_WORDS 8
/* No length is as large, no address of the heap as small. */
#define IS_ADDRESS(word) ((word) >> 20)
#define MIN_TAG_BYTES 16
#define MAX_NONCE_BYTES 16
/* rustls 0.23 leaves room for the header in front of what it seals. */
#define RECORD_PREFIX_BYTES 5
#define RECORD_DATA 23
#define MAX_CHUNKS 64

/* rustls numbers the types of RFC 8446 §5.1 from 0 on, and of versions TLS 1.2 and 1.3 are the 4th and 5th. */
INLINE int is_data(u64 tail)
{
	u16 version = tail;

	return (u8)tail == 3 || ((version == 4 || version == 5) && (u8)(tail >> 32) == 3);
}

/* What is written is a part of an array of slices: from the byte `from` on, which may be behind the first ones. */
INLINE void open_chunks(struct tls_call *call, u64 chunks, u64 number, u64 from)
{
	u64 length = 0, i;

	#pragma clang loop unroll(disable)
	for (i = 0; i < MAX_CHUNKS && i < number; i++) {
		if (READ_USER(length, chunks + 8))
			return;
		if (from < length) {
			call->buffer = chunks;
			call->blocks = number - i;
			call->skip = from;
			return;
		}
		from -= length;
		chunks += 16;
	}
}

/* Where the record that is to be opened was seen to be received. */
INLINE void find_received(struct tls_call *call)
{
	struct record_source *found;
	struct record_key key = {};

	if (READ_USER(key, call->buffer) || !(found = received_records.lookup(&key)))
		return;
	call->sk = found->sk;
	call->connection = found->connection;
}

INLINE int rustls_enter(struct pt_regs *ctx, int shape, u64 library)
{
	u64 id = bpf_get_current_pid_tgid(), sequence = PT_REGS_PARM4(ctx), w[MESSAGE_WORDS] = {}, tail;
	struct tls_call call = {.ssl = PT_REGS_PARM2(ctx), .done_pointer = PT_REGS_PARM1(ctx), .library = library};
	struct session_key key = {.ssl = call.ssl, .tgid = id >> 32};
	u8 one = 1;

	if (!wanted(id) || is_distrusted(library) || bpf_probe_read_user(w, sizeof(w), (void *)PT_REGS_PARM3(ctx)))
		return 0;
	/* RFC 8446 §5.3: a key is new, whatever was at its address. */
	if (!sequence)
		sessions.delete(&key);
	if (!key_users.lookup(&key.tgid))
		key_users.update(&key.tgid, &one);
	if (shape == SHAPE_RUSTLS_READ) {
		call.kind = CALL_READS;
		call.buffer = IS_ADDRESS(w[0]) ? w[0] : w[1];
		call.count = IS_ADDRESS(w[0]) ? w[1] : w[2];
		find_received(&call);
		return tls_enter(ctx, &call);
	}
	call.kind = CALL_WRITES;
	tail = w[2];
	call.buffer = w[0];
	call.count = w[1];
	if (shape == SHAPE_RUSTLS_WRITE_CHUNKS) {
		tail = w[4];
		call.buffer = w[0] ? 0 : w[1];
		call.count = w[0] ? w[3] - w[2] : w[2];
		if (w[0])
			open_chunks(&call, w[0], w[1], w[2]);
	}
	call.untold = !is_data(tail);
	return tls_enter(ctx, &call);
}

/* Bytes that a key has opened, 0 if it refused them; the call's buffer is then where they are: where the record was. */
INLINE u64 bytes_opened(struct tls_call *call, u64 *r)
{
	u64 sealed = call->count, from = call->buffer, n, tail;
	u8 type = 0;
	int i;

	#pragma clang loop unroll(full)
	for (i = 0; i < RESULT_WORDS - 3; i++) {
		if (r[i] - from > MAX_NONCE_BYTES)
			continue;
		/* A Vec has room for the whole record. */
		n = r[i + 1] + MIN_TAG_BYTES <= sealed ? r[i + 1] : r[i + 2];
		tail = n == r[i + 1] ? r[i + 2] : r[i + 3];
		if (n + MIN_TAG_BYTES > sealed)
			return 0;
		call->buffer = r[i];
		/* RFC 8446 §5.2: its type was sealed with it, and is still there; not if it was refused, which may leave in
		 * the result what was there before. */
		if (n + MIN_TAG_BYTES + 1 == sealed && (READ_USER(type, r[i] + n) || type != RECORD_DATA))
			return 0;
		return is_data(tail) ? n : 0;
	}
	return 0;
}

/* Where the record that a key has sealed begins, behind its header; 0 if there is none. */
INLINE u64 find_sealed(struct tls_call *call, u64 *r, u64 prefix)
{
	u64 overhead;
	int i;

	#pragma clang loop unroll(full)
	for (i = 2; i < RESULT_WORDS; i++) {
		overhead = r[i] - call->count - prefix;
		if (overhead != 16 && overhead != 17 && overhead != 24)
			continue;
		if (IS_ADDRESS(r[i - 1]))
			return r[i - 1] + prefix;
		if (IS_ADDRESS(r[i - 2]))
			return r[i - 2] + prefix;
	}
	return 0;
}

INLINE void remember_sealed(struct tls_call *call, u64 from, u64 id)
{
	struct session *k = session_of(call, id);
	struct record_key key = {};

	/* Once settled it stays settled. */
	if (!k || k->connection || READ_USER(key, from))
		return;
	struct record_owner owner = {.ssl = call->ssl, .session = k->id, .tgid = id >> 32};
	sealed_records.update(&key, &owner);
}

/* A key that is settled, now if need be, speaks for its connection's session. */
INLINE void speak_for_connection(struct tls_call *call, u32 direction, u64 id)
{
	struct session *k, *s;
	struct connection *c;
	u64 sk = call->sk, connection = call->connection;

	call->connection = 0;
	k = session_of(call, id);
	if (!k)
		return;
	if (k->connection) {
		sk = k->sk;
		connection = k->connection;
	}
	c = sk ? connections.lookup(&sk) : NULL;
	if (!c || c->id != connection) {
		note_told(k, direction, 0);
		return;
	}
	if (!k->connection)
		settle_key(k, c, sk, id);
	call->ssl = call->sk = sk;
	call->connection = connection;
	s = session_of(call, id);
	if (s)
		note_told(s, direction, 1);
}

INLINE int rustls_return(struct pt_regs *ctx, int shape, u64 stack)
{
	u64 id = bpf_get_current_pid_tgid(), r[RESULT_WORDS] = {}, n, sealed;
	struct tls_call_key key = {};
	struct tls_call *call = tls_returning(id, stack, &key);
	u32 direction = shape == SHAPE_RUSTLS_READ ? DIRECTION_RECEIVED : DIRECTION_SENT, tid = id;
	struct job *job;
	int ready = 0;

	if (!call)
		return 0;
	if (!recording() || is_distrusted(call->library) ||
	    bpf_probe_read_user(r, sizeof(r), (void *)call->done_pointer))
		goto out;
	if (direction == DIRECTION_RECEIVED) {
		n = bytes_opened(call, r);
	} else {
		sealed = find_sealed(call, r, shape == SHAPE_RUSTLS_WRITE_CHUNKS ? RECORD_PREFIX_BYTES : 0);
		if (!sealed) {
			/* It never fails. */
			distrust(call->library);
			goto out;
		}
		remember_sealed(call, sealed, id);
		n = call->untold ? 0 : call->count;
	}
	if (!n)
		goto out;
	speak_for_connection(call, direction, id);
	ready = tls_moved(call, NULL, id, direction, n);
	if (ready && call->skip && (job = jobs.lookup(&tid)))
		job->skip = call->skip;
out:
	tls_calls.delete(&key);
	return ready;
}

int rustls_enter_by_cookie(struct pt_regs *ctx)
{
	u64 cookie = bpf_get_attach_cookie(ctx);
	rustls_enter(ctx, cookie & 0xff, cookie >> 8);
	return NO_RETURN;
}

int rustls_return_by_cookie(struct pt_regs *ctx)
{
	u64 cookie = bpf_get_attach_cookie(ctx);
	return finish_uprobe(ctx, rustls_return(ctx, cookie & 0xff, STACK_AT_EXIT(ctx, cookie)));
}

/* Nobody leaves these functions for another stack. */
int rustls_call_by_cookie(struct pt_regs *ctx)
{
	u64 cookie = bpf_get_attach_cookie(ctx);

	if (!is_at_entry(ctx, PT_REGS_IP(ctx))) {
		call_returns.call(ctx, RETURN_OF_RUSTLS);
		return NO_RETURN;
	}
	if (!rustls_enter(ctx, cookie & 0xff, cookie >> 8))
		return NO_RETURN;
	return SHOW_RETURN;
}
