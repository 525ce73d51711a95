/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The part of QEMU's plugin interface that trace.c uses, declared here so that it can be built
 * without QEMU's and GLib's headers (include/qemu/qemu-plugin.h in QEMU 9.1 to 10.0, version 4 of
 * the interface; docs/devel/tcg-plugins.rst). All functions are in the QEMU that loads the plugin.
 */
#ifndef HOOKBED_INTERFACE_H
#define HOOKBED_INTERFACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Version of the interface: 4 has read_memory_vaddr, and insn_data that copies (3). */
#define INTERFACE_VERSION 4

typedef uint64_t plugin_id;

struct plugin_info {
    const char *target;
    struct {
        int min, cur;
    } version;
    bool system;
    int smp_vcpus, max_vcpus;
};

struct qemu_plugin_tb;
struct qemu_plugin_insn;
struct qemu_plugin_scoreboard;
struct qemu_plugin_register;

/* A number in a scoreboard that generated code can change without a call. */
typedef struct {
    struct qemu_plugin_scoreboard *score;
    size_t offset;
} plugin_u64;

enum plugin_regs { NO_REGS, READ_REGS, WRITE_REGS };
enum plugin_memory { MEMORY_READ = 1, MEMORY_WRITE, MEMORY_BOTH };
enum plugin_inline { INLINE_ADD, INLINE_STORE };

typedef struct {
    struct qemu_plugin_register *handle;
    const char *name, *feature;
} plugin_register;

/* GLib's arrays, as far as their fields are public. */
typedef struct {
    char *data;
    unsigned int len;
} GArray;
typedef struct {
    uint8_t *data;
    unsigned int len;
} GByteArray;
GByteArray *g_byte_array_new(void);
GByteArray *g_byte_array_set_size(GByteArray *, unsigned int);
char *g_array_free(GArray *, int free_data);

typedef void (*plugin_simple_cb)(plugin_id);
typedef void (*plugin_vcpu_cb)(plugin_id, unsigned int vcpu);
typedef void (*plugin_tb_cb)(plugin_id, struct qemu_plugin_tb *);
typedef void (*plugin_exec_cb)(unsigned int vcpu, void *data);
typedef void (*plugin_mem_cb)(unsigned int vcpu, uint32_t info, uint64_t address, void *data);

void qemu_plugin_reset(plugin_id, plugin_simple_cb);
void qemu_plugin_register_vcpu_init_cb(plugin_id, plugin_vcpu_cb);
void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, plugin_tb_cb);
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *, plugin_exec_cb, enum plugin_regs,
                                          void *data);
void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *, plugin_exec_cb,
                                            enum plugin_regs, void *data);
void qemu_plugin_register_vcpu_insn_exec_inline_per_vcpu(struct qemu_plugin_insn *,
                                                         enum plugin_inline, plugin_u64,
                                                         uint64_t value);
void qemu_plugin_register_vcpu_mem_cb(struct qemu_plugin_insn *, plugin_mem_cb, enum plugin_regs,
                                      enum plugin_memory, void *data);

size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
size_t qemu_plugin_insn_data(const struct qemu_plugin_insn *, void *to, size_t len);
size_t qemu_plugin_insn_size(const struct qemu_plugin_insn *);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *);

GArray *qemu_plugin_get_registers(void); /* of plugin_register */
int qemu_plugin_read_register(struct qemu_plugin_register *, GByteArray *);
bool qemu_plugin_read_memory_vaddr(uint64_t address, GByteArray *, size_t len);

struct qemu_plugin_scoreboard *qemu_plugin_scoreboard_new(size_t element);
void *qemu_plugin_scoreboard_find(struct qemu_plugin_scoreboard *, unsigned int vcpu);

#endif
