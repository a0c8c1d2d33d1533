/* SPDX-License-Identifier: GPL-2.0-or-later
 * Calls of TLS libraries that threads were in when the recording began: no probe saw them entered. Mostly user space
 * finds out what they were called with (capture/older_calls.py), and puts an entry where that would be; a probe waits
 * where they return to. Here are those of which it finds out less.
 *
 * OpenSSL and its kin decrypt a record where they have received it, and copy from there what they return. So a read that
 * was waiting for a record's header when the recording began, and which no probe saw entered, is understood when it
 * copies: user space has found where it receives (capture/older_reads.py), and the record is still around what it
 * copies. What is handed over of a handshake (RFC 8446 §4.6) is not the program's. 1: it is set up for copying.
 */
#define RECORD_HEADER_BYTES 5
/* RFC 8446 §5.2: after the content its type, then the tag; RFC 5288 §3, RFC 5246 §6.2.3.2: before it a nonce or an IV. */
#define TYPE_AND_TAG_BYTES 17
#define RECORD_ALERT 21
#define RECORD_HANDSHAKE 22

INLINE int is_plaintext_of(u64 record, u64 from, u64 n)
{
	u8 head[RECORD_HEADER_BYTES] = {}, type = 0;
	u64 length, skip = from - record - RECORD_HEADER_BYTES;

	if (bpf_probe_read_user(head, sizeof(head), (void *)record))
		return 0;
	length = data_record_length(head);
	if (!n || (skip != 0 && skip != 8 && skip != 16) || skip + n + TYPE_AND_TAG_BYTES - 1 > length)
		return 0;
	if (skip)
		return 1;
	bpf_probe_read_user(&type, sizeof(type), (void *)(from + length - TYPE_AND_TAG_BYTES));
	return type != RECORD_ALERT && type != RECORD_HANDSHAKE;
}

INLINE int older_read_copies(u64 from, u64 n, u64 library)
{
	u64 id = bpf_get_current_pid_tgid();
	u32 tid = id;
	struct older_read *older = older_reads.lookup(&tid);
	struct sock_reference s = {};
	struct connection *c;
	u8 nameless;

	if (!older || older->tgid != id >> 32 || !wanted(id) || !is_plaintext_of(older->buffer, from, n))
		return 0;
	c = socket_of(file_of(older->fd), &s) ? connection_of(&s, id >> 32, older->fd) : NULL;
	if (!c || c->protocol != PROTOCOL_TLS)
		return 0;
	nameless = !c->session;
	struct tls_call call = {
		.ssl = nameless ? older->buffer : c->ssl, .buffer = from, .count = n, .library = library,
		.sk = s.sk, .connection = c->id, .entered = bpf_ktime_get_ns(),
	};
	older_reads.delete(&tid);
	count(COUNTER_PROBE_HITS, 1);
	int ready = tls_moved(&call, NULL, id, DIRECTION_RECEIVED, n);
	c->nameless = nameless;
	return ready;
}

int copy_enter_by_cookie(struct pt_regs *ctx)
{
	u64 cookie = bpf_get_attach_cookie(ctx);
	return finish_uprobe(ctx, older_read_copies(PT_REGS_PARM2(ctx), PT_REGS_PARM3(ctx), cookie >> 8));
}
