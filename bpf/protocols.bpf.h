/* SPDX-License-Identifier: GPL-2.0-or-later
 * Which protocol the first bytes of a direction speak. It decides what is worth copying; what a message means
 * is for user space. All file I/O uses read and write too, but files never get here.
 */
#define HEAD_BYTES 24
#define HEAD_ROOM 64	/* so that the verifier, which cannot relate an offset to a length, sees it suffice */

enum verdict {
	VERDICT_NO,
	VERDICT_MAYBE,		/* right so far, but too short to tell */
	VERDICT_TLS,
	VERDICT_HTTP,
};

/* 1 or 0, without a branch: the verifier would follow both ways of each, to the end of the program. The values are
 * small; the compiler, which would know better, is not to see that. */
INLINE u64 equals(u64 value, u64 other)
{
	value ^= other;
	asm volatile("" : "+r"(value));
	return (value - 1) >> 63;
}

INLINE u64 is_below(u64 value, u64 limit)
{
	asm volatile("" : "+r"(value));
	return (value - limit) >> 63;
}

/* RFC 8446 §5.1: type 20–23, version 3.x, length up to 2^14 + 2048. */
INLINE int is_tls_record(u8 *b, u32 n)
{
	return !(is_below(n, 5) | is_below(b[0], 20) | is_below(23, b[0]) | (b[1] ^ 3) | is_below(4, b[2]) |
		is_below(0x48, b[3]) | equals(b[3] | b[4], 0));
}

/* A handshake record that carries a ClientHello, as far as RFC 8446 §4.1.2 fixes its bytes: any call on a
 * connection that speaks something else is looked at, and random bytes must not turn it.
 */
INLINE int is_client_hello(u8 *b, u32 n)
{
	return !(is_below(n, 11) | (b[0] ^ 22) | (b[1] ^ 3) | is_below(3, b[2]) | (b[5] ^ 1) | b[6] | (b[9] ^ 3) |
		is_below(3, b[10]));
}

/* A method: a token of 3 to 14 capitals (a hyphen inside), a space, then what a target begins with. Bit i is byte i. */
#define SHORTEST_METHOD (1 << 3)
#define METHOD_BYTES ((1 << (PREFIX_BYTES - 1)) - 1)

/* RFC 9112 §3 and §4: METHOD SP target, or HTTP/1.; RFC 9113 §3.4: the preface is of the first form. What is behind the
 * n bytes, up to PREFIX_BYTES, is 0. */
INLINE int speaks_http(u8 *b, u32 n)
{
	const char status[] = {'H', 'T', 'T', 'P', '/', '1', '.'};
	u64 token = 0, spaces = 0, targets = 0, given = (1ULL << n) - 1, differs = 0, end;
	volatile u8 *each = b;	/* one by one, or they all end up on the stack */
	u32 i;

	#pragma clang loop unroll(full)
	for (i = 0; i < sizeof(status); i++)
		differs |= (equals(each[i], status[i]) ^ 1) << i;
	if (!(differs & given))
		return n >= sizeof(status) ? VERDICT_HTTP : VERDICT_MAYBE;

	#pragma clang loop unroll(disable)
	for (i = 0; i < PREFIX_BYTES; i++) {
		u8 byte = each[i];
		token |= (is_below(byte, 'Z' + 1) ^ is_below(byte, 'A') | (i ? equals(byte, '-') : 0)) << i;
		spaces |= equals(byte, ' ') << i;
		targets |= (equals(byte, '/') | equals(byte, '*') | equals(byte, 'h')) << i;
	}
	end = ~token & METHOD_BYTES;
	end &= -end;
	if (!end)
		return VERDICT_NO;
	if (!(end & given))
		return VERDICT_MAYBE;
	if (!(end & spaces) || end < SHORTEST_METHOD)
		return VERDICT_NO;
	if (!((end << 1) & given))
		return VERDICT_MAYBE;
	if ((end << 1) & targets)
		return VERDICT_HTTP;
	/* CONNECT names a host. */
	return (end ^ 1 << 7) | (b[0] ^ 'C') | (b[1] ^ 'O') | (b[2] ^ 'N') | (b[3] ^ 'N') | (b[6] ^ 'T') ? VERDICT_NO :
		VERDICT_HTTP;
}

