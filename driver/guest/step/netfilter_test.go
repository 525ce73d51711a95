package step

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"hookbed/driver/bundle"
	"hookbed/driver/guest/fault"
	"hookbed/driver/guest/guesttest"
)

// section is a rule set in a golden file of package datapath: what a node gets
// and what the helper must then read.
type section struct {
	name     string
	refused  string
	Counter  bundle.RuleCounter
	Rules    uint64
	Elements map[string]uint64
	Admits   string
	loads    []sectionFile
	undos    []sectionFile // of the load with the same index
	update   sectionFile
	revert   sectionFile
}

type sectionFile struct{ tool, text string }

func netfilterFilters() []string {
	return []string{"iptables-legacy", "iptables-nft", "ipset", "nft-linear", "nft-set", "nft-vmap", "nft-interval"}
}

// sections reads the rule sets of a filter.
func sections(t *testing.T, filter string) []section {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "..", "datapath", "testdata", "netfilter-"+filter+".golden"))
	if err != nil {
		t.Fatal(err)
	}
	var out []section
	for _, text := range strings.Split(string(data), "=== ")[1:] {
		out = append(out, parseSection(t, text))
	}
	if len(out) < 10 {
		t.Fatalf("%s has %d sections", filter, len(out))
	}
	return out
}

func parseSection(t *testing.T, text string) section {
	t.Helper()
	name, rest, _ := strings.Cut(text, "\n")
	s := section{name: name}
	if why, ok := strings.CutPrefix(rest, "refused: "); ok {
		s.refused = why
		return s
	}
	head, rest, _ := strings.Cut(rest, "\n--- ")
	if err := json.Unmarshal([]byte(head), &s); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	for _, part := range strings.Split(rest, "\n--- ") {
		title, body, _ := strings.Cut(part, "\n")
		role, tool, _ := strings.Cut(title, " ")
		tool, _, _ = strings.Cut(tool, " ")
		f := sectionFile{tool, strings.TrimSuffix(body, "\n") + "\n"}
		switch role {
		case "load":
			s.loads = append(s.loads, f)
		case "undo":
			s.undos = append(s.undos, f)
		case "update":
			s.update = f
		case "revert":
			s.revert = f
		}
	}
	return s
}

// in is where the rule set is loaded: the server's namespace, or the node's.
func (s section) in() string {
	if s.has("input") {
		return "server"
	}
	return ""
}

// has says whether the section's name has a word.
func (s section) has(word string) bool { return slices.Contains(strings.Fields(s.name), word) }

// load loads the rule set and returns the results of its steps.
func (r *rig) load(s section) []bundle.StepResult {
	r.t.Helper()
	var out []bundle.StepResult
	for i, f := range s.loads {
		r.file(fmt.Sprint("load", i), f.text)
		r.file(fmt.Sprint("undo", i), s.undos[i].text)
		out = append(out, r.must(s.in(), bundle.Rules{Tool: f.tool, File: fmt.Sprint("load", i), Undo: fmt.Sprint("undo", i)}))
	}
	return out
}

// change loads the update or its revert.
func (r *rig) change(s section, f sectionFile) (seconds float64) {
	r.t.Helper()
	r.file("change", f.text)
	res := r.must(s.in(), bundle.Rules{Tool: f.tool, File: "change", Metric: "update_seconds"})
	if _, ok := res.Values["update_seconds"]; !ok || len(res.Values) != 1 {
		r.t.Errorf("%s: an update has values %v", s.name, res.Values)
	}
	return res.Values["update_seconds"]
}

func (r *rig) counters(s section) map[string]float64 {
	r.t.Helper()
	return r.must(s.in(), bundle.Read{Name: "now", From: bundle.Counter{Rules: &s.Counter}}).Values
}

// rules is everything of netfilter in a namespace, without counts.
func (r *rig) rules(in string) string {
	r.t.Helper()
	out := r.output(in, "nft", "-s", "list", "ruleset") + r.output(in, "ipset", "save")
	for _, tool := range []string{"iptables-legacy", "ip6tables-legacy"} {
		out += r.output(in, tool, "-w", "60", "-S") // other tests hold the lock
	}
	return out
}

// Addresses of the golden files: server, client, the first policy's source,
// that of the update, and one that no policy names.
type address struct{ server, client, listed, updated, stranger string }

