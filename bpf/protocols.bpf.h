/* SPDX-License-Identifier: GPL-2.0-or-later
 * Which protocol the first bytes of a direction speak. It decides what is worth copying; what a message means
 * is for user space. All file I/O uses read and write too, but files never get here.
 */
enum verdict {
	VERDICT_NO,
	VERDICT_MAYBE,		/* right so far, but too short to tell */
	VERDICT_TLS,
	VERDICT_HTTP,
};

/* RFC 8446 §5.1: type 20–23, version 3.x, length up to 2^14 + 2048. */
INLINE int is_tls_record(u8 *b, u32 n)
{
	return n >= 5 && b[0] >= 20 && b[0] <= 23 && b[1] == 3 && b[2] <= 4 && b[3] <= 0x48 && (b[3] | b[4]);
}

/* A handshake record that carries a hello, as far as RFC 8446 §4.1.2 and §4.1.3 fix its bytes: any call on a
 * connection that speaks something else is looked at, and random bytes must not turn it.
 */
INLINE int is_hello(u8 *b, u32 n)
{
	return n >= 11 && b[0] == 22 && b[1] == 3 && b[2] <= 3 && (b[5] == 1 || b[5] == 2) && !b[6] && b[9] == 3 && b[10] <= 3;
}

/* Says yes or no by its sign, negative for no, without branches: the verifier would follow each. */
INLINE s32 within(s32 value, s32 least, s32 most)
{
	return (value - least) | (most - value);
}

/* What methods that are registered consist of. */
INLINE s32 sign_of_capital(u8 c)
{
	return within(c, 'A', 'Z') & within(c, '-', '-');
}

/* What a method consists of that programs send (a token may have more, RFC 9110 §5.6.2): `curl -X get` is HTTP too. */
INLINE s32 sign_of_method(u8 c, int first)
{
	s32 letter = within(c | 0x20, 'a', 'z');

	return first ? letter : letter & within(c, '0', '9') & within(c, '-', '-') & within(c, '_', '_');
}

/* RFC 9112 §3 and §4: METHOD SP target, or HTTP/1.; RFC 9113 §3.4: the preface is of the first form. */
INLINE int speaks_http(u8 *b, u32 n)
{
	const char status[] = {'H', 'T', 'T', 'P', '/', '1', '.'};
	int matches = 1;
	s32 capitals = 0;
	u32 i;

	#pragma clang loop unroll(full)
	for (i = 0; i < sizeof(status); i++)
		if (i < n && b[i] != status[i])
			matches = 0;
	if (matches)
		return n >= sizeof(status) ? VERDICT_HTTP : VERDICT_MAYBE;

	/* A token of 3 to 14, a space, then what a target begins with; where the token is no word of capitals, a path. */
	#pragma clang loop unroll(full)
	for (i = 0; i < PREFIX_BYTES - 1; i++) {
		if (i >= n)
			return VERDICT_MAYBE;
		if (b[i] == ' ') {
			u8 next = b[i + 1];
			if (i < 3)
				return VERDICT_NO;
			if (i + 1 >= n)
				return VERDICT_MAYBE;
			if (next == '/')
				return VERDICT_HTTP;
			if (capitals < 0)
				return VERDICT_NO;
			if (next == '*' || next == 'h')
				return VERDICT_HTTP;
			/* CONNECT names a host. */
			return i == 7 && b[0] == 'C' && b[1] == 'O' && b[2] == 'N' && b[3] == 'N' &&
				b[6] == 'T' ? VERDICT_HTTP : VERDICT_NO;
		}
		if (sign_of_method(b[i], !i) < 0)
			return VERDICT_NO;
		capitals |= sign_of_capital(b[i]);
	}
	return VERDICT_NO;
}

/* 0 where a proxy says first whom it speaks for (haproxy's PROXY protocol, version 1). */
INLINE u32 begins_no_proxy_line(u8 *b)
{
	return (b[0] ^ 'P') | (b[1] ^ 'R') | (b[2] ^ 'O') | (b[3] ^ 'X') | (b[4] ^ 'Y') | (b[5] ^ ' ');
}

