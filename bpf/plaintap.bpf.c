/* SPDX-License-Identifier: GPL-2.0-or-later
 * The one translation unit of the kernel side. program.py splices the parts in (BCC rewrites map calls only in
 * the main file), in this order: what crosses the ring, limits, maps, then from helpers to programs. It also defines, as
 * 1 or 0, what this kernel has and this recording wants: BELOW, MESSAGES (below.py), RECORD_UNIX, NO_RETURN.
 *
 *   unix.bpf.h       streams of AF_UNIX
 *   ends.bpf.h       telling that a connection has ended
 *   sockets.bpf.h    fd → the kernel's socket, its addresses, the connection's entry
 *   protocols.bpf.h  which protocol the first bytes speak
 *   memory.bpf.h     where bytes lie: the program's memory, or pages
 *   order.bpf.h      positions of calls that overlap, by TCP's sequence numbers
 *   holes.bpf.h      why bytes have no record
 *   emit.bpf.h       copying a call's bytes into the ring
 *   targets.bpf.h    which processes are wanted
 *   stacks.bpf.h     stacks that programs switch between
 *   association.bpf.h  which socket a TLS session uses
 *   keys.bpf.h       the same where a TLS library's objects are keys, not sessions
 *   moved.bpf.h      what becomes of bytes that a call moved
 *   unrecorded.bpf.h  who uses what is in no recording
 *   syscalls.bpf.h   tracepoints of system calls
 *   below.bpf.h      what the socket layer moves without any of them …
 *   below_messages.bpf.h  … what TCP is about to be sent
 *   below_packets.bpf.h   … what is received
 *   below_counts.bpf.h    … its own count, and the end of each transfer
 *   unix_below.bpf.h  the same of AF_UNIX
 *   new_code.bpf.h   files that may hold TLS libraries, on their first use
 *   totals.bpf.h     TCP's own count, when it is done with a connection
 *   lifecycle.bpf.h  TCP states, fork, exec
 *   tls_calls.bpf.h  calls of TLS libraries in flight
 *   tunnels.bpf.h    TLS in TLS
 *   long_calls.bpf.h  calls that write more than the ring holds
 *   tls.bpf.h        uprobes, one pair for all shapes of calls
 *   older_reads.bpf.h  reads that were waiting when the recording began
 *   golang.bpf.h     the same for Go's calling convention
 *   rustls.bpf.h     the same for rustls, whose objects are keys
 *   nss.bpf.h        the same for NSS, whose functions are for any file
 *   return_places.bpf.h  returns of calls on switched stacks, and of calls of before the recording
 *   exits.bpf.h      threads that end, maybe inside a call
 *   names.bpf.h      host names, as the C library's resolver finds their addresses
 */
#include <uapi/linux/ptrace.h>
#include "events.h"

#define INLINE static inline __attribute__((always_inline))

/* The same, to be compared: what the verifier learns of it, it does not learn of the value. Else it would follow what comes
 * next for each result.
 */
INLINE u64 apart(u64 value)
{
	asm volatile("%0 |= 0" : "+r"(value));
	return value;
}

#define READ_KERNEL(dst, address) bpf_probe_read_kernel(&(dst), sizeof(dst), (void *)(address))
#define READ_USER(dst, address) bpf_probe_read_user(&(dst), sizeof(dst), (void *)(address))

#define AF_INET 2
#define AF_INET6 10
#define SOCK_STREAM 1
#define SOCK_DGRAM 2
#define IPPROTO_TCP 6
#define IPPROTO_MPTCP 262
#define RINGBUF_NO_WAKEUP 1
#define RINGBUF_FORCE_WAKEUP 2

/* Connections open at once; an entry takes about 450 bytes of kernel memory. */
#define MAX_CONNECTIONS 131072
#define MAX_SESSIONS 131072
/* Threads inside a hooked call at once. */
#define MAX_CALLS 32768
/* TLS handshake bytes shown a direction: a ClientHello with post-quantum shares and ECH is about 2 KiB. */
#define MAX_HELLO_BYTES 8192
/* Calls that write as much are told of while they go on, in steps: long_calls.bpf.h. */
#define LONG_CALL_BYTES (4 << 20)
#define STEP_BYTES (1 << 20)

#include "maps.bpf.h"
#include "unix.bpf.h"
#include "ends.bpf.h"
#include "sockets.bpf.h"
#include "protocols.bpf.h"
#include "memory.bpf.h"
#include "order.bpf.h"
#include "holes.bpf.h"
#include "emit.bpf.h"
#include "targets.bpf.h"
#include "stacks.bpf.h"
#include "association.bpf.h"
#include "keys.bpf.h"
#include "cleartext.bpf.h"
#include "moved.bpf.h"
#include "unrecorded.bpf.h"
#include "syscalls.bpf.h"
#include "below.bpf.h"
#include "below_messages.bpf.h"
#include "below_packets.bpf.h"
#include "below_counts.bpf.h"
#include "unix_below.bpf.h"
#include "new_code.bpf.h"
#include "totals.bpf.h"
#include "lifecycle.bpf.h"
#include "tls_calls.bpf.h"
#include "tunnels.bpf.h"
#include "long_calls.bpf.h"
#include "tls.bpf.h"
#include "older_reads.bpf.h"
#include "golang.bpf.h"
#include "rustls.bpf.h"
#include "nss.bpf.h"
#include "return_places.bpf.h"
#include "exits.bpf.h"
#include "names.bpf.h"
