/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * hookbed's plugin for QEMU's emulator: it writes which translation blocks a guest executes between
 * two marks, exact to the instruction. It is loaded by QEMU and is, as a plugin, under QEMU's
 * licence: the GNU General Public License, version 2 or (at your option) any later version.
 *
 * It is for one virtual CPU of x86-64 under -icount, and has no notion of what runs in the guest.
 *
 * Marks. The guest marks a place with `nopl 0x6b6f6f68(%rax)`, which does nothing, followed by
 * rdtsc. RSI is what the mark is for, RDI and RBX are its arguments. A window is what is executed
 * after the rdtsc of a mark "begin", up to and including the rdtsc of the next mark "end": so the
 * clock's difference is the window's instructions and idle time, and nothing else.
 *
 * Cost. Before the first window only the marks are instrumented. That window begins with a reset of
 * the plugin, in which QEMU throws all translated code away. The guest does not notice: its clock
 * counts its instructions only.
 *
 * What is executed. A block is written when it begins. Whether it was executed to its end is seen
 * from where the next one begins: where one of its ends leads, it was. Ends that may lead anywhere
 * (returns, jumps by register) or back into the block (loops, repeated string instructions) leave a
 * sign when they are reached, too. In all other cases an exception, an interrupt, or the emulator
 * itself came in between, and the instruction at which the guest goes on - the next block's first, or
 * the one whose address the CPU pushed on the stack - is the first that was not executed. This is how
 * -icount counts, too: an instruction that faults takes no time.
 *
 * Stream. Little-endian 32-bit words, described in ../decode.go.
 */
#define _GNU_SOURCE /* program_invocation_name, F_SETPIPE_SZ */

#include "interface.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

EXPORT int qemu_plugin_version = INTERFACE_VERSION;

/* Kinds of a block's end; the numbers are those of Kind in ../stream.go. */
enum kind {
    NONE, CALL, RETURN, IRETURN, JUMP, BRANCH, SYSCALL, SYSRET, HALT, JUMP_ANY, CALL_ANY, READ_CLOCK,
};

/* Records of the stream. Words below RECORD_STACK are the number of a block that begins. */
#define RECORD_STACK 0x80000000u   /* | difference to the last stack address, 30 bits, signed */
#define RECORD_PARTIAL 0xc0000000u /* | instructions: the last block ended after so many */
#define RECORD_ADDRESS 0xc1000000u /* a stack address follows: 2 words */
#define RECORD_BLOCK 0xc2000000u   /* | user << 23 | kind << 16 | instructions: a block follows */
#define RECORD_CLOCK 0xc3000000u   /* a clock reading follows: 2 words */
#define RECORD_MARK 0xc4000000u    /* | its number; two arguments and the clock follow: 6 words */
#define RECORD_SYMBOLS 0xc5000000u /* length (2 words) and text follow */
#define RECORD_END 0xcf000000u     /* nothing follows */
#define REVISION 1

/* Marks; the numbers are those of MarkID in ../stream.go. */
enum mark { MARK_BEGIN = 1, MARK_END, MARK_SYMBOLS, MARK_CLOSE };

static const uint8_t mark_code[7] = { 0x0f, 0x1f, 0x80, 0x68, 0x6f, 0x6f, 0x6b };

struct block {
    uint64_t pc, end;
    uint64_t next[2];    /* where its end leads; the same twice if it leads to one place */
    uint32_t number;     /* in the stream */
    uint32_t window;     /* in which it was defined last; 0 is none */
    uint16_t n;
    uint8_t kind;
    bool anywhere;       /* its end may lead anywhere */
    bool sign;           /* reaching its last instruction leaves a sign */
    bool reads;          /* it is a jump whose address is in memory */
    bool undefined;      /* its last instruction raises "undefined opcode", and counts as executed */
    uint8_t bytes[];     /* length of each instruction; code, of user space */
};

/* What generated code writes to. */
struct board {
    uint64_t reached; /* not 0: the sign that the block's last instruction was reached */
};

