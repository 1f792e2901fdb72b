/* The standard header, and for llama.cpp's ggml-cpu.c products of rows that do not change with the number of
 * rows (triton_llm_products.h), and a barrier whose threads sleep.
 *
 * The compiler finds this file before its own: .cargo/config.toml puts the folder
 * in front of its path. Only llama.cpp's C code sees more than the standard header.
 *
 * Between two nodes of a graph, some hundred times a step, each thread of llama.cpp
 * waits for all others in `ggml_barrier`, in a loop that never gives its core away.
 * Where another program or another model wants the core too, the thread that is
 * waited for does not run meanwhile, but when the scheduler takes the core from the
 * one that waits: at each node some milliseconds are lost, and a step takes seconds.
 *
 * So the counters of that barrier, which this file knows by their names, are read and
 * written by the functions below. A thread that waits sleeps on the counter, after a
 * while or, where cores are short, at once. Whoever arrives last wakes those that
 * sleep. Nothing else changes, the order of the memory included. A llama.cpp that calls its counters
 * otherwise gets its own loop back; tests/cores.rs notices.
 */
#include_next <stdatomic.h>

#if defined(GGML_SCHED_MAX_COPIES) && defined(GGML_VEC_DOT_UNROLL) && !defined(TRITON_LLM_PRODUCTS)
#define TRITON_LLM_PRODUCTS
#include "triton_llm_products.h"
#endif

#if defined(__linux__) && defined(GGML_SCHED_MAX_COPIES) && !defined(TRITON_LLM_BARRIER)
#define TRITON_LLM_BARRIER

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* How often a counter is looked at before a thread sleeps: for some 0.3 ms, longer than threads wait for
 * each other while each has a core, and shorter than a scheduler takes one away for. Between two looks
 * llama.cpp pauses, on x86-64 for some 40 ns, elsewhere hardly. */
#ifdef __x86_64__
#define TRITON_LLM_LOOKS 8000
#else
#define TRITON_LLM_LOOKS 100000
#endif

/* Where waits so long took 20 ms within 100 ms, cores are short, and what is spent on looking is taken
 * from whoever is waited for: then all threads sleep at once, without looking, for some time. */
#define TRITON_LLM_WINDOW_NS 100000000LL
#define TRITON_LLM_LOST_NS 20000000LL
/* Doubled each time that cores were still short afterwards. */
#define TRITON_LLM_SHORTEST_NS 50000000LL
#define TRITON_LLM_LONGEST_NS 800000000LL

/* What a thread knows of its waits. */
struct triton_llm_waiter {
    int seen;    /* what the counter was on arrival */
    int n_looks; /* how often to look at it yet before sleeping; 0 is not waiting */
    int looks;   /* whether it looks before it sleeps, in this wait */
    long long window_began_ns;
    long long lost_ns; /* spent asleep in long waits since */
};

static __thread struct triton_llm_waiter triton_llm_waiter;

/* Threads that sleep or are about to, of all pools: nobody needs to be woken while there are none. */
static int triton_llm_n_sleeping;
/* Until when threads sleep at once; 0 is not. */
static long long triton_llm_short_until_ns;
static long long triton_llm_short_for_ns = TRITON_LLM_SHORTEST_NS;

static inline long long triton_llm_now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

/* Whether threads sleep at once. */
static inline int triton_llm_is_short(void) {
    long long until = __atomic_load_n(&triton_llm_short_until_ns, __ATOMIC_RELAXED);
    return until != 0 && triton_llm_now_ns() < until;
}

/* Notes a wait that looking did not end. Of threads that find out at once that cores are short, any may win. */
static __attribute__((noinline)) void triton_llm_note_long(long long began_ns) {
    struct triton_llm_waiter *this = &triton_llm_waiter;
    long long now = triton_llm_now_ns();
    if (now - this->window_began_ns > TRITON_LLM_WINDOW_NS) {
        this->window_began_ns = began_ns;
        this->lost_ns = 0;
    }
    this->lost_ns += now - began_ns;
    if (this->lost_ns < TRITON_LLM_LOST_NS) {
        return;
    }
    this->lost_ns = 0;
    long long until = __atomic_load_n(&triton_llm_short_until_ns, __ATOMIC_RELAXED);
    if (now < until) {
        return;
    }
    long long length = __atomic_load_n(&triton_llm_short_for_ns, __ATOMIC_RELAXED) * 2;
    if (now - until > TRITON_LLM_LONGEST_NS) {
        length = TRITON_LLM_SHORTEST_NS;
    } else if (length > TRITON_LLM_LONGEST_NS) {
        length = TRITON_LLM_LONGEST_NS;
    }
    __atomic_store_n(&triton_llm_short_for_ns, length, __ATOMIC_RELAXED);
    __atomic_store_n(&triton_llm_short_until_ns, now + length, __ATOMIC_RELAXED);
}