/* After an empty line, which servers ignore before a request (RFC 9112 §2.2): a method, or the rest of what begins the PROXY
 * protocol's version 2.
 */
#define BEHIND_EMPTY_LINE_BYTES 5

INLINE int verdict_behind_empty_line(u8 *b, u32 n)
{
	s32 method = within(b[2], 'A', 'Z') | within(b[3], 'A', 'Z') | within(b[4], 'A', 'Z');
	s32 signature = within(b[2], '\r', '\r') | within(b[3], '\n', '\n') | within(b[4], 0, 0);

	if (n < BEHIND_EMPTY_LINE_BYTES)
		return VERDICT_MAYBE;
	return (method & signature) < 0 ? VERDICT_NO : VERDICT_HTTP;
}

/* 0 for the SETTINGS with which an HTTP/2 server begins (RFC 9113 §3.4, §4.1, §6.5), often before it has read anything: a
 * length of under 256 bytes, six each, no flags, stream 0. As far as there are bytes; those behind them are 0.
 */
#define FRAME_HEAD_BYTES 9

INLINE u32 is_no_settings(u8 *b, u32 n)
{
	u32 type = n > 3 ? b[3] ^ 4 : 0;

	return b[0] | b[1] | b[2] % 6 | type | b[4] | b[5] | b[6] | b[7] | b[8];
}

/* What comes next reads bytes again. With what was learnt of them before the verifier would follow it several times. */
#define FORGET_BYTES(b) asm volatile("" : "+r"(b))

INLINE int verdict_on(u8 *b, u32 n)
{
	if (apart(n) && !is_no_settings(b, n))
		return n < FRAME_HEAD_BYTES ? VERDICT_MAYBE : VERDICT_HTTP;
	if (!begins_no_proxy_line(b))
		return VERDICT_HTTP;
	if (b[0] == '\r' && (n < 2 || b[1] == '\n'))
		return verdict_behind_empty_line(b, n);
	FORGET_BYTES(b);
	if (is_tls_record(b, apart(n)))
		return VERDICT_TLS;
	FORGET_BYTES(b);
	if (n < 5 && b[0] >= 20 && b[0] <= 23 && (n < 2 || b[1] == 3))
		return VERDICT_MAYBE;
	FORGET_BYTES(b);
	return speaks_http(b, n);
}

/* 0 for what greets a SOCKS proxy (RFC 1928 §3; version 4's CONNECT): what follows the agreement with it is another
 * protocol. Without branches, and kept in the connection until it is asked: either way the verifier would follow each
 * verdict twice.
 */
INLINE u32 greets_no_socks_proxy(u8 *b, u32 n)
{
	u32 version_5 = (b[0] ^ 5) | (n ^ (2 + (u32)b[1]));
	u32 version_4 = (b[0] ^ 4) | (b[1] ^ 1);

	return version_5 * version_4;
}

/* What is said before TLS, in the clear, by how it begins: SOCKS (4, 5), the greetings of SMTP and FTP (220), POP (+OK), IMAP
 * (* OK), NATS (INFO) and MySQL (a packet of less than 256 bytes, the first, protocol 10), XMPP's stream (<?xml, <stream), and
 * the requests for TLS of PostgreSQL, LDAP, RDP and AMQP. It is kept, up to MAX_SAID_BEFORE_TLS bytes of both directions, and
 * shown if TLS or HTTP follows. MySQL's and PostgreSQL's first four bytes are read alone by some; of the others a first call
 * of fewer bytes than are looked at tells nothing. Without branches: the verifier sees this hundreds of times.
 */
#define MAX_SAID_BEFORE_TLS 4096
#define WORD(a, b, c) ((u64)(a) | (b) << 8 | (c) << 16)