static plugin_id self;
static struct qemu_plugin_scoreboard *score;
static struct board *board;
static struct qemu_plugin_register *rax, *rbx, *rdx, *rdi, *rsi, *rsp;
static GByteArray *scratch;

static enum { CLOSED, OPENING, OPEN, CLOSING } state;
static struct block *last; /* the block that runs */
static uint32_t blocks;    /* defined */
static uint32_t window;    /* how many windows there were */
static bool instrumented;  /* all blocks are */
static uint64_t stack;     /* last stack address that was written */
static struct { uint64_t number, a, b; } pending; /* mark that waits for its clock */
static bool select_trial;
static long long want_setup, want_trial;

/* --- output ------------------------------------------------------------------------------- */

#define BUFFER (1 << 20)
#define SLACK (1 << 15) /* the longest run of records that is written without a check */

static uint8_t buffer[BUFFER + SLACK];
static uint8_t *at = buffer;
static int out = -1;
static const char *out_name;

static void say(const char *what, const char *why)
{
    /* As QEMU's own messages begin. */
    fprintf(stderr, "%s: hookbed's trace plugin: %s%s%s\n", program_invocation_name, what,
            why ? ": " : "", why ? why : "");
}

/* give_up ends the stream before its end. */
static void give_up(const char *what, const char *why)
{
    say(what, why);
    close(out);
    out = -1;
}

static void put(const void *data, size_t len)
{
    while (len > 0 && out >= 0) {
        ssize_t n = write(out, data, len);
        if (n < 0) {
            if (errno == EINTR)
                continue;
            give_up("write the stream", strerror(errno));
            return;
        }
        data = (const uint8_t *)data + n;
        len -= n;
    }
}

static void flush(void)
{
    put(buffer, at - buffer);
    at = buffer;
}

static inline void need_room(void)
{
    if (unlikely(at >= buffer + BUFFER))
        flush();
}

static inline void word(uint32_t v)
{
    memcpy(at, &v, sizeof v);
    at += sizeof v;
}

static inline void number(uint64_t v)
{
    memcpy(at, &v, sizeof v);
    at += sizeof v;
}

static void bytes(const uint8_t *data, size_t len)
{
    memcpy(at, data, len);
    at += len;
    for (; len % 4; len++)
        *at++ = 0;
}

/* --- the guest ------------------------------------------------------------------------------ */

static uint64_t reg(struct qemu_plugin_register *r)
{
    uint64_t v = 0;
    g_byte_array_set_size(scratch, 0);
    if (qemu_plugin_read_register(r, scratch) >= (int)sizeof v)
        memcpy(&v, scratch->data, sizeof v);
    return v;
}

/* clock_read is what rdtsc has just read. */
static uint64_t clock_read(void) { return reg(rdx) << 32 | (uint32_t)reg(rax); }

/* --- blocks --------------------------------------------------------------------------------- */

static bool is_prefix(uint8_t b)
{
    switch (b) {
    case 0x26: case 0x2e: case 0x36: case 0x3e: case 0x64: case 0x65: case 0x66: case 0x67:
    case 0xf0: case 0xf2: case 0xf3:
        return true;
    }
    return false;
}

/* anywhere is an end that leads to no address that is known before. */
static void anywhere(struct block *t, enum kind kind)
{
    t->kind = kind;
    t->anywhere = true;
    t->next[0] = t->next[1] = UINT64_MAX;
}

/* classify says of a block's last instruction how it ends the block (Intel SDM volume 2, appendix A;
 * 64-bit mode). REX, BND, NOTRACK and REP before a jump or return change nothing here. */