func addresses(s section) address {
	if s.has("ipv6") {
		return address{"2001:2::1:3", "2001:2::1:2", "2001:2:0:1::1", "2001:2:0:21::1", "2001:2:0:99::1"}
	}
	return address{"198.18.1.3", "198.18.1.2", "198.19.0.1", "198.19.0.33", "198.19.9.9"}
}

// both makes client and server of both families, whose bridge hands packets to
// iptables and nft, and servers at both ports.
func (r *rig) both() {
	r.t.Helper()
	r.pair()
	for _, key := range []string{"net.bridge.bridge-nf-call-iptables", "net.bridge.bridge-nf-call-ip6tables"} {
		r.must("", bundle.Sysctl{Key: key, Value: "1"})
	}
	four, six := addresses(section{name: "ipv4"}), addresses(section{name: "ipv6"})
	for _, a := range []string{four.listed, four.updated, four.stranger} {
		r.output("client", "ip", "addr", "add", a+"/32", "dev", "eth0")
	}
	for _, a := range []string{six.client + "/112", six.listed + "/128", six.updated + "/128", six.stranger + "/128"} {
		r.output("client", "ip", "-6", "addr", "add", a, "dev", "eth0", "nodad")
	}
	r.output("server", "ip", "-6", "addr", "add", six.server+"/112", "dev", "eth0", "nodad")
	r.output("server", "ip", "-6", "route", "add", "2001:2::/48", "dev", "eth0")
	for _, port := range []string{"5001", "5002"} {
		r.serve(port)
	}
	for _, a := range []address{four, six} {
		r.awaitPath(a)
	}
}

// serve accepts on a port of the server until the test ends.
func (r *rig) serve(port string) {
	r.t.Helper()
	at, err := r.x.endpointOf("server")
	if err != nil {
		r.t.Fatal(err)
	}
	err = at.Do(func() error {
		l, err := net.Listen("tcp", ":"+port)
		if err == nil {
			go acceptAll(l)
			r.t.Cleanup(func() { l.Close() })
		}
		return err
	})
	if err != nil {
		r.t.Fatal(err)
	}
}

// acceptAll closes every connection as it comes, until the listener is closed.
func acceptAll(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		_ = c.Close()
	}
}

// awaitPath waits until the client reaches the server: links need a moment.
func (r *rig) awaitPath(a address) {
	r.t.Helper()
	guesttest.Await(r.t, func() bool { return r.reach(a.client, a.server, "5001", time.Second) == nil })
}

// reach opens and closes a connection from an address of the client's.
func (r *rig) reach(from, to, port string, limit time.Duration) error {
	at, err := r.x.endpointOf("client")
	if err != nil {
		return err
	}
	return at.Do(func() error {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: limit}
		c, err := d.Dial("tcp", net.JoinHostPort(to, port))
		if err != nil {
			return err
		}
		_ = c.(*net.TCPConn).SetLinger(0)
		return c.Close()
	})
}

// silence is how long a denied connection is waited for, in a path that answers
// within a millisecond.
const silence = 150 * time.Millisecond

// try is a connection and whether it must come about.
type try struct {
	from, port string
	want       bool
}

// tryAll connects all at once and returns how many were to be let through.
func (r *rig) tryAll(s section, tries []try) (allowed, denied uint64) {
	r.t.Helper()
	return r.tryAllFor(s, tries, silence)
}

func (r *rig) tryAllFor(s section, tries []try, silence time.Duration) (allowed, denied uint64) {
	r.t.Helper()
	var all sync.WaitGroup
	errs := make([]error, len(tries))
	for i, p := range tries {
		limit := silence
		if p.want {
			allowed++
			limit = guesttest.Patience
		} else {
			denied++
		}
		all.Go(func() { errs[i] = r.reach(p.from, addresses(s).server, p.port, limit) })
	}
	all.Wait()
	for i, p := range tries {
		var timeout net.Error
		silent := errors.As(errs[i], &timeout) && timeout.Timeout() && !errors.Is(errs[i], syscall.EHOSTUNREACH)
		if p.want && errs[i] != nil || !p.want && !silent {
			r.t.Errorf("%s: %s to port %s: %v, want it let through: %v", s.name, p.from, p.port, errs[i], p.want)
		}
	}
	return allowed, denied
}

// tries are the connections that a rule set must judge rightly.
func tries(s section) []try {
	a, deny, l3 := addresses(s), s.has("deny"), s.has("l3")
	return []try{
		{a.client, "5001", true}, {a.listed, "5001", !deny}, {a.stranger, "5001", deny},
		{a.listed, "5002", l3 != deny}, {a.updated, "5001", deny},
	}
}

