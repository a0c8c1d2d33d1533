/* SPDX-License-Identifier: GPL-2.0-or-later
 * Where a call's bytes lie: in the program's memory, or in pages that only the kernel maps.
 *
 * Blocks are pairs of u64: an address and a length, or struct bio_vec (page, then u32 length and u32 offset).
 * A page is read through the kernel's direct map of all memory: page → frame number → address. Where the two
 * tables begin differs at every boot (KASLR): direct_map.py finds out with a page of its own.
 */
#define MEMORY_USER 0		/* blocks and bytes are the program's */
#define MEMORY_USER_NARROW 1	/* the same, with lengths of 32 bits, and anything behind them */
#define MEMORY_USER_COPIED 2	/* the bytes are the program's, the kernel has copied the blocks */
#define MEMORY_PAGES 3		/* bio_vecs */
#define MEMORY_KERNEL 4		/* blocks and bytes are the kernel's */

/* A flag beside MSG_*, ours: the bytes are nowhere that can be read. */
#define NOT_IN_USER_SPACE 0x80000000

/* Filled by user space; pages 0: not known, pages cannot be read. */
struct direct_map {
	u64 pages;		/* struct page of frame 0 */
	u64 base;		/* address of frame 0 */
};
BPF_ARRAY(direct_maps, struct direct_map, 1);

/* 0: its address, in the kernel's memory or the program's. */
INLINE int page_address(u64 page, u64 *address)
{
	int zero = 0;
	struct direct_map *map = direct_maps.lookup(&zero);

	/* The lowest bit marks memory of a device. */
	if (!map || !map->pages || (page & 1))
		return 1;
	*address = map->base + (page - map->pages) / PAGE_STRUCT_BYTES * PAGE_BYTES;
	return 0;
}

/* One block of an array, as address and length. 0, or a reason. */
INLINE int read_block(u8 memory, u64 vector, u64 at, u64 *block)
{
	if (memory <= MEMORY_USER_NARROW) {
		if (bpf_probe_read_user(block, 16, (void *)(vector + 16 * at)))
			return REASON_FAULT;
		if (memory == MEMORY_USER_NARROW)
			block[1] = (u32)block[1];
		return 0;
	}
	if (bpf_probe_read_kernel(block, 16, (void *)(vector + 16 * at)))
		return REASON_FAULT;
	if (memory == MEMORY_PAGES) {
		u64 address = 0;
		if (page_address(block[0], &address))
			return REASON_NOT_IN_USER_SPACE;
		block[0] = address + (block[1] >> 32);
		block[1] = (u32)block[1];
	}
	return 0;
}

INLINE long read_bytes(u8 memory, void *to, u64 n, u64 from)
{
	if (memory >= MEMORY_PAGES)
		return bpf_probe_read_kernel(to, n, (void *)from);
	return bpf_probe_read_user(to, n, (void *)from);
}

/* Whether the packet that was read from is not at its place in a queue any more, and was given back: then what was read may
 * be anyone's. `queue` 0: it cannot go. */
INLINE int is_gone(u64 queue, u64 skb)
{
	u64 there = 0;

	if (!RECORD_UNIX || !queue)
		return 0;
	READ_KERNEL(there, queue);
	return there != skb;
}

/* Bytes that no block array describes: put together by us, as MEMORY_KERNEL. */
#define MEMORY_PIPE 5		/* not put together yet */
#define MAX_KEPT_PIECES 64
struct piece {
	u64 address, length;
};
struct pieces {
	/* Rows of struct piece: BCC gives Python the wrong size for an array of structs. */
	u64 words[2 * MAX_KEPT_PIECES];
	/* Here, not in registers: the verifier would follow each number of them to the end of the program. */
	u64 count;
	u64 skip;		/* bytes yet to be left out */
};
/* key: tid. Deleted when the copy is done. As many as can be inside one program at once, and more. */
BPF_HASH(pieces, u32, struct pieces, 1024);
BPF_ARRAY(no_pieces, struct pieces, 1);

