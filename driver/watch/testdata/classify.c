/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Says what the plugin makes of instructions: each line of the input is a block in hexadecimal, whose
 * last instruction is after a comma; "install MIN CUR TARGET CPUS" instead installs the plugin.
 */
#include "trace.c"

/* QEMU's functions are not there, and are not called. */
#pragma weak g_byte_array_new
#pragma weak g_byte_array_set_size
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
#pragma weak qemu_plugin_read_register
#pragma weak qemu_plugin_read_memory_vaddr
#pragma weak qemu_plugin_scoreboard_new
#pragma weak qemu_plugin_scoreboard_find

static void classify_line(const char *line)
{
    struct block *t = calloc(1, sizeof *t + 64);
    uint8_t code[64];
    size_t len = 0, from = 0;
    for (; *line && *line != '\n'; line++) {
        if (*line == ',') {
            from = len;
            continue;
        }
        unsigned int v;
        sscanf(line++, "%2x", &v);
        code[len++] = v;
    }
    t->pc = 0x1000;
    t->end = t->pc + len;
    t->next[0] = t->next[1] = t->end;
    t->n = from ? 2 : 1;
    classify(t, code + from, len - from);
    printf("%d", t->kind);
    if (t->anywhere)
        printf(" anywhere");
    else if (t->next[0] == t->next[1])
        printf(" %+d", (int)(t->next[0] - t->end));
    else
        printf(" %+d or %+d", (int)(t->next[0] - t->end), (int)(t->next[1] - t->end));
    printf("%s%s%s\n", t->reads ? " reads" : "", needs_sign(t) && !t->anywhere ? " sign" : "", t->undefined ? " undefined" : "");
    free(t);
}

int main(void)
{
    char line[256], target[64];
    while (fgets(line, sizeof line, stdin)) {
        struct plugin_info info = { .target = target, .system = true };
        if (sscanf(line, "install %d %d %63s %d", &info.version.min, &info.version.cur, target, &info.smp_vcpus) == 4) {
            fflush(stdout);
            printf("%d\n", qemu_plugin_install(0, &info, 0, NULL));
        } else {
            classify_line(line);
        }
    }
    return 0;
}