// unsupportedHere says whether this kernel must refuse a rule set: without
// nf_conntrack_bridge there are no connections in nft's bridge family.
func (r *rig) unsupportedHere(s section) bool {
	return s.has("bridge") && !s.has("stateless") && !bridgeConntrack()
}

// bridgeConntrack asks the kernel's list of symbols, after a module that may be
// there was loaded.
func bridgeConntrack() bool {
	_ = exec.Command("modprobe", "-q", "nf_conntrack_bridge").Run()
	data, err := os.ReadFile("/proc/kallsyms")
	return err == nil && strings.Contains(string(data), " nf_ct_bridge_pre")
}

// TestNetfilter loads every rule set of the golden files into this kernel: it
// must judge, count, be updated, and leave nothing behind.
func TestNetfilter(t *testing.T) {
	for _, filter := range netfilterFilters() {
		t.Run(filter, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.both()
			for _, s := range sections(t, filter) {
				if s.refused == "" {
					r.testSection(s)
				}
			}
		})
	}
}

func (r *rig) testSection(s section) {
	r.t.Helper()
	if r.unsupportedHere(s) {
		r.file("load", s.loads[0].text)
		r.fails(s.in(), bundle.FaultUnsupported, bundle.Rules{Tool: s.loads[0].tool, File: "load"}, "nf_conntrack_bridge", fault.KernelRelease())
		return
	}
	if s.has("docker") {
		r.dockerChain(true)
		defer r.dockerChain(false)
	}
	before := r.rules(s.in())
	mark := r.x.undo.mark()
	r.load(s)
	r.testRealised(s, 0)
	r.testJudges(s)

	loaded := r.rules(s.in())
	r.change(s, s.update)
	r.testRealised(s, 1)
	r.tryAll(s, []try{{addresses(s).updated, "5001", !s.has("deny")}, {addresses(s).client, "5001", true}})
	r.change(s, s.revert)
	r.tryAll(s, []try{{addresses(s).updated, "5001", s.has("deny")}, {addresses(s).client, "5001", true}})
	if got := r.rules(s.in()); got != loaded {
		r.t.Errorf("%s: the revert left\n%s\nit was\n%s", s.name, got, loaded)
	}
	if err := r.x.undoTo(mark); err != nil {
		r.t.Fatal(err)
	}
	if got := r.rules(s.in()); got != before {
		r.t.Errorf("%s: the undo left\n%s\nit was\n%s", s.name, got, before)
	}
}

// testJudges tries what the rule set must judge. On a busy machine a denied
// connection may have timed out before it was even sent, so as long as too few were
// dropped all are tried again, with more time.
func (r *rig) testJudges(s section) {
	r.t.Helper()
	for limit := silence; ; limit *= 4 {
		first, again := r.counters(s), r.retransmitted("client")
		allowed, denied := r.tryAllFor(s, tries(s), limit)
		after := r.counters(s)
		if after["dropped"]-first["dropped"] >= float64(denied) || limit > guesttest.Patience/4 {
			r.testCounters(s, first, after, allowed, denied, r.retransmitted("client")-again)
			return
		}
	}
}

// dockerChain puts DOCKER-USER where Docker has it, or takes it away.
func (r *rig) dockerChain(there bool) {
	r.t.Helper()
	for _, tool := range []string{"iptables-legacy", "iptables-nft"} {
		if there {
			r.output("", tool, "-w", "60", "-N", "DOCKER-USER")
			r.output("", tool, "-w", "60", "-A", "DOCKER-USER", "-j", "RETURN")
			r.output("", tool, "-w", "60", "-I", "FORWARD", "-j", "DOCKER-USER")
			continue
		}
		r.output("", tool, "-w", "60", "-D", "FORWARD", "-j", "DOCKER-USER")
		r.output("", tool, "-w", "60", "-F", "DOCKER-USER")
		r.output("", tool, "-w", "60", "-X", "DOCKER-USER")
	}
	if !there {
		r.output("", "nft", "delete", "table", "ip", "filter")
	}
}

// testRealised compares what the kernel holds with what was rendered, and more
// policies than that.
func (r *rig) testRealised(s section, more uint64) {
	r.t.Helper()
	rules, elements := s.Rules, maps.Clone(s.Elements)
	if len(elements) == 0 {
		rules += more
	}
	got := r.counters(s)
	for name, n := range elements {
		if got["elements."+name] != float64(n+more) {
			r.t.Errorf("%s: %s has %g elements, want %d", s.name, name, got["elements."+name], n+more)
		}
	}
	if got["rules"] != float64(rules) || got["rules_hook"] < float64(rules) {
		r.t.Errorf("%s: %g rules of %g, want %d", s.name, got["rules"], got["rules_hook"], rules)
	}
}