INLINE struct pieces *new_pieces(u32 tid)
{
	int zero = 0;
	struct pieces *empty = no_pieces.lookup(&zero);

	return empty && !pieces.update(&tid, empty) ? pieces.lookup(&tid) : NULL;
}

INLINE void add_piece(struct pieces *p, u64 address, u64 n)
{
	volatile struct pieces *v = p;
	u64 skip = v->skip, at = v->count, cut = skip < n ? skip : n;

	v->skip = skip - cut;
	if (cut == n || at >= MAX_KEPT_PIECES)
		return;
	at = 2 * at;
	asm volatile("" : "+r"(at));
	at &= 2 * MAX_KEPT_PIECES - 2;
	v->words[at] = address + cut;
	v->words[at + 1] = n - cut;
	v->count = at / 2 + 1;
}

INLINE void use_pieces(struct syscall *call, struct pieces *p)
{
	call->buffer = (u64)p;
	call->blocks = p->count;
	call->skip = 0;
	call->memory = MEMORY_KERNEL;
}

/* Before a splice from a socket: where the pipe begins to be filled. */
INLINE void into_pipe(struct syscall *call, u64 file)
{
	u32 head = 0;

	READ_KERNEL(call->buffer, file + OFFSET_file_private_data);
	READ_KERNEL(head, call->buffer + OFFSET_pipe_inode_info_head);
	call->most = head;
	call->memory = MEMORY_PIPE;
}

/* After it: the pages that it has put there, if nobody has taken them out yet. */
INLINE void from_pipe(struct syscall *call, u32 tid)
{
	u32 head = 0, tail = 0, slots = 0, begin = call->most, i;
	u64 buffers = 0, page = 0, address = 0, pipe = call->buffer;
	struct pieces *p;

	call->flags |= NOT_IN_USER_SPACE;
	READ_KERNEL(head, pipe + OFFSET_pipe_inode_info_head);
	READ_KERNEL(tail, pipe + OFFSET_pipe_inode_info_tail);
	READ_KERNEL(slots, pipe + OFFSET_pipe_inode_info_ring_size);
	READ_KERNEL(buffers, pipe + OFFSET_pipe_inode_info_bufs);
	if ((s32)(tail - begin) > 0 || !(p = new_pieces(tid)))
		return;
	#pragma clang loop unroll(disable)
	for (i = 0; i < MAX_KEPT_PIECES; i++) {
		u64 slot = buffers + PIPE_BUFFER_BYTES * (u64)((begin + i) & (slots - 1));
		u32 offset = 0, length = 0;
		if (begin + i == head)
			break;
		READ_KERNEL(page, slot + OFFSET_pipe_buffer_page);
		READ_KERNEL(offset, slot + OFFSET_pipe_buffer_offset);
		READ_KERNEL(length, slot + OFFSET_pipe_buffer_len);
		if (page_address(page, &address))
			return;
		add_piece(p, address + offset, length);
	}
	call->flags &= ~NOT_IN_USER_SPACE;
	use_pieces(call, p);
}

/* What direct_map.py runs, by itself: the page in the first slot of a pipe (first argument) and what is at an
 * address (second). */
struct calibration {
	u64 page, task, word;
};
BPF_ARRAY(calibrations, struct calibration, 1);

int calibrate(struct bpf_raw_tracepoint_args *ctx)
{
	int zero = 0;
	u64 p = 0;
	struct calibration *found = calibrations.lookup(&zero);

	if (!found)
		return 0;
	READ_KERNEL(p, file_of(ctx->args[0]) + OFFSET_file_private_data);
	READ_KERNEL(p, p + OFFSET_pipe_inode_info_bufs);
	READ_KERNEL(found->page, p + OFFSET_pipe_buffer_page);
	found->task = bpf_get_current_task();
	found->word = 0;
	READ_KERNEL(found->word, ctx->args[1]);
	return 0;
}