/* Negative if it is not 0. */
INLINE s64 sign_of_difference(u64 difference)
{
	return difference | -difference;
}

INLINE u32 may_precede_tls(u8 *b, u32 n)
{
	u64 word = WORD(b[0], b[1], b[2]), next = WORD(b[4], b[5], b[6]), of_four = n ^ 4;
	s64 socks_5 = sign_of_difference(b[0] ^ 5) | within(n, 2, 2 + (s32)b[1]) | within(b[1], 0, 16);
	s64 socks_4 = sign_of_difference((word & 0xffff) ^ WORD(4, 1, 0));
	s64 text = sign_of_difference(word ^ WORD('2', '2', '0')) & sign_of_difference(word ^ WORD('+', 'O', 'K')) &
		sign_of_difference((word & 0xe0ffff) ^ WORD('*', ' ', 0x40)) &
		sign_of_difference((word ^ WORD('I', 'N', 'F')) | (b[3] ^ 'O')) &
		sign_of_difference((word ^ WORD('A', 'M', 'Q')) | (b[3] ^ 'P')) &
		sign_of_difference(word ^ WORD('<', '?', 'x')) & sign_of_difference(word ^ WORD('<', 's', 't'));
	s64 mysql = ((s64)n - 4) | ((s64)b[0] - 1) | sign_of_difference(b[1] | b[2] | b[3] | (b[4] ^ 10) * of_four);
	s64 postgresql = ((s64)n - 4) | sign_of_difference(word | (b[3] ^ 8) | (next ^ WORD(0x04, 0xd2, 0x16)) * of_four);
	s64 ldap = sign_of_difference((b[0] ^ 0x30) | (b[2] ^ 2) | (b[3] ^ 1) | (b[5] ^ 0x77));
	s64 rdp = ((s64)n - 3) | sign_of_difference(word ^ 3);

	return (u64)~(socks_5 & socks_4 & text & mysql & postgresql & ldap & rdp) >> 63;
}

/* A frame of HTTP/2 as far as its head tells (RFC 9113 §4.1, §6): DATA or HEADERS of a stream, WINDOW_UPDATE, PING. By those an
 * older connection is known, for they begin calls; a length of up to 2^14, which few programs raise.
 */
INLINE s32 sign_of_frame(u8 *b, u32 n)
{
	u32 length = b[0] << 16 | b[1] << 8 | b[2], type = b[3], flags = b[4];
	u32 stream = (u32)b[5] << 24 | b[6] << 16 | b[7] << 8 | b[8];
	/* END_STREAM and PADDED; of HEADERS also END_HEADERS and PRIORITY. */
	u32 unknown = flags & ~(0x09 | (type & 1) * 0x24);
	s32 of_stream = within(type, 0, 1) | within(unknown, 0, 0) | (s32)(stream - 1);
	s32 window = within(type, 8, 8) | within(length, 4, 4) | within(flags, 0, 0);
	s32 ping = within(type, 6, 6) | within(length, 8, 8) | within(flags, 0, 1) | within(stream, 0, 0);

	return ((s32)n - FRAME_HEAD_BYTES) | within(length, 0, 1 << 14) | (s32)stream | (of_stream & window & ping);
}

/* Text takes four bytes to be told from chance, and no byte of those that are known may be another. */
#define MIN_TEXT_BYTES 4

INLINE s32 sign_of_text(u8 *b, u32 n)
{
	s32 yes = (s32)n - MIN_TEXT_BYTES;
	u32 i;

	/* Unrolled it needs more stack than there is. */
	#pragma clang loop unroll(disable) vectorize(disable)
	for (i = 0; i < PREFIX_BYTES; i++)
		yes |= within(b[i], ' ', '~') & within(b[i], '\t', '\r') & (s32)(i - n);
	return yes;
}

/* The head of a packet of SQL Server's (MS-TDS §2.2.3.1): type, status, length of it all, a number, a window of 0. */
#define TDS_HEAD_BYTES 8