// testCounters compares what counters grew by with what was tried, of which some
// segments were sent again.
func (r *rig) testCounters(s section, before, after map[string]float64, allowed, denied uint64, again float64) {
	r.t.Helper()
	grew := func(key string) float64 { return after[key] - before[key] }
	if grew(s.Admits) < float64(allowed) || grew("dropped") < float64(denied) {
		r.t.Errorf("%s: %s +%g for %d admitted, dropped +%g for %d denied", s.name, s.Admits, grew(s.Admits), allowed, grew("dropped"), denied)
	}
	if grew("dropped") > float64(denied)+again {
		r.t.Errorf("%s: dropped +%g for %d denied and %g sent again", s.name, grew("dropped"), denied, again)
	}
	if sum := grew("accepted") + grew("dropped") + grew("passed"); grew("packets") != sum || grew("bytes") < 40*sum {
		r.t.Errorf("%s: packets +%g (%g bytes), of which %g accepted, dropped or passed", s.name, grew("packets"), grew("bytes"), sum)
	}
}

// TestStatelessIsNotTracked: without a rule that asks for it, conntrack does
// not run in a namespace.
func TestStatelessIsNotTracked(t *testing.T) {
	for _, filter := range netfilterFilters() {
		t.Run(filter, func(t *testing.T) {
			t.Parallel()
			for _, s := range sections(t, filter) {
				if s.refused == "" && s.has("ipv4") && s.has("l4") && s.has("allow") && !s.has("docker") {
					testTracked(t, s)
				}
			}
		})
	}
}

func testTracked(t *testing.T, s section) {
	t.Helper()
	r := newRig(t)
	r.both()
	if r.unsupportedHere(s) {
		return // TestNetfilter says so
	}
	r.load(s)
	r.tryAll(s, []try{{addresses(s).client, "5001", true}, {addresses(s).listed, "5001", true}})
	count := strings.TrimSpace(r.output(s.in(), "cat", "/proc/sys/net/netfilter/nf_conntrack_count"))
	if tracked := count != "0"; tracked == s.has("stateless") {
		t.Errorf("%s: %s connections are tracked", s.name, count)
	}
}

// scaled is a rule set with more policies of the first one's form.
func scaled(t *testing.T, s section, n int) section {
	t.Helper()
	listed := addresses(s).listed
	text := s.loads[0].text
	var line string
	for _, l := range strings.Split(text, "\n") {
		if strings.Contains(l, listed+"/") || strings.Contains(l, listed+",") || strings.Contains(l, listed+" ") {
			line = l
		}
	}
	if line == "" {
		t.Fatalf("%s: no line names %s:\n%s", s.name, listed, text)
	}
	var more strings.Builder
	for i := range n {
		more.WriteString(strings.Replace(line, listed, fmt.Sprintf("198.19.%d.%d", 64+i>>8, i&255), 1) + "\n")
	}
	out := s
	out.loads = slices.Clone(s.loads)
	out.loads[0].text = strings.Replace(text, line+"\n", line+"\n"+more.String(), 1)
	if len(s.Elements) == 0 {
		out.Rules += uint64(n)
	}
	out.Elements = map[string]uint64{}
	for k, v := range s.Elements {
		out.Elements[k] = v + uint64(n)
	}
	return out
}

// TestNetfilterSizes loads up to 10 000 policies: they must all be there, judge
// as few do, and weigh what they are.
func TestNetfilterSizes(t *testing.T) {
	for _, filter := range netfilterFilters() {
		t.Run(filter, func(t *testing.T) {
			weight := map[int]float64{}
			// What a busy machine has not given back yet only adds: the least of
			// a few loads is the rule set's own.
			for range 3 {
				for _, n := range []int{10, 1000, 10000} {
					if got := testSize(t, filter, n); weight[n] == 0 || got < weight[n] {
						weight[n] = got
					}
				}
				if linear(weight) {
					break
				}
			}
			perFew, perMany := perPolicy(weight)
			t.Logf("a policy takes %.0f bytes up to 1000, %.0f above", perFew, perMany)
			if !linear(weight) {
				t.Errorf("a policy takes %.1f bytes up to 1000 and %.1f above", perFew, perMany)
			}
		})
	}
}