static void classify(struct block *t, const uint8_t *code, size_t size)
{
    size_t i = 0;
    bool rep = false;

    for (; i < size && is_prefix(code[i]); i++)
        rep |= code[i] == 0xf2 || code[i] == 0xf3;
    if (i < size && (code[i] & 0xf0) == 0x40)
        i++;
    if (i >= size)
        return;
    const uint8_t *op = code + i;
    size_t left = size - i;
    uint8_t second = left > 1 ? op[1] : 0, third = left > 2 ? op[2] : 0;
    int field = second >> 3 & 7; /* of ModRM */
    int32_t rel32 = 0;
    if (size >= 4)
        memcpy(&rel32, code + size - 4, 4);
    uint64_t near = t->end + (int8_t)code[size - 1], far = t->end + rel32;

    switch (op[0]) {
    case 0x70 ... 0x7f: case 0xe0 ... 0xe3:
        t->kind = BRANCH, t->next[1] = near;
        return;
    case 0xeb:
        t->kind = JUMP, t->next[0] = t->next[1] = near;
        return;
    case 0xe9:
        t->kind = JUMP, t->next[0] = t->next[1] = far;
        return;
    case 0xe8:
        t->kind = CALL, t->next[0] = t->next[1] = far;
        return;
    case 0xc2: case 0xc3: case 0xca: case 0xcb: /* the latter two: to another segment */
        anywhere(t, RETURN);
        return;
    case 0xcf:
        anywhere(t, IRETURN);
        return;
    case 0xf4:
        anywhere(t, HALT);
        return;
    case 0xff:
        if (field == 2 || field == 3)
            anywhere(t, CALL_ANY);
        else if (field == 4 || field == 5)
            anywhere(t, JUMP_ANY), t->reads = second >> 6 != 3;
        return;
    case 0x6c ... 0x6f: case 0xa4 ... 0xa7: case 0xaa ... 0xaf:
        if (rep)
            t->next[1] = t->end - size;
        return;
    case 0x0f:
        break;
    default:
        return;
    }
    switch (second) {
    case 0x80 ... 0x8f:
        t->kind = BRANCH, t->next[1] = far;
        return;
    case 0x05: case 0x34:
        anywhere(t, SYSCALL);
        return;
    case 0x07: case 0x35:
        anywhere(t, SYSRET);
        return;
    case 0x31:
        t->kind = READ_CLOCK;
        return;
    case 0x01:
        if (third == 0xf9)
            t->kind = READ_CLOCK;
        else if (third == 0xc9) /* mwait */
            anywhere(t, HALT);
        return;
    case 0x0b: case 0xb9: case 0xff:
        t->undefined = true;
        return;
    }
}

/* needs_sign: where the next block begins does not show whether this one was executed to its end. */
static bool needs_sign(const struct block *t)
{
    return t->anywhere || (t->next[1] >= t->pc && t->next[1] < t->end);
}

/* new_block describes a translated block. It is never freed: generated code may refer to it. */
static struct block *new_block(struct qemu_plugin_tb *tb)
{
    size_t n = qemu_plugin_tb_n_insns(tb), size = 0;
    uint64_t pc = qemu_plugin_tb_vaddr(tb);
    bool user = pc >> 63 == 0;
    uint8_t code[16];

    for (size_t i = 0; user && i < n; i++)
        size += qemu_plugin_insn_size(qemu_plugin_tb_get_insn(tb, i));
    struct block *t = calloc(1, sizeof *t + n + size);
    if (!t) {
        say("out of memory", NULL);
        abort();
    }
    t->pc = t->end = pc;
    t->n = n;
    uint8_t *copy = t->bytes + n;
    for (size_t i = 0; i < n; i++) {
        struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
        size_t len = qemu_plugin_insn_size(insn);
        t->bytes[i] = len;
        t->end += len;
        if (user)
            copy += qemu_plugin_insn_data(insn, copy, len);
    }
    t->next[0] = t->next[1] = t->end;
    size = qemu_plugin_insn_data(qemu_plugin_tb_get_insn(tb, n - 1), code, sizeof code);
    classify(t, code, size);
    t->sign = needs_sign(t);
    return t;
}

/* instruction is the index of the instruction at an address, or -1. */
static int instruction(const struct block *t, uint64_t pc)
{
    uint64_t at_pc = t->pc;
    for (int i = 0; i < t->n; i++) {
        if (at_pc == pc)
            return i;
        at_pc += t->bytes[i];
    }
    return -1;
}

