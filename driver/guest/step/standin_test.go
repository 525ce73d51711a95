package step

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The stand-in for Cilium's agent: the test binary under the agent's name, in a root file system of
// its own. It serves the same API on the same socket, reads policies from the same directory, and
// pins maps of the same names and layouts. How it fails is in its arguments.
const (
	standInAgent  = "cilium-agent"
	standInTool   = "cilium-dbg"
	standInEtcd   = "etcd"
	standInSocket = "/run/cilium/cilium.sock"
	standInPins   = "/sys/fs/bpf/tc/globals"
	standInLink   = "cilium_host"
	standInRouter = "198.18.11.77"
	standInLib    = "/var/lib/cilium"
	standInPID    = "/run/cilium/cilium.pid"
	standInSysctl = "/proc/sys/net/ipv4/fib_multipath_use_neigh"

	failNever       = "never"
	failOpen        = "open"         // endpoints stay in regeneration once they have policies, as without Envoy
	failOneMissing  = "one-missing"  // an entry of the policy map is not there
	failUnwell      = "unwell"       // never gets well
	failOld         = "old"          // an old version
	failEnds        = "ends"         // ends when it is given policies, as at malformed YAML
	failKeepsLink   = "keeps-link"   // its cleaning up leaves a link
	failEarlyRevise = "early-revise" // says ready, and has the revision of before
	failFallsBack   = "falls-back"   // is well, and delivers by the node's stack

	attaches = "attaches" // does not fail, and has no socket of its cgroup connect
)

// standIn is what the test binary does under another name. It returns under its own.
func standIn() {
	switch filepath.Base(os.Args[0]) {
	case standInAgent:
		end(runStandInAgent(os.Args[1]))
	case standInTool:
		end(cleanAfterStandIn(os.Args[1]))
	case standInEtcd:
		l, err := net.Listen("tcp4", os.Args[1])
		if err != nil {
			end(err)
		}
		for {
			if _, err := l.Accept(); err != nil {
				end(err)
			}
		}
	}
}

// standInState is what the stand-in has.
type standInState struct {
	sync.Mutex
	fail      string
	endpoints map[int]map[string]any
	policy    map[int]*ebpf.Map
	metrics   *ebpf.Map
	reserved  map[string]bool
	revision  int
	loaded    bool
}

func runStandInAgent(fail string) error {
	if fail == "--version" {
		version := "1.17.3"
		if _, err := os.Stat("/usr/bin/old-version"); err == nil {
			version = "1.15.9"
		}
		fmt.Println("Cilium: " + version + " 0123abc 2025-01-01T00:00:00Z go version go1.24 linux/amd64")
		return nil
	}
	// As the agent does to what is the whole machine's.
	if err := os.WriteFile("/proc/sys/kernel/panic", []byte("0"), 0o600); !errors.Is(err, unix.EROFS) {
		return fmt.Errorf("/proc/sys/kernel can be written: %w", err)
	}
	if err := os.WriteFile(filepath.Join(standInLib, "features.h"), nil, 0o600); err != nil {
		return err
	}
	// It stays, as that of an agent that did not end in time and was killed.
	if err := os.WriteFile(standInPID, nil, 0o600); err != nil {
		return err
	}
	s := &standInState{fail: fail, endpoints: map[int]map[string]any{}, policy: map[int]*ebpf.Map{}, reserved: map[string]bool{}, revision: 1}
	if err := s.begin(); err != nil {
		return err
	}
	go s.watch()
	l, err := net.Listen("unix", standInSocket)
	if err != nil {
		return err
	}
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, unix.SIGTERM)
	go func() {
		<-ended
		os.Exit(0)
	}()
	return http.Serve(l, s.routes()) //nolint:gosec // ends with the test
}

func (s *standInState) begin() error {
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: standInLink}, PeerName: "cilium_net"}); err != nil {
		return fmt.Errorf("make %s: %w", standInLink, err)
	}
	if _, err := os.Stat("/sys/class/net/" + standInLink); err != nil {
		return fmt.Errorf("/sys is of another network namespace: %w", err)
	}
	if err := os.MkdirAll(standInPins, 0o755); err != nil {
		return err
	}
	err := os.WriteFile(standInSysctl, []byte("1"), 0o600)
	if err != nil {
		return err
	}
	if s.fail == attaches {
		if err := attachToSockets(); err != nil {
			return err
		}
	}
	s.metrics, err = ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.PerCPUHash, KeySize: 8, ValueSize: 16, MaxEntries: 64})
	if err == nil {
		err = s.metrics.Pin(filepath.Join(standInPins, "cilium_metrics"))
	}
	return err
}

// attachToSockets attaches a program to the cgroup that it has, as the agent does. It never does to
// the root, which alone has no cgroup.type (Documentation/admin-guide/cgroup-v2.rst).
func attachToSockets() error {
	const top = "/sys/fs/cgroup"
	if _, err := os.Stat(top + "/cgroup.type"); err != nil {
		return fmt.Errorf("%s is the root of the hierarchy: %w", top, err)
	}
	refuse, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.CGroupSockAddr, AttachType: ebpf.AttachCGroupInet4Connect, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()}})
	if err != nil {
		return err
	}
	l, err := link.AttachCgroup(link.CgroupOptions{Path: top, Attach: ebpf.AttachCGroupInet4Connect, Program: refuse})
	if err != nil {
		return err
	}
	return l.Pin(filepath.Join(standInPins, "connect"))
}

