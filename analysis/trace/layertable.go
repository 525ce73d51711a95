package trace

import "slices"

// layerLine is a line of the table: the names of a layer, separated by space. "*" at the end of a
// name is for any ending; the exact name wins, then the longest one.
type layerLine struct {
	layerRule
	names string
}

// layerTable says which functions of Linux 5.10 to 7.x begin a layer. What is called from many
// places - locks, lists, atomic counters, thunks - is not in it: it belongs to its callers.
func layerTable() []layerLine {
	return slices.Concat(packetLayers(), hostLayers(), shared())
}

func line(l Layer, names string) layerLine { return layerLine{layerRule{layer: l}, names} }

// packetLayers are what only packets pass.
func packetLayers() []layerLine {
	return []layerLine{
		line(LayerCopy, `_copy_from_iter* _copy_to_iter* copy_from_iter* copy_to_iter* __copy_from_iter* copy_page_to_iter* copy_page_from_iter*
			_copy_from_user* _copy_to_user* copy_user_* __copy_user* raw_copy_* copyin copyout rep_movs_alternative rep_stos_alternative
			simple_copy_to_iter skb_copy_datagram_iter __skb_datagram_iter skb_copy_datagram_* csum_and_copy_* csum_partial_copy* __copy_skb_header_user
			skb_do_copy_data_nocache skb_splice_* iov_iter_* import_iovec* __import_iovec import_single_range import_ubuf move_addr_to_user move_addr_to_kernel
			__get_user_* __put_user_* get_user_* put_user_* clear_user* strncpy_from_user __check_object_size check_heap_object check_stack_object __arch_copy_*`),
		line(LayerSocket, `__sys_* ____sys_* ___sys_* sock_* __sock_* sockfd_* inet_sendmsg inet_recvmsg inet6_sendmsg inet6_recvmsg inet_send_prepare inet_accept
			inet_stream_connect __inet_stream_connect inet_shutdown inet_release inet_create inet_listen inet_bind* __inet_bind security_* apparmor_* tomoyo_* hook_socket_* rtnl_* rtnetlink_* selinux_* cap_* aa_*
			bpf_lsm_* lock_sock* release_sock __release_sock __lock_sock sk_* __sk_* skb_set_owner_w skb_set_owner_* lock_sock_nested
			ep_* do_epoll* __ep_* do_select core_sys_select kern_select do_sys_poll do_poll* poll_* __pollwait select_estimate_accuracy
			move_msghdr sendmsg_copy_msghdr recvmsg_copy_msghdr copy_msghdr* __copy_msghdr verify_iovec netlink_* __netlink_* unix_* af_alg* packet_* tpacket*
			datagram_poll kernel_sendmsg kernel_recvmsg proto_* reqsk_* inet_csk_accept inet_reqsk* tls_*`),
		line(LayerTCP, `tcp_* __tcp_* tcp4_* tcp6_* tcp_v4_* tcp_v6_* inet_csk_* inet_ehash* inet_hash* __inet_lookup* inet_lookup* inet_unhash* inet_twsk* inet_put_port
			__inet_hash* __inet_check_established inet_ehashfn cubictcp_* bictcp_* reno_* bbr_* dctcp_* minmax_* sk_stream_* tcpv6_* secure_tcp* cookie_*
			mptcp_* __skb_tstamp_tx bpf_skops_*`),
		line(LayerIP, `ip_* __ip_* ip4_* ip6_* __ip6_* ipv4_* ipv6_* __ipv6_* inet_* inet6_* fib_* __fib_* fib4_* fib6_* rt_* rt6_* rtm_* dst_* __dst_* route_*
			neigh_* __neigh_* arp_* ndisc_* nd_* icmp_* __icmp_* icmpv6_* udp_* __udp* udp4_* udp6_* udpv6_* igmp_* raw_local_* raw_v4* raw_v6* inet_rtm*
			eth_header eth_header_* l3mdev_* lwtunnel_* xfrm_* __xfrm_* iptunnel_* ip_tunnel_* udp_tunnel* secure_ip* find_exception
			fnhe_* inetpeer* inet_getpeer`),
		line(LayerNetfilter, `nf_hook_* nf_hook ip_vs_* __ip_vs_* nf_ip_* nf_ip6_* nf_reroute nf_queue* nf_log_* nf_br_* br_nf_* br_netfilter* brnf_* setup_pre_routing ipv4_sabotage* ip_sabotage_in
			nf_skb_* nf_checksum* nf_defrag_* nf_ct_bridge* nf_reject_* nf_send_* nf_bridge_* __nf_ip6_route `),
		line(LayerConntrack, `nf_conntrack_* __nf_conntrack_* nf_ct_* __nf_ct_* ipv4_conntrack_* ipv6_conntrack_* nf_confirm* nf_nat_* __nf_nat_* nf_xfrm_me_harder
			resolve_normal_ct hash_conntrack* __hash_conntrack get_l4proto ipv4_confirm ipv6_confirm hash_by_src ipv4_get_l4proto ipv6_get_l4proto
			nf_conncount* nf_flow_* flow_offload* death_by_timeout destroy_conntrack destroy_gre* init_conntrack early_drop* gc_worker
			ipt_do_masquerade masquerade_* xt_masquerade* tcp_in_window tcp_init_sender tcp_new_conntrack in_vrf_postrouting`),
		line(LayerIptables, `ipt_* ip6t_* ebt_* arpt_* iptable_* ip6table_* ebtable_* xt_* tcp_mt udp_mt icmp_match conntrack_mt* state_mt* comment_mt multiport_mt* mark_mt* mark_tg*
			addrtype_mt* set_match_* tcpudp_mt_* connmark_* limit_mt* iprange_mt* owner_mt* mac_mt* physdev_mt* ip_packet_match reject_tg* log_tg* dnat_* masquerade_tg*
			statistic_mt recent_mt* hashlimit_mt* bpf_mt* string_mt* length_mt* pkttype_mt* rateest_mt* quota_mt* standard_target `),
		line(LayerNftables, `nft_* __nft_* nf_tables_* expr_call_ops_eval pipapo_* `),
		line(LayerIPSet, `ip_set_* __ip_set_* hash_ip* hash_net* hash_mac* list_set_* bitmap_ip* bitmap_port* mtype_*`),
		line(LayerBPF, `bpf:* bpf_* __bpf_* ___bpf_* htab_* __htab_* array_map_* trie_* longest_prefix_match lookup_nulls_elem_raw lookup_elem_raw percpu_array_map_*
			htab_percpu_* cgroup_bpf_* __cgroup_bpf_* fd_array_map* prog_array_map* stack_map* ringbuf_map* sk_storage*
			bloom_map* `),
		line(LayerTC, `tcf_* __tcf_* tc_run tc_cls_act* sch_handle_* tcx_* fl_* u32_* cls_* act_* clsact_* mini_qdisc_* tc_* skb_do_redirect __bpf_redirect* __bpf_tx_skb*
			__bpf_rx_skb* mirred_* basic_classify mall_*`),
		line(LayerXDP, `do_xdp_generic* netif_receive_generic_xdp bpf_prog_run_generic_xdp generic_xdp_* xdp_* __xdp_* veth_xdp_* veth_convert_skb_to_xdp_buff veth_poll veth_ptr_*
			dev_map_* __dev_map_* cpu_map_* __cpu_map_* dev_hash_map_* bq_* xsk_* skb_pp_cow_data skb_cow_data_for_xdp netif_skb_check_for_xdp
			virtnet_xdp* veth_ndo_xdp* `),
		line(LayerBridge, `br_* __br_* nbp_* fdb_* maybe_deliver deliver_clone should_deliver br_handle_frame* vlan_* __vlan_* `),
		line(LayerVeth, `veth_* netkit_* ipvlan_* macvlan_* loopback_xmit loopback_* dummy_xmit __dev_forward_skb* dev_forward_skb* ____dev_forward_skb is_skb_forwardable`),
		line(LayerOverlay, `vxlan_* __vxlan_* geneve_* gre_* ipgre_* erspan_* udp_tunnel_xmit_skb udp_tunnel6_xmit_skb udp_encap* gro_cells_receive gro_cell_poll
			iptunnel_xmit iptunnel_handle_offloads iptunnel_pull_header __iptunnel_pull_header ip_tunnel_ecn* INET_ECN_decapsulate arp_reduce`),
		line(LayerOVS, `ovs_* __ovs_* flow_lookup masked_flow_lookup do_execute_actions execute_* key_extract* clone_execute do_output internal_dev_* netdev_frame_hook netdev_port_receive
			key_extract_l3l4`),
		line(LayerQdisc, `dev_queue_xmit* __dev_queue_xmit* __dev_direct_xmit dev_hard_start_xmit xmit_one dev_direct_xmit sch_direct_xmit __qdisc_run qdisc_* __qdisc_* validate_xmit_*
			netdev_pick_tx netdev_core_pick_tx __netdev_pick_tx skb_tx_hash netif_skb_features pfifo_* fq_* fq_codel_* noqueue_* noop_* htb_* mq_* tbf_* net_tx_action netif_schedule_queue
			__netif_schedule* virtnet_* start_xmit virtqueue_* vring_* netdev_tx_* dql_* dev_watchdog skb_crc32c_csum_help skb_checksum_help skb_network_protocol passthru_features_check
			netif_tx_* netif_xmit_* dev_loopback_xmit e1000* ixgbe* mlx5* i40e* dev_fetch_* netdev_features* harmonize_features`),
		line(LayerSoftirq, `do_softirq* __do_softirq* handle_softirqs* __softirq* run_ksoftirqd raise_softirq* __raise_softirq* wakeup_softirqd invoke_softirq irq_exit* __irq_exit* ksoftirqd*
			net_rx_action process_backlog __process_backlog napi_* __napi_* netif_rx* __netif_rx* netif_receive_skb* __netif_receive_skb* enqueue_to_backlog get_rps_cpu* net_rps_* rps_*
			smpboot_thread_fn deliver_skb deliver_ptype* eth_type_trans dev_kfree_skb_irq* __dev_kfree_skb_irq* skb_clone_tx_timestamp skb_defer_rx* tasklet_* __tasklet_* netif_napi_* busy_poll*
			netdev_rx_* skb_defer_free_flush dev_seq_* softirq_* __skb_flow_dissect* skb_flow_* __skb_get_hash* skb_get_hash* flow_hash_* make_flow_keys*`),
		line(LayerGRO, `dev_gro_* napi_gro_* gro_* __gro_* inet_gro_* ipv6_gro_* tcp_gro_* tcp4_gro_* tcp6_gro_* udp_gro_* udp4_gro_* skb_gro_* __skb_gro_* napi_skb_finish napi_frags_* gro_pull*
			skb_segment* skb_mac_gso_* __skb_gso_* skb_gso_* tcp_gso_* tcp4_gso_* tcp6_gso_* inet_gso_* ipv6_gso_* udp_gso_* __udp_gso* skb_udp_tunnel_segment gso_* eth_gro_* eth_gso*
			__tcp_gso* gro_cells_*`),
		line(LayerSKB, `alloc_skb* __alloc_skb* kfree_skb* __kfree_skb* sk_skb_reason_drop consume_skb __consume_* skb_* __skb_* ___skb_* pskb_* __pskb_* kmalloc_reserve* kmalloc_size_roundup
			build_skb* __build_skb* napi_alloc_* __napi_alloc* napi_consume_skb napi_build_skb napi_skb_cache* __napi_kfree_skb netdev_alloc_* __netdev_alloc* kfree_skbmem __copy_skb_header
			__finalize_skb_around page_frag_* __page_frag_* sock_wfree sock_rfree __sock_wfree tcp_wfree sock_efree sock_edemux sk_mem_* __sk_mem_* sk_page_frag_refill
			skb_page_frag_refill tcp_stream_alloc_skb sk_stream_alloc_skb mem_cgroup_charge_skmem mem_cgroup_uncharge_skmem mem_cgroup_sk_* csum_partial* csum_block_*
			do_csum net_zcopy* dev_kfree_skb_any* dev_kfree_skb* __dev_kfree_skb* `),
	}
}