static void define(struct block *t)
{
    bool user = t->pc >> 63 == 0;
    t->number = blocks++;
    t->window = window;
    word(RECORD_BLOCK | (uint32_t)user << 23 | (uint32_t)t->kind << 16 | t->n);
    number(t->pc);
    bytes(t->bytes, t->n);
    if (user)
        bytes(t->bytes + t->n, t->end - t->pc);
}

/* whole says that p was executed to its end, as far as the beginning of t shows it. */
static inline bool whole(const struct block *p, const struct block *t)
{
    bool reached = !p->sign || board->reached;
    return reached && (t->pc == p->next[0] || t->pc == p->next[1] || p->anywhere);
}

/* executed is how many instructions of p were executed before t began, where that is not p's end that
 * led to t: see the top of this file. Called at the beginning of t. */
static int executed(const struct block *p, const struct block *t)
{
    int i = instruction(p, t->pc);
    if (i >= 0)
        return i;
    /* The CPU pushed the address to return to, and for some exceptions an error code after it. */
    uint64_t frame[2];
    if (!qemu_plugin_read_memory_vaddr(reg(rsp), scratch, sizeof frame))
        return p->n;
    memcpy(frame, scratch->data, sizeof frame);
    for (int code = 0; code < 2; code++) {
        uint64_t back = frame[code];
        bool led = back == p->next[0] || back == p->next[1] || back == p->end;
        i = instruction(p, back);
        if (i < 0 && !led)
            continue;
        /* After the end; an interrupt, which has no error code, also where that is in the block. */
        if (led && (i < 0 || (code == 0 && board->reached)))
            return p->n;
        /* These opcodes are an exception that the emulator raises by executing them. */
        if (i == p->n - 1 && p->undefined)
            return p->n;
        return i;
    }
    return p->n;
}

/* --- windows -------------------------------------------------------------------------------- */

static void write_mark(uint64_t ns)
{
    word(RECORD_MARK | (uint32_t)pending.number);
    number(pending.a);
    number(pending.b);
    number(ns);
}

/* turn opens or closes a window where the clock of its mark was just read. */
static void turn(uint64_t ns)
{
    if (state == OPENING) {
        write_mark(ns);
        state = OPEN;
        return;
    }
    word(RECORD_CLOCK);
    number(ns);
    write_mark(ns);
    flush();
    state = CLOSED;
    last = NULL;
}

/* ended writes what is to be said of the last block, p, when t begins. False: the window has closed. */
static bool ended(const struct block *p, const struct block *t)
{
    int n = whole(p, t) ? p->n : executed(p, t);
    if (n != p->n && state != OPENING)
        word(RECORD_PARTIAL | (uint32_t)n);
    if (n != p->n || p->kind != READ_CLOCK)
        return true;
    uint64_t ns = clock_read();
    if (state == OPEN) {
        word(RECORD_CLOCK);
        number(ns);
        return true;
    }
    turn(ns);
    return state == OPEN;
}

static void on_block(unsigned int vcpu, void *data)
{
    struct block *t = data, *p = last;
    (void)vcpu;
    if (unlikely(state == CLOSED))
        return;
    need_room();
    if (unlikely(!whole(p, t) || p->kind == READ_CLOCK) && !ended(p, t))
        return;
    board->reached = 0;
    last = t;
    if (unlikely(state == OPENING))
        return;
    if (unlikely(t->window != window))
        define(t);
    word(t->number);
}

/* on_jump is the sign of a jump whose address was read from memory. */
static void on_jump(unsigned int vcpu, uint32_t info, uint64_t address, void *data)
{
    (void)vcpu, (void)info, (void)address, (void)data;
    board->reached = 1;
}

