/* SPDX-License-Identifier: GPL-2.0-or-later
 * Stacks that a program has made itself and switches between: coroutines, fibers (Crystal, D's vibe, Boost, ucontext).
 * Such a program leaves a TLS function in the middle, in a BIO's callback, for another stack, and comes back to it
 * later, maybe in another thread: a thread has many calls in flight, which return in any order.
 *
 * To see a return the kernel replaces its address on the stack, and keeps what it was by thread, for returns in the
 * reverse order of calls; any other order kills the process. So on these stacks it replaces none (Linux 6.13). Instead
 * user space is told where the call will return to, and puts a probe there, for this process alone: `place` is what its
 * memory says, and probes in the wrong place would hurt others (capture/switched_stacks.py).
 */
/* The main stack ends where the kernel has put the arguments, a thread's at its control block (glibc, musl). Below that
 * end, this many bytes belong to the stack: the kernel leaves at least so many free below the main stack's, and no
 * thread that calls TLS has a smaller stack. Threads that are deeper (Ruby keeps its own
 * stack, 1 MiB, at the bottom of theirs) are asked what the C library noted of their stack, and so are children that
 * a thread has forked, whose main thread has that thread's stack; of the main stack the C library notes nothing.
 * A stack that is taken for another wrongly costs one probe, and the session whose call has come before it. */
#define MAX_MAIN_STACK (128 << 20)
#define MAX_THREAD_DEPTH (128 << 10)
/* Where a thread's stack is, and its bytes: two words of its control block (struct pthread) in glibc 2.17 to 2.36 at
 * least, and in musl since 1.1.21. */
#define GLIBC_STACK_WORDS 0x690
#define MUSL_STACK_WORDS 72
#define PAGE_REMAINDER 4095
#define MAX_THREAD_STACK (1 << 30)
/* Calls of one such stack are found in the window that the stack pointer is in, or the next. Stacks are larger. */
#define STACK_WINDOW_SHIFT 14
#define NEXT_WINDOW (1ULL << 31)

#define KERNEL_STACK_BYTES 16384
#define USER_CS 0x33
#define USER_SS 0x2b

/* Where a call returns to. Value: the process, beside NO_PROBE_THERE if that is so. Filled by user space. A cache. */
struct return_place {
	u64 mm, address;
};
BPF_TABLE("lru_hash", struct return_place, u64, return_places, 16384);
/* Whether calls on such stacks were seen: 0 or 1. */
BPF_ARRAY(switched_stacks, u32, 1);

/* Whether two words of a control block, which is the end of a thread's stack, say that the stack is there. Other words
 * do not: whole pages, and both the control block and the stack pointer in them. */
INLINE int is_in_block(u64 top, u64 stack, u64 words)
{
	u64 block[2] = {};

	READ_USER(block, words);
	return !((block[0] | block[1]) & PAGE_REMAINDER) && block[1] <= MAX_THREAD_STACK && top - block[0] < block[1] &&
		stack - block[0] < top - block[0];
}

INLINE int is_switched(u64 id, u64 stack)
{
#if defined(__x86_64__)
	u64 task = bpf_get_current_task(), mm = 0, top = 0;

	if ((u32)id == id >> 32) {
		READ_KERNEL(mm, task + OFFSET_task_struct_mm);
		READ_KERNEL(top, mm + OFFSET_mm_struct_start_stack);
		if (top - stack <= MAX_MAIN_STACK)
			return 0;
	}
	READ_KERNEL(top, task + OFFSET_task_struct_thread_fsbase);
	if ((u32)id != id >> 32 && top - stack <= MAX_THREAD_DEPTH)
		return 0;
	return !is_in_block(top, stack, top + GLIBC_STACK_WORDS) && !is_in_block(top, stack, top + MUSL_STACK_WORDS);
#else
	return 0;
#endif
}

/* What calls on a stack are kept by: a thread, or a window of a process's memory. */
INLINE u64 stack_name(u64 id, u64 stack)
{
	return is_switched(id, stack) ? stack >> STACK_WINDOW_SHIFT << 31 | id >> 32 : (u32)id;
}

INLINE int names_window(u64 name)
{
	return name >= NEXT_WINDOW;
}

INLINE int has_switched_stacks(void)
{
	int zero = 0;
	u32 *seen = switched_stacks.lookup(&zero);

	return seen && *seen;
}

/* The program's stack pointer, in a system call; 0: not known. With FRED two words more are on the kernel's stack. */
INLINE u64 users_stack(void)
{
#if defined(__x86_64__)
	u64 stack = 0, frame[5] = {};	/* ip, cs, flags, sp, ss */
	int i;

	READ_KERNEL(stack, bpf_get_current_task() + OFFSET_task_struct_stack);
	#pragma clang loop unroll(full)
	for (i = 0; i < 2; i++) {
		READ_KERNEL(frame, stack + KERNEL_STACK_BYTES - sizeof(frame) - 16 * i);
		if ((frame[1] & 0xffff) == USER_CS && (frame[4] & 0xffff) == USER_SS)
			return frame[3];
	}
#endif
	return 0;
}