// perPolicy is what a policy weighs up to 1000 and above. A set of 10 costs its
// table too, so only growth is compared.
func perPolicy(weight map[int]float64) (few, many float64) {
	return (weight[1000] - weight[10]) / 990, (weight[10000] - weight[1000]) / 9000
}

// linear says whether growth is in proportion, and a policy takes at least its
// key.
func linear(weight map[int]float64) bool {
	few, many := perPolicy(weight)
	return few >= 6 && many >= 6 && few <= 4*many && many <= 4*few
}

func testSize(t *testing.T, filter string, n int) (weight float64) {
	r := newRig(t)
	r.both()
	s := scaled(t, sections(t, filter)[0], n)
	before := r.rules(s.in())
	mark := r.x.undo.mark()
	seconds := 0.0
	for _, res := range r.load(s) {
		seconds += res.Values["load_seconds"]
		weight += res.Values["memory_bytes"]
	}
	start := time.Now()
	r.testRealised(s, 0)
	read := time.Since(start)
	r.tryAll(s, tries(s))
	updated := r.change(s, s.update)
	r.testRealised(s, 1)
	r.change(s, s.revert)
	start = time.Now()
	if err := r.x.undoTo(mark); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d more policies: loaded in %.3f s, one more in %.3f s, %.0f bytes; read in %v, undone in %v", n, seconds, updated, weight, read, time.Since(start))
	if got := r.rules(s.in()); got != before {
		t.Errorf("%d: the undo left %s", n, got[:min(len(got), 1000)])
	}
	return weight
}

// TestUpdateIsOneTransaction: a change that cannot be made changes nothing,
// and says which rule it did not find.
func TestUpdateIsOneTransaction(t *testing.T) {
	r := newRig(t)
	r.must("", bundle.Netns{Name: "server"})
	s := sections(t, "nft-linear")[0]
	r.load(s)
	loaded := r.rules("server")
	r.file("change", s.revert.text)
	r.fails("server", bundle.FaultRig, bundle.Rules{Tool: "nft", File: "change"}, `has 0 rules with the comment "update"`)
	r.file("change", s.update.text+"insert rule ip hookbed nowhere counter\n")
	r.fails("server", bundle.FaultRig, bundle.Rules{Tool: "nft", File: "change"}, "nowhere")
	if got := r.rules("server"); got != loaded {
		t.Errorf("a failed change left\n%s\nit was\n%s", got, loaded)
	}
	// A table that is there already is not added to.
	r.file("load", s.loads[0].text)
	r.fails("server", bundle.FaultRig, bundle.Rules{Tool: "nft", File: "load"}, "File exists")
}

func TestMissingSetTypeIsUnsupported(t *testing.T) {
	r := newRig(t)
	r.file("sets", "create a hash:none,such family inet\n")
	r.fails("", bundle.FaultRig, bundle.Rules{Tool: "ipset", File: "sets"}, "line 1 is")
	r.file("sets", "create a hash:ip family inet\nadd a 198.19.0.1\nadd a nonsense\n")
	r.fails("", bundle.FaultRig, bundle.Rules{Tool: "ipset", File: "sets"}, `line 3 is "add a nonsense"`)
	r.output("", "ipset", "destroy")
}

// TestMeasureMemoryLeavesNoCgroup: the cgroup of a load is gone when the step is.
func TestMeasureMemoryLeavesNoCgroup(t *testing.T) {
	own := func() (all []string) {
		for _, pattern := range []string{"/sys/fs/cgroup/hookbed-rules-*", "/sys/fs/cgroup/memory/hookbed-rules-*"} {
			found, _ := filepath.Glob(pattern)
			all = append(all, found...)
		}
		return all
	}
	r := newRig(t)
	r.must("", bundle.Netns{Name: "server"})
	s := sections(t, "nft-set")[0]
	before, home := own(), cgroupLines(t)
	r.load(s)
	for _, dir := range own() {
		if !slices.Contains(before, dir) && !othersCgroup(dir) {
			t.Errorf("the load left %s", dir)
		}
	}
	if got := cgroupLines(t); got != home {
		t.Errorf("the helper is in\n%s\nit was in\n%s", got, home)
	}
}

// othersCgroup says whether a cgroup is gone after a moment: another test's.
func othersCgroup(dir string) bool {
	for deadline := time.Now().Add(guesttest.Patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
			return true
		}
	}
	return false
}

func cgroupLines(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile("/proc/" + strconv.Itoa(os.Getpid()) + "/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