static void on_stack(unsigned int vcpu, uint32_t info, uint64_t address, void *data)
{
    (void)vcpu, (void)info, (void)data;
    if (board->reached) /* the first access has the return address */
        return;
    board->reached = 1;
    if (unlikely(state != OPEN && state != CLOSING))
        return;
    int64_t far = (int64_t)(address - stack);
    stack = address;
    if (likely(far >= -(1 << 29) && far < 1 << 29)) {
        word(RECORD_STACK | ((uint32_t)far & 0x3fffffff));
        return;
    }
    word(RECORD_ADDRESS);
    number(address);
}

/* --- translation ---------------------------------------------------------------------------- */

static void on_mark(unsigned int vcpu, void *data);

static bool is_mark(struct qemu_plugin_insn *insn)
{
    uint8_t code[sizeof mark_code];
    return qemu_plugin_insn_size(insn) == sizeof code &&
           qemu_plugin_insn_data(insn, code, sizeof code) == sizeof code &&
           !memcmp(code, mark_code, sizeof code);
}

static struct block *watch_marks(struct qemu_plugin_tb *tb, struct block *t)
{
    size_t n = qemu_plugin_tb_n_insns(tb);
    if (qemu_plugin_tb_vaddr(tb) >> 63)
        return t; /* marks are in programs */
    for (size_t i = 0; i < n; i++) {
        struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
        if (!is_mark(insn))
            continue;
        if (!t)
            t = new_block(tb);
        qemu_plugin_register_vcpu_insn_exec_cb(insn, on_mark, READ_REGS, t);
    }
    return t;
}

static void on_translate_marks(plugin_id id, struct qemu_plugin_tb *tb)
{
    (void)id;
    watch_marks(tb, NULL);
}

static void on_translate(plugin_id id, struct qemu_plugin_tb *tb)
{
    (void)id;
    struct block *t = new_block(tb);
    struct qemu_plugin_insn *end = qemu_plugin_tb_get_insn(tb, t->n - 1);
    plugin_u64 reached = { score, offsetof(struct board, reached) };

    /* At a block's beginning every register is in memory, so reading them costs nothing. */
    qemu_plugin_register_vcpu_tb_exec_cb(tb, on_block, READ_REGS, t);
    switch (t->kind) {
    case CALL: case CALL_ANY:
        qemu_plugin_register_vcpu_mem_cb(end, on_stack, NO_REGS, MEMORY_WRITE, t);
        break;
    case RETURN: case IRETURN:
        qemu_plugin_register_vcpu_mem_cb(end, on_stack, NO_REGS, MEMORY_READ, t);
        break;
    default:
        if (t->reads)
            qemu_plugin_register_vcpu_mem_cb(end, on_jump, NO_REGS, MEMORY_READ, t);
        else if (t->sign)
            qemu_plugin_register_vcpu_insn_exec_inline_per_vcpu(end, INLINE_STORE, reached, 1);
    }
    watch_marks(tb, t);
}

static void instrument_all(plugin_id id)
{
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translate);
}

/* --- marks ---------------------------------------------------------------------------------- */

/* send_symbols copies text out of the guest's memory into the stream. */
static void send_symbols(uint64_t from, uint64_t len)
{
    need_room();
    word(RECORD_SYMBOLS);
    number(len);
    flush();
    for (uint64_t done = 0; done < len; ) {
        size_t piece = 4096 - ((from + done) & 4095);
        if (piece > len - done)
            piece = len - done;
        if (!qemu_plugin_read_memory_vaddr(from + done, scratch, piece)) {
            give_up("read the symbols", "they are not in the guest's memory");
            return;
        }
        put(scratch->data, piece);
        done += piece;
    }
    static const uint8_t zeros[4];
    put(zeros, -len & 3);
}

static bool wanted(void)
{
    if (out < 0)
        return false;
    return !select_trial || ((int64_t)pending.a == want_setup && (int64_t)pending.b == want_trial);
}