// hostLayers are what all programs use.
func hostLayers() []layerLine {
	return []layerLine{
		line(LayerSyscall, `entry_SYSCALL* entry_SYSRET* do_syscall_64 x64_sys_call __x64_sys_* __ia32_* syscall_* ret_from_fork* ksys_* sys_*
			do_el0_svc invoke_syscall el0* vfs_* new_sync_* __fdget* fdget* __fget* fget* fput* __fput* task_work_* ____fput
			exit_to_user_mode* arch_exit_to_user* prepare_exit_to_usermode rw_verify_area do_iter_* pipe_* file_* rseq_* __rseq_* fsnotify* __fsnotify*
			do_sys_* path_* link_path_walk getname* dput lookup_* filp_* ext4_* tmpfs_* shmem_* anon_* seq_* proc_* tty_* n_tty_* uart_* serial8250*
			do_group_exit do_exit kernel_clone copy_process wait4 do_wait* kernel_wait4 begin_new_exec load_elf_binary bprm_* do_execve* futex_* do_futex __futex*`),
		line(LayerWakeup, `schedule* __schedule* preempt_schedule* __cond_resched* _cond_resched io_schedule* try_to_wake_up* ttwu_* __wake_up* wake_* default_wake_* autoremove_wake_* woken_wake_*
			receiver_wake_* pollwake ep_poll_callback sock_def_readable sock_def_write_space sock_def_wakeup sk_stream_write_space sk_wait_data sk_stream_wait_* wait_woken prepare_to_wait* finish_wait
			__prepare_to_* add_wait_queue* remove_wait_queue* __add_wait* select_task_rq* enqueue_task* dequeue_task* enqueue_entity* dequeue_entit* __enqueue_entity __dequeue_entity enqueue_rt_* dequeue_rt_*
			__enqueue_rt* enqueue_top_rt* dequeue_top_rt* enqueue_pushable* dequeue_pushable* pick_next_* pick_task_* pick_eevdf __pick_* set_next_* put_prev_* update_curr* update_rq_clock* update_load_avg*
			__update_load_avg* update_se update_min_vruntime update_cfs_* update_idle* update_rt_* activate_task deactivate_task block_task try_to_block_task finish_task_switch* prepare_task_switch
			__switch_to* switch_to* switch_mm* switch_fpu* context_switch check_preempt_* wakeup_preempt* resched_curr* __resched_curr resched_cpu avg_vruntime* place_entity reweight_* entity_* vruntime_*
			psi_* cpuacct_* __cgroup_account* cgroup_* sched_* __sched_* cpupri_* push_rt_* pull_rt_* inc_rt_* dec_rt_* balance_* newidle_* load_balance* task_rq_* raw_spin_rq_* set_task_cpu available_idle_cpu
			dl_server_* dl_* __dl_* hrtick* yield_* do_sched_* task_tick_* scheduler_tick perf_event_task_* __perf_event_task_* perf_event_context* kick_process x86_task_fpu save_fpregs* fpregs_* restore_fpregs*
			complete complete_all* wait_for_completion* __wait_for_* swake_up* __swake* wait_event* kthread_is_per* requeue_* rto_* select_idle_* add_nr_running sub_nr_running migration_* attach_* detach_*
			enter_lazy_tlb record_times native_load_* switch_ldt mm_cid_get task_woken_* load_new_mm_cr3 update_stats_* update_blocked* __calc_delta calc_delta* __accumulate* decay_load ___update_load* native_smp_send_reschedule`),
		line(LayerTimers, `hrtimer_* __hrtimer_* enqueue_hrtimer remove_hrtimer __remove_hrtimer mod_timer* __mod_timer del_timer* timer_* __timer_* try_to_del_timer* add_timer* run_timer_* __run_timer* call_timer_fn
			expire_timers run_timers detach_if_pending lock_timer_base internal_add_timer enqueue_timer calc_wheel_index trigger_dyntick* get_nohz* collect_expired* get_next_timer* __next_timer* sk_reset_timer sk_stop_timer*
			tick_* ktime_* __ktime* timekeeping_* read_tsc get_jiffies* update_wall_time update_process_times account_process_tick account_* update_vsyscall* clockevents_* lapic_* native_sched_clock sched_clock* paravirt_sched_clock
			local_clock* native_read_tsc kvm_clock* pvclock* jiffies_* do_timer calc_global_load* update_times run_posix_cpu_timers posix_* it_real_fn clock_gettime* do_clock* get_timespec* put_timespec* ns_to_*
			timerqueue_* irqtime_* vtime_* run_local_timers rcu_sched_clock_irq* cpu_clock* `),
		line(LayerInterrupts, `asm_* common_interrupt* __common_interrupt* sysvec_* __sysvec_* exc_* error_entry error_return irqentry_* irq_enter* __irq_enter* handle_irq* __handle_irq* handle_edge_irq handle_level_irq
			handle_fasteoi_irq generic_handle_* do_IRQ smp_apic_* apic_* ack_* native_apic_* x2apic_* mask_ioapic* unmask_ioapic* ioapic_* note_interrupt add_interrupt_randomness native_irq_return* restore_regs_and_return*
			common_interrupt_return ret_from_intr native_iret paranoid_* sync_regs fixup_bad_iret swapgs_* irq_* __irq_* vector_* el1_* el1h_* gic_* do_interrupt* fixup_exception search_exception* do_error_trap
			nmi_* default_do_nmi do_int3 serial8250_interrupt acpi_irq`),
		line(LayerMemory, `do_user_addr_fault do_kern_addr_fault handle_mm_fault __handle_mm_fault handle_pte_fault do_anonymous_page do_fault* do_wp_page wp_page_* filemap_* alloc_pages* __alloc_pages* get_page_from_freelist* rmqueue*
			free_pages* __free_pages* free_unref_* free_one_page* folio_* __folio_* lru_add* lru_gen* lru_note* put_page* __put_page* page_* unmap_* zap_* tlb_* __tlb_* flush_tlb_* native_flush_* __native_flush* mmap_* do_mmap* do_munmap* __do_munmap vm_* vma_*
			find_vma* mas_* mt_* mtree_* clear_page* copy_page* clear_huge* pte_* pmd_* pud_* p4d_* mem_cgroup_* __mem_cgroup* memcg_* __memcg* obj_cgroup_* charge_memcg try_charge* cgroup_rstat* __count_memcg* refill_* drain_*
			madvise_* mprotect_* expand_* brk do_brk* vmalloc* __vmalloc* vfree* vmap* get_free_pages __get_free_pages khugepaged* kswapd* compact_* lock_vma* lru_cache_add* lock_mm_and_find_vma rmap_* anon_vma*
			set_pte* split_* unlink_anon* fault_* numa_* __pte_* __pmd_* update_mmu* mod_node* __mod_node* __mod_zone* mod_zone* __mod_lruvec* count_vm* node_page*`),
		line(LayerHousekeeper, `rcu_core* rcu_do_batch rcu_gp_* rcu_process_* rcu_cblist_* rcu_segcblist_* __call_rcu* call_rcu* kvfree_call_rcu kfree_rcu* __kvfree_rcu* rcu_note_context* rcu_report_* rcu_qs rcu_momentary* rcu_nocb* rcu_accelerate* rcu_advance*
			rcu_is_cpu* rcu_watching* rcu_all_qs force_qs* note_gp_changes __note_gp* check_cb_ovld* srcu_* __srcu_* rcu_preempt* rcu_exp* synchronize_rcu* rcu_future* rcu_start* rcu_implicit* rcu_pending rcu_check*
			worker_thread process_one_work process_scheduled_works queue_work* __queue_work* queue_delayed* __queue_delayed* delayed_work_* insert_work* kick_pool* pwq_* wq_* kthread kthreadd kthread_* pool_* idle_worker* worker_* cancel_work* mod_delayed*
			wb_* writeback* vmstat_* refresh_cpu_vm* quiet_vmstat cpu_stopper* multi_cpu_stop stop_one_cpu* migration_cpu* text_poke* jump_label_* static_key_* printk* vprintk* console_* irq_work_* __irq_work* flush_smp_* __flush_smp* generic_smp_* smp_call_* on_each_cpu*
			oom_* hung_task* watchdog* random_* crng_* get_random_* _get_random* mix_pool* extract_* blake2s* chacha* credit_* add_timer_rand* add_device_rand*`),
		line(LayerIdle, `do_idle poll_idle cpu_startup_entry default_idle* cpuidle_* arch_cpu_idle* native_safe_halt mwait_idle* acpi_idle* intel_idle* pv_native_safe_halt cpu_idle* call_cpuidle ct_idle* rcu_idle* ct_cpuidle* menu_* teo_* haltpoll*
			tick_nohz_idle_* arch_cpu_idle_enter rest_init start_secondary rcu_eqs* ct_kernel_* cpuidle_idle_call`),
	}
}