INLINE s32 sign_of_tds_packet(u8 *b, u32 n)
{
	return ((s32)n - TDS_HEAD_BYTES) | within(b[0], 1, 18) | within(b[1], 0, 31) |
		within(b[2] << 8 | b[3], TDS_HEAD_BYTES + 1, 0x7fff) | within(b[7], 0, 0);
}

/* A TLS record as far as its type and version tell, of which there may be one byte. */
INLINE s32 sign_of_record(u8 *b, u32 n)
{
	return within(b[0], 20, 23) | (within(b[1], 3, 3) & (1 - (s32)n));
}

/* Calls on an older connection that may say nothing before it is given up, since a message's head starts a call, and what is
 * under way may be long; the same goes for a connection that begins with SOCKS. A TLS record's head is soon there if any
 * is, and five bytes are found by chance.
 */
#define MAX_MISSES 60000
#define MAX_MISSES_OF_TLS 200

/* From here on it is TLS, a hello first. */
INLINE void turn_to_tls(struct connection *c)
{
	c->protocol = PROTOCOL_TLS;
	c->left = 0;
	c->hello_left[0] = c->hello_left[1] = MAX_HELLO_BYTES;
}

/* Takes up to PREFIX_BYTES that begin a call in direction d; may settle c->protocol. */
INLINE void infer(struct connection *c, u32 d, u8 *bytes, u32 n)
{
	u8 *prefix = c->prefix + (d & 1) * PREFIX_ROOM;
	u32 have = c->prefix_length[d & 1];

	/* STARTTLS, and TLS in a CONNECT tunnel: a ClientHello turns any connection; or the answer to one that came in one
	 * piece with what is before (PROXY). */
	if (c->protocol != PROTOCOL_TLS && is_hello(bytes, apart(n))) {
		turn_to_tls(c);
		return;
	}
	if (c->protocol != PROTOCOL_UNDECIDED)
		return;
	/* The peer had taken what begins a stream of AF_UNIX before it could be looked at; of MPTCP no bytes of calls that are
	 * not hooked can be. What cannot be told is shown, not dropped. */
	if (!apart(n) && c->untold && c->opened) {
		c->protocol = PROTOCOL_HTTP;
		return;
	}
	/* What fills it decides. All that there is room for, and zeros where there are fewer: with other lengths the verifier
	 * would follow each pair of `have` and `n` to the end. */
	u64 at = have;

	asm volatile("" : "+r"(at));
	at &= PREFIX_BYTES - 1;
	if (apart(n))
		bpf_probe_read_kernel(prefix + at, PREFIX_BYTES, bytes);
	have += n;
	if (have > PREFIX_BYTES)
		have = PREFIX_BYTES;
	c->prefix_length[d & 1] = have;

	c->greets_no_socks_proxy = greets_no_socks_proxy(prefix, have);
	c->may_precede_tls |= may_precede_tls(prefix, have);
	int verdict = verdict_on(prefix, have);
	if (verdict == VERDICT_TLS && c->misses < MAX_MISSES_OF_TLS) {
		/* Joined in the middle, there is no hello to come. */
		if (prefix[0] == 22 && c->position[0] + c->position[1] <= PREFIX_BYTES)
			turn_to_tls(c);
		c->protocol = PROTOCOL_TLS;
	} else if (verdict == VERDICT_HTTP) {
		c->protocol = PROTOCOL_HTTP;
	} else if (verdict != VERDICT_MAYBE) {
		c->prefix_length[d & 1] = 0;
		/* From its first byte on it speaks neither: it never will. An older one may be inside a body. */
		if (!c->opened && sign_of_frame(prefix, have) >= 0)
			c->protocol = PROTOCOL_HTTP;
		else if ((c->opened && !c->misses && c->greets_no_socks_proxy) || c->misses >= MAX_MISSES)
			c->protocol = PROTOCOL_OTHER;
		else
			c->misses++;
	}
}