static void on_mark(unsigned int vcpu, void *data)
{
    uint64_t id = reg(rsi), a = reg(rdi), b = reg(rbx);
    (void)vcpu;
    if (id == MARK_SYMBOLS && state == CLOSED) {
        send_symbols(a, b);
        return;
    }
    if (id == MARK_CLOSE && state == CLOSED) {
        need_room();
        word(RECORD_END);
        flush();
        if (out >= 0)
            close(out);
        out = -1;
        return;
    }
    if (id == MARK_BEGIN && state == CLOSED) {
        pending.number = id, pending.a = a, pending.b = b;
        if (!wanted())
            return;
        state = OPENING;
        window++;
        stack = 0;
        last = data;
        board->reached = 0;
        if (!instrumented)
            qemu_plugin_reset(self, instrument_all);
        instrumented = true;
    }
    if (id == MARK_END && state == OPEN) {
        pending.number = id, pending.a = a, pending.b = b;
        state = CLOSING;
    }
}

/* --- installation --------------------------------------------------------------------------- */

static void on_vcpu(plugin_id id, unsigned int vcpu)
{
    (void)id;
    board = qemu_plugin_scoreboard_find(score, vcpu);
    GArray *list = qemu_plugin_get_registers();
    const plugin_register *r = (const plugin_register *)list->data;
    static const struct { const char *name; struct qemu_plugin_register **to; } named[] = {
        { "rax", &rax }, { "rbx", &rbx }, { "rdx", &rdx }, { "rdi", &rdi }, { "rsi", &rsi }, { "rsp", &rsp },
    };
    for (size_t k = 0; k < sizeof named / sizeof *named; k++) {
        for (unsigned int i = 0; i < list->len && !*named[k].to; i++)
            if (!strcmp(r[i].name, named[k].name))
                *named[k].to = r[i].handle;
        if (!*named[k].to) {
            say("the CPU has no register", named[k].name);
            exit(1);
        }
    }
    g_array_free(list, 1);
}

static int refuse(const char *what, const char *why)
{
    say(what, why);
    return 1;
}

/* open_stream opens the FIFO, whose reader must be there. */
static int open_stream(void)
{
    static const uint32_t head[2] = { 0x74426b48, REVISION }; /* "HkBt" */
    out = open(out_name, O_WRONLY | O_NONBLOCK | O_CLOEXEC);
    if (out < 0)
        return refuse(out_name, strerror(errno));
    if (fcntl(out, F_SETFL, 0) < 0)
        return refuse(out_name, strerror(errno));
    (void)fcntl(out, F_SETPIPE_SZ, BUFFER); /* fewer turns between writer and reader */
    put(head, sizeof head);
    return 0;
}

EXPORT int qemu_plugin_install(plugin_id id, const struct plugin_info *info, int argc, char **argv)
{
    char text[128];
    if (info->version.min > INTERFACE_VERSION || info->version.cur < INTERFACE_VERSION) {
        snprintf(text, sizeof text, "it uses version %d of QEMU's plugin interface, this QEMU has %d to %d",
                 INTERFACE_VERSION, info->version.min, info->version.cur);
        return refuse(text, "use QEMU 9.1 to 10.0");
    }
    if (!info->system || strcmp(info->target, "x86_64") || info->smp_vcpus != 1)
        return refuse("it watches machines of x86_64 with one virtual CPU only", NULL);
    for (int i = 0; i < argc; i++) {
        char *value = strchr(argv[i], '=');
        if (value && !strncmp(argv[i], "out=", 4))
            out_name = strdup(value + 1);
        else if (value && !strncmp(argv[i], "setup=", 6))
            select_trial = true, want_setup = atoll(value + 1);
        else if (value && !strncmp(argv[i], "trial=", 6))
            select_trial = true, want_trial = atoll(value + 1);
        else
            return refuse("it has no argument", argv[i]);
    }
    if (!out_name)
        return refuse("it needs out=FIFO", NULL);
    if (open_stream())
        return 1;
    self = id;
    scratch = g_byte_array_new();
    score = qemu_plugin_scoreboard_new(sizeof(struct board));
    qemu_plugin_register_vcpu_init_cb(id, on_vcpu);
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translate_marks);
    return 0;
}