/* 0 where a proxy says first whom it speaks for (haproxy's PROXY protocol, version 1). */
INLINE u32 begins_no_proxy_line(u8 *b)
{
	return (b[0] ^ 'P') | (b[1] ^ 'R') | (b[2] ^ 'O') | (b[3] ^ 'X') | (b[4] ^ 'Y') | (b[5] ^ ' ');
}

/* The first n bytes of a direction; what is behind them, up to PREFIX_BYTES, is 0. */
INLINE int verdict_on(u8 *b, u32 n)
{
	if (!begins_no_proxy_line(b))
		return VERDICT_HTTP;
	if (is_tls_record(b, n))
		return VERDICT_TLS;
	if (is_below(n, 5) & is_below(19, b[0]) & is_below(b[0], 24) & (is_below(n, 2) | equals(b[1], 3)))
		return VERDICT_MAYBE;
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

/* Calls on an older connection that may say nothing before it is given up: a message's head starts a call. So on one
 * that begins with SOCKS.
 */
#define MAX_MISSES 200

/* From here on it is TLS, a hello first. */
INLINE void turn_to_tls(struct connection *c)
{
	c->protocol = PROTOCOL_TLS;
	c->hello_left[0] = c->hello_left[1] = MAX_HELLO_BYTES;
}

/* Takes up to PREFIX_BYTES that begin a call in direction d, in HEAD_ROOM of which the second half is free; may settle
 * c->protocol. */
INLINE void infer(struct connection *c, u32 d, u8 *bytes, u32 n)
{
	u8 *prefix = c->prefix + (d & 1) * PREFIX_BYTES, *joined = bytes + HEAD_ROOM / 2;
	u64 have = c->prefix_length[d & 1];
	u32 i;

	/* STARTTLS, and TLS in a CONNECT tunnel: a ClientHello turns any connection. */
	if (c->protocol != PROTOCOL_TLS && is_client_hello(bytes, n)) {
		turn_to_tls(c);
		return;
	}
	if (c->protocol != PROTOCOL_UNDECIDED)
		return;
	__builtin_memcpy(joined, prefix, PREFIX_BYTES);
	/* The compiler leaves out a mask that it knows to change nothing; the verifier does not know. */
	asm volatile("" : "+r"(have));
	have &= HEAD_ROOM / 2 - 1;
	#pragma clang loop unroll(disable)
	for (i = 0; i < PREFIX_BYTES; i++)
		joined[(have + i) & (HEAD_ROOM / 2 - 1)] = bytes[i];
	__builtin_memcpy(prefix, joined, PREFIX_BYTES);
	have += n;
	if (have > PREFIX_BYTES)
		have = PREFIX_BYTES;
	c->prefix_length[d & 1] = have;

	c->greets_no_socks_proxy = greets_no_socks_proxy(prefix, have);
	int verdict = verdict_on(prefix, have);
	if (verdict == VERDICT_TLS) {
		/* Joined in the middle, there is no hello to come. */
		if (prefix[0] == 22 && c->position[0] + c->position[1] <= PREFIX_BYTES)
			turn_to_tls(c);
		c->protocol = PROTOCOL_TLS;
	} else if (verdict == VERDICT_HTTP) {
		c->protocol = PROTOCOL_HTTP;
	} else if (verdict == VERDICT_NO) {
		c->prefix_length[d & 1] = 0;
		/* From its first byte on it speaks neither: it never will. An older one may be inside a body. */
		if ((c->opened && !c->misses && c->greets_no_socks_proxy) || c->misses >= MAX_MISSES)
			c->protocol = PROTOCOL_OTHER;
		else
			c->misses++;
	}
}
