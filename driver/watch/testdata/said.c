/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Says what the plugin makes of a line of the input, without a guest:
 *
 *   end BYTES             how this block ends: its instructions in hexadecimal, with commas between
 *   ran BYTES PC REACHED FRAME0 FRAME1
 *                         how many of its instructions were executed, if it is at 0x1000, its sign is
 *                         REACHED, and the next block begins at PC with these words on the stack
 *   install MIN CUR TARGET CPUS
 *                         what its installation returns
 */
#include "trace.c"

/* QEMU's other functions are not there, and are not called. */
#pragma weak g_byte_array_new
#pragma weak g_array_free
#pragma weak qemu_plugin_reset
#pragma weak qemu_plugin_register_vcpu_init_cb
#pragma weak qemu_plugin_register_vcpu_tb_trans_cb
#pragma weak qemu_plugin_register_vcpu_tb_exec_cb
#pragma weak qemu_plugin_register_vcpu_insn_exec_cb
#pragma weak qemu_plugin_register_vcpu_insn_exec_inline_per_vcpu
#pragma weak qemu_plugin_register_vcpu_mem_cb
#pragma weak qemu_plugin_tb_n_insns
#pragma weak qemu_plugin_tb_vaddr
#pragma weak qemu_plugin_tb_get_insn
#pragma weak qemu_plugin_insn_data
#pragma weak qemu_plugin_insn_size
#pragma weak qemu_plugin_insn_vaddr
#pragma weak qemu_plugin_get_registers
#pragma weak qemu_plugin_scoreboard_new
#pragma weak qemu_plugin_scoreboard_find

static uint64_t frame[2];
static GByteArray array = { (uint8_t *)frame, sizeof frame };

GByteArray *g_byte_array_set_size(GByteArray *a, unsigned int n)
{
    (void)n;
    return a;
}

int qemu_plugin_read_register(struct qemu_plugin_register *r, GByteArray *a)
{
    (void)r, (void)a;
    return 0;
}

bool qemu_plugin_read_memory_vaddr(uint64_t address, GByteArray *a, size_t len)
{
    (void)address, (void)a, (void)len;
    return true;
}

/* parse makes a block of its instructions. */
static struct block *parse(const char *text)
{
    struct block *t = calloc(1, sizeof *t + 64);
    uint8_t code[64];
    size_t len = 0, from = 0;
    for (;; text++) {
        unsigned int v;
        if (*text == ',' || *text == 0) {
            t->bytes[t->n++] = len - from;
            if (*text == 0)
                break;
            from = len;
            continue;
        }
        sscanf(text++, "%2x", &v);
        code[len++] = v;
    }
    t->pc = 0x1000;
    t->end = t->pc + len;
    t->next[0] = t->next[1] = t->end;
    classify(t, code + from, len - from);
    t->sign = needs_sign(t);
    return t;
}

static void say_end(const struct block *t)
{
    printf("%d", t->kind);
    if (t->anywhere)
        printf(" anywhere");
    else if (t->next[0] == t->next[1])
        printf(" %+d", (int)(t->next[0] - t->end));
    else
        printf(" %+d or %+d", (int)(t->next[0] - t->end), (int)(t->next[1] - t->end));
    printf("%s%s%s\n", t->reads ? " reads" : "", t->sign && !t->anywhere ? " sign" : "", t->undefined ? " undefined" : "");
}

int main(void)
{
    static struct board signs;
    char line[256], text[256];
    struct block next = { 0 };

    board = &signs;
    scratch = &array;
    while (fgets(line, sizeof line, stdin)) {
        struct plugin_info info = { .target = text, .system = true };
        if (sscanf(line, "end %255s", text) == 1) {
            say_end(parse(text));
        } else if (sscanf(line, "ran %255s %lx %lx %lx %lx", text, &next.pc, &signs.reached, &frame[0], &frame[1]) == 5) {
            const struct block *t = parse(text);
            printf("%d\n", whole(t, &next) ? t->n : executed(t, &next));
        } else if (sscanf(line, "install %d %d %255s %d", &info.version.min, &info.version.cur, text, &info.smp_vcpus) == 4) {
            printf("%d\n", qemu_plugin_install(0, &info, 0, NULL));
        } else {
            return 1;
        }
    }
    return 0;
}