// shared are functions whose layer depends on who calls them.
func shared() []layerLine {
	copies := []Layer{LayerTCP, LayerSocket, LayerCopy}
	slabs := []Layer{LayerSKB, LayerXDP, LayerBPF}
	return []layerLine{
		{layerRule{layer: LayerCopy, only: copies}, `memcpy __memcpy memcpy_orig memmove __memmove memcpy_erms __memcpy_*`},
		{layerRule{layer: LayerMemory, keep: slabs}, `kmem_cache_* __kmem_cache_* kmalloc* __kmalloc* kfree __kfree ___slab_* __slab_* slab_* ___cache_* cache_alloc* cache_free* __cache_* allocate_slab new_slab* put_cpu_partial*
			deactivate_slab get_partial* kvfree kvmalloc* __kvmalloc* ksize __ksize should_failslab kmalloc_trace* kmalloc_slab memcg_slab* __unfreeze* unfreeze_* discard_slab free_to_partial* alloc_from_pcs* __pcs_* sheaf_*
			pcpu_* __alloc_percpu* free_percpu mempool_*`},
		{layerRule{layer: LayerSKB, keep: []Layer{LayerXDP}}, `page_pool_* __page_pool*`},
		{layerRule{layer: LayerSoftirq, keep: []Layer{LayerXDP, LayerGRO}}, `napi_schedule* __napi_schedule* napi_complete_done`},
		{layerRule{layer: LayerTimers, keep: []Layer{LayerIdle}}, `tick_nohz_*`},
		{layerRule{layer: LayerWakeup, keep: []Layer{LayerIdle}}, `schedule_idle`},
	}
}