static __attribute__((noinline)) void triton_llm_sleep(int *counter, int seen) {
    /* Before the kernel compares the counter: whoever changes it later sees that somebody sleeps. */
    __atomic_fetch_add(&triton_llm_n_sleeping, 1, __ATOMIC_SEQ_CST);
    while (__atomic_load_n(counter, __ATOMIC_RELAXED) == seen) {
        syscall(SYS_futex, counter, FUTEX_WAIT_PRIVATE, seen, (void *)0, (void *)0, 0);
    }
    __atomic_fetch_sub(&triton_llm_n_sleeping, 1, __ATOMIC_RELAXED);
}

/* The thread counts itself in: the reads that follow are its wait. */
static inline int triton_llm_count_in(int *counter, int n) {
    struct triton_llm_waiter *this = &triton_llm_waiter;
    this->looks = !triton_llm_is_short();
    this->n_looks = this->looks ? TRITON_LLM_LOOKS : 1;
    return __atomic_fetch_add(counter, n, __ATOMIC_SEQ_CST);
}

/* How many barriers have been passed: read once on arrival, and then again and again. */
static inline int triton_llm_passed(int *counter) {
    struct triton_llm_waiter *this = &triton_llm_waiter;
    int now = __atomic_load_n(counter, __ATOMIC_RELAXED);
    if (this->n_looks == 0) {
        this->seen = now;
        return now;
    }
    if (now == this->seen && --this->n_looks > 0) {
        return now;
    }
    if (now == this->seen) {
        long long began_ns = this->looks ? triton_llm_now_ns() : 0;
        triton_llm_sleep(counter, this->seen);
        if (this->looks) {
            triton_llm_note_long(began_ns);
        }
        now = __atomic_load_n(counter, __ATOMIC_RELAXED);
    }
    this->n_looks = 0;
    return now;
}

/* The thread has arrived last: it lets the others pass. */
static inline int triton_llm_pass(int *counter, int n) {
    triton_llm_waiter.n_looks = 0;
    int before = __atomic_fetch_add(counter, n, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&triton_llm_n_sleeping, __ATOMIC_SEQ_CST) != 0) {
        /* The counter may be gone by now; then nobody sleeps at this address, and the kernel says so. */
        syscall(SYS_futex, counter, FUTEX_WAKE_PRIVATE, 0x7fffffff, (void *)0, (void *)0, 0);
    }
    return before;
}

#ifdef __clang__
#define TRITON_LLM_LOAD(object, order) __c11_atomic_load(object, order)
#define TRITON_LLM_ADD(object, n, order) __c11_atomic_fetch_add(object, n, order)
#else
#define TRITON_LLM_LOAD(object, order) __atomic_load_n(object, order)
#define TRITON_LLM_ADD(object, n, order) __atomic_fetch_add(object, n, order)
#endif

/* Compared while compiling. */
#define TRITON_LLM_IS(object, name) (__builtin_strcmp(#object, "&tp->" name) == 0)

#undef atomic_load_explicit
#define atomic_load_explicit(object, order) \
    (TRITON_LLM_IS(object, "n_barrier_passed") ? triton_llm_passed((int *)(object)) : TRITON_LLM_LOAD((object), (order)))

#undef atomic_fetch_add_explicit
#define atomic_fetch_add_explicit(object, n, order) \
    (TRITON_LLM_IS(object, "n_barrier_passed") ? triton_llm_pass((int *)(object), (n)) \
     : TRITON_LLM_IS(object, "n_barrier")      ? triton_llm_count_in((int *)(object), (n)) \
                                               : TRITON_LLM_ADD((object), (n), (order)))

#endif