// routes are the API's.
func (s *standInState) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/healthz", func(w http.ResponseWriter, _ *http.Request) {
		state, within := "Ok", "BPF"
		switch s.fail {
		case failUnwell:
			state = "Failure"
		case failFallsBack:
			within = "Legacy"
		}
		answer(w, map[string]any{
			"cilium":                 map[string]any{"state": state, "msg": "stand-in"},
			"routing":                map[string]any{"intra-host-routing-mode": within, "inter-host-routing-mode": "Native", "tunnel-protocol": "vxlan"},
			"datapath-mode":          "veth",
			"kube-proxy-replacement": map[string]any{"mode": "True", "features": map[string]any{"socketLB": map[string]any{"enabled": true}, "bpfSocketLBHostnsOnly": true}},
		})
	})
	mux.HandleFunc("GET /v1/config", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, map[string]any{"status": map[string]any{"addressing": map[string]any{"ipv4": map[string]any{"ip": standInRouter}}}})
	})
	mux.HandleFunc("POST /v1/ipam/{ip}", func(w http.ResponseWriter, r *http.Request) {
		s.Lock()
		defer s.Unlock()
		if s.reserved[r.PathValue("ip")] {
			http.Error(w, "provided IP is already allocated", http.StatusConflict)
			return
		}
		s.reserved[r.PathValue("ip")] = true
		w.WriteHeader(http.StatusOK)
	})
	mux.HandleFunc("PUT /v1/endpoint/{id}", s.create)
	mux.HandleFunc("GET /v1/endpoint", func(w http.ResponseWriter, _ *http.Request) {
		s.Lock()
		defer s.Unlock()
		list := []any{}
		for id := range s.endpoints {
			list = append(list, s.say(id))
		}
		answer(w, list)
	})
	mux.HandleFunc("GET /v1/endpoint/{id}", func(w http.ResponseWriter, r *http.Request) {
		s.Lock()
		defer s.Unlock()
		var id int
		_, _ = fmt.Sscan(r.PathValue("id"), &id)
		if s.endpoints[id] == nil {
			http.NotFound(w, r)
			return
		}
		answer(w, s.say(id))
	})
	mux.HandleFunc("DELETE /v1/endpoint/{id}", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	return mux
}

func answer(w http.ResponseWriter, v any) { _ = json.NewEncoder(w).Encode(v) }

func (s *standInState) create(w http.ResponseWriter, r *http.Request) {
	s.Lock()
	defer s.Unlock()
	var body map[string]any
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	ip := body["addressing"].(map[string]any)["ipv4"].(string)
	link, err := netlink.LinkByName(body["interface-name"].(string))
	if err != nil || float64(link.Attrs().Index) != body["interface-index"] || link.Attrs().HardwareAddr.String() != body["host-mac"] || !s.reserved[ip] {
		http.Error(w, fmt.Sprintf("not the link and address: %v, %v", body, err), http.StatusBadRequest)
		return
	}
	id := 100 + len(s.endpoints)
	s.endpoints[id] = body
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Hash, KeySize: 12, ValueSize: 8, MaxEntries: 4096})
	if err == nil {
		err = m.Pin(filepath.Join(standInPins, fmt.Sprintf("cilium_policy_v2_%05d", id)))
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	s.policy[id] = m
	w.WriteHeader(http.StatusCreated)
}

// say is an endpoint as the API has it.
func (s *standInState) say(id int) map[string]any {
	state, revision := "ready", s.revision
	if s.loaded && s.fail == failOpen {
		state = "regenerating"
	}
	if s.loaded && s.fail == failEarlyRevise {
		revision = 1
	}
	return map[string]any{"id": id, "status": map[string]any{
		"state": state, "external-identifiers": map[string]any{"container-name": s.endpoints[id]["container-name"]},
		"policy": map[string]any{"realized": map[string]any{"policy-revision": revision, "policy-enabled": "ingress"}},
	}}
}

// watch reads each file that comes into the policies' directory.
func (s *standInState) watch() {
	var last time.Time
	for ; ; time.Sleep(10 * time.Millisecond) {
		file := "/run/cilium/cnp/hookbed.yaml"
		st, err := os.Stat(file)
		if err != nil || st.ModTime().Equal(last) {
			continue
		}
		last = st.ModTime()
		data, err := os.ReadFile(file)
		var parsed struct{ Specs []any }
		if err == nil {
			err = json.Unmarshal(data, &parsed)
		}
		if err != nil || s.fail == failEnds {
			fmt.Println("level=fatal msg=\"Failed to translate policy yaml file to cnp object\"", err)
			os.Exit(1)
		}
		s.load(len(parsed.Specs))
	}
}

func (s *standInState) load(n int) {
	s.Lock()
	defer s.Unlock()
	if s.fail == failOneMissing {
		n--
	}
	for _, m := range s.policy {
		for i := range n + 1 { // and what leaves the endpoint
			key := make([]byte, 12)
			key[0], key[1] = byte(i), byte(i>>8)
			_ = m.Put(key, make([]byte, 8))
		}
	}
	each := make([]struct{ Count, Bytes uint64 }, ebpf.MustPossibleCPU())
	each[0].Count = 3
	_ = s.metrics.Put([8]byte{133, 1}, each)
	s.revision, s.loaded = s.revision+1, true
}

// cleanAfterStandIn is the agent's tool that removes what it left.
func cleanAfterStandIn(fail string) error {
	if _, err := os.Stat(standInPID); err == nil {
		return fmt.Errorf("agent should not be running when cleaning up: found %s", standInPID)
	}
	if fail == failKeepsLink {
		return nil
	}
	if err := os.RemoveAll(standInLib); err != nil {
		return err
	}
	l, err := netlink.LinkByName(standInLink)
	if err != nil {
		return nil //nolint:nilerr // it is gone
	}
	return netlink.LinkDel(l)
}

// policiesText is a file of so many policies.
func policiesText(n int) string {
	return `{"specs":[` + strings.TrimSuffix(strings.Repeat("{},", n), ",") + "]}"
}
