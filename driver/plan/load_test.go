package plan

import (
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"
)

// testCatalog is small and does not change with the real datapaths.
func testCatalog() Catalog {
	return Catalog{
		Kernels:   []string{"6.1", "6.12"},
		Versions:  []string{"6.12.100", "7.0.13"},
		NICs:      map[string][]string{"6.1": {"virtio", "vmxnet3"}, "6.12": {"virtio", "vmxnet3", "e1000e"}},
		Workloads: []WorkloadEntry{{Name: "TCP_STREAM", Streams: true, Protocol: "tcp"}, {Name: "TCP_RR", Counts: true, Protocol: "tcp"}},
		Datapaths: []DatapathEntry{
			{Name: "docker", Fabric: "bridge", Filter: "none", NoPolicies: true},
			{Name: "iptables", Fabric: "bridge", Filter: "iptables-legacy", Protocols: []string{"tcp"}, MaxClients: 4, WhyClients: "it is a test", Options: []Option{
				{Key: "state", Allowed: []string{"as-study", "established-first"}},
				{Key: "placement", Allowed: []string{"input", "forward"}},
			}},
			{Name: "xdp", Fabric: "bridge", Filter: "xdp-hash", Protocols: []string{"tcp"}, Options: []Option{
				{Key: "attach", Allowed: []string{"native", "generic"}},
			}, Refuse: refuseNativeOnOneQueue},
		},
	}
}

func refuseNativeOnOneQueue(lab Lab, scenario string, options map[string]string) string {
	if lab.Provider == ProviderLibvirt && scenario == MultiHost && options["attach"] == "native" && lab.Queues == 1 {
		return "native XDP wants queues >= 2"
	}
	return ""
}

const good = `schema = 1
name = "t"
description = "test"
seed = 7

[lab]
provider = "libvirt"
endpoint = "netns"
accel = "tcg"
kernel = "6.1"
vcpus = 3
memory = "512MiB"
queues = 6

[measure]
blocks = 2
trials = 4
duration = "1m"
warmup = "0s"
congestion = "cubic"
client_cpu = 2
server_cpu = 0
estimator = "faster-half"
load_limit = 1.5
steal_limit = 0.05

[matrix]
scenarios = ["multi-host", "localhost"]
workloads = ["TCP_RR"]
policies = [0, 10]

[[arm]]
name = "a"
datapath = "iptables"
state = "established-first"

[[arm]]
name = "b"
datapath = "docker"
`

func TestParseReadsEveryKey(t *testing.T) {
	got, err := Parse("t.toml", []byte(good), testCatalog())
	if err != nil {
		t.Fatal(err)
	}
	want := Spec{
		Name: "t", Description: "test", Seed: 7,
		Lab: Lab{Provider: "libvirt", Endpoint: "netns", Clock: "wall", Accel: "tcg", Kernel: "6.1", VCPUs: 3, Memory: 512, Queues: 6},
		Measure: Measure{Blocks: 2, Trials: 4, Duration: time.Minute, Warmup: 0, Congestion: "cubic",
			ClientCPU: 2, ServerCPU: 0, Estimator: "faster-half", LoadLimit: 1.5, StealLimit: 0.05},
		Scenarios: []string{"multi-host", "localhost"}, Workloads: []string{"TCP_RR"}, Policies: []int{0, 10},
		Arms: []Arm{
			{Name: "a", Datapath: "iptables", Options: map[string]string{"state": "established-first", "placement": "input"}},
			{Name: "b", Datapath: "docker", Options: map[string]string{}},
		},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

const minimal = `schema = 1
name = "t"
[matrix]
scenarios = ["localhost"]
workloads = ["TCP_RR"]
policies = [0]
[[arm]]
name = "a"
datapath = "docker"
`

func TestDefaultsFillWhatIsNotSaid(t *testing.T) {
	got, err := Parse("t.toml", []byte(minimal), testCatalog())
	if err != nil {
		t.Fatal(err)
	}
	d := defaults()
	if got.Seed != 1 || !reflect.DeepEqual(got.Lab, d.Lab) || !reflect.DeepEqual(got.Measure, d.Measure) {
		t.Errorf("got %+v, want the defaults %+v", got, d)
	}
	local, err := Parse("t.toml", []byte(minimal+"[lab]\nprovider = \"local\"\n"), testCatalog())
	if err != nil {
		t.Fatal(err)
	}
	if want := (Lab{Provider: ProviderLocal, Endpoint: EndpointNetns, Clock: ClockWall}); !reflect.DeepEqual(local.Lab, want) {
		t.Errorf("local lab is %+v, want %+v", local.Lab, want)
	}
}

// edit is a change of the good experiment and the whole error it makes, line by
// line; of a TOML error only the beginning. No error where want is "".
type edit struct{ old, new, want string }

func TestEveryProblemIsNamedWithItsLine(t *testing.T) {
	for name, e := range map[string]edit{
		"misspelt key":         {`seed = 7`, `sed = 7`, `t.toml:4: sed: unknown key (did you mean "seed"?)`},
		"key elsewhere":        {`[lab]`, "[lab]\ntrials = 4", `t.toml:7: lab.trials: unknown key; it belongs in [measure]`},
		"key of the top":       {`blocks = 2`, "blocks = 2\ndescription = \"\"", `t.toml:17: measure.description: unknown key; it belongs in the top of the file, before the first table`},
		"strange key":          {`blocks = 2`, "blocks = 2\nzzzzzzzz = 1", `t.toml:17: measure.zzzzzzzz: unknown key, want "blocks", "seeds", "trials", "parts", "stop", "estimator", "load_limit", "steal_limit", "duration", "warmup", "count", "congestion", "client_cpu" or "server_cpu"`},
		"misspelt table":       {`[measure]`, "[mesure]", `t.toml:15: mesure: unknown key (did you mean "measure"?)`},
		"quoted number":        {`trials = 4`, `trials = "4"`, `t.toml:17: measure.trials: is the text "4", want a whole number without quotes`},
		"fraction":             {`trials = 4`, `trials = 4.5`, `t.toml:17: measure.trials: is the fraction 4.5, want a whole number without quotes`},
		"no trials":            {`trials = 4`, `trials = 0`, `t.toml:17: measure.trials: 0 is out of range, want 1 to 1000`},
		"many blocks":          {`blocks = 2`, `blocks = 101`, `t.toml:16: measure.blocks: 101 is out of range, want 1 to 100`},
		"negative seed":        {`seed = 7`, `seed = -7`, `t.toml:4: seed: -7 is negative, want 0 or more`},
		"no unit":              {`duration = "1m"`, `duration = "60"`, `t.toml:18: measure.duration: "60" has no unit; write "60s"`},
		"number for duration":  {`duration = "1m"`, `duration = 60`, `t.toml:18: measure.duration: 60 has no unit; write "60s"`},
		"wrong unit":           {`duration = "1m"`, `duration = "60 sec"`, `t.toml:18: measure.duration: "60 sec" is not a duration, want a number and s, m or h; write "60s"`},
		"part of a second":     {`duration = "1m"`, `duration = "1500ms"`, `t.toml:18: measure.duration: "1500ms" is not whole seconds, in which iperf3 and netperf count; write "2s"`},
		"negative duration":    {`duration = "1m"`, `duration = "-1m"`, `t.toml:18: measure.duration: "-1m" is negative, want "1s" or more`},
		"wrong vcpus only":     {`vcpus = 3`, `vcpus = "3"`, `t.toml:11: lab.vcpus: is the text "3", want a whole number without quotes`},
		"no duration":          {`duration = "1m"`, `duration = "0s"`, `t.toml:18: measure.duration: "0s" is out of range, want "1s" to "1h"`},
		"long warm-up":         {`warmup = "0s"`, `warmup = "1h"`, `t.toml:19: measure.warmup: "1h" is out of range, want "0s" to "10m"`},
		"decimal memory":       {`"512MiB"`, `"2G"`, `t.toml:12: lab.memory: "2G" is not an amount of memory; write "2GiB"`},
		"memory in MB":         {`"512MiB"`, `"2048 MB"`, `t.toml:12: lab.memory: "2048 MB" is not an amount of memory; write "2048MiB"`},
		"memory as number":     {`"512MiB"`, `2048`, `t.toml:12: lab.memory: 2048 has no unit; write "2048MiB"`},
		"little memory":        {`"512MiB"`, `"64MiB"`, `t.toml:12: lab.memory: "64MiB" is out of range, want "512MiB" to "262144MiB"`},
		"unknown provider":     {`"libvirt"`, `"libvrt"`, `t.toml:7: lab.provider: unknown level "libvrt", want "libvirt", "local" or "ssh" (did you mean "libvirt"?)`},
		"unknown kernel":       {`"6.1"`, `"5.10"`, `t.toml:10: lab.kernel: unknown level "5.10", want "6.1" or "6.12" (did you mean "6.1"?)`},
		"missing name":         {`name = "t"`, ``, `t.toml:1: name: is missing; it names the run directory`},
		"bad name":             {`name = "t"`, `name = "../t"`, `t.toml:2: name: "../t" is not a name, want 1 to 63 of a-z, 0-9 and -, not starting with -`},
		"bad arm name":         {`name = "a"`, `name = "A b"`, `t.toml:33: arm.name: "A b" is not a name, want 1 to 63 of a-z, 0-9 and -, not starting with -`},
		"arm twice":            {`name = "b"`, `name = "a"`, `t.toml:38: arm.name: "a" is also the arm of line 33; each name once`},
		"unknown datapath":     {`"docker"`, `"dokcer"`, `t.toml:39: arm.datapath: unknown level "dokcer", want "docker", "iptables" or "xdp" (did you mean "docker"?)`},
		"unknown option":       {`state = "est`, `sate = "est`, `t.toml:35: arm.sate: unknown key (did you mean "state"?)`},
		"option of another":    {`datapath = "docker"`, "datapath = \"docker\"\nattach = \"native\"", `t.toml:40: arm.attach: unknown key, want "name", "datapath", "filter" or "fabric"`},
		"unknown level":        {`"established-first"`, `"as-studi"`, `t.toml:35: arm.state: unknown level "as-studi", want "as-study" or "established-first" (did you mean "as-study"?)`},
		"option not text":      {`"established-first"`, `true`, `t.toml:35: arm.state: is true, want "as-study" or "established-first" in quotes`},
		"no such CPU":          {`server_cpu = 0`, `server_cpu = 3`, `t.toml:22: measure.server_cpu: 3 is not a CPU of a VM with vcpus = 3, want 0 to 2`},
		"bad congestion":       {`"cubic"`, `"Cubic!"`, `t.toml:20: measure.congestion: "Cubic!" is not a name, want a TCP congestion control, as in "reno" or "cubic"`},
		"one arm table":        {"[[arm]]\nname = \"a\"", "[arm]\nname = \"a\"", "t.toml:37: not valid TOML: "},
		"arm defined twice":    {"\n[lab]", "\narm = [1, 2]\n[lab]", "t.toml:33: not valid TOML: "},
		"lab is no table":      {"\n[lab]\nprovider = \"libvirt\"\nendpoint = \"netns\"\naccel = \"tcg\"\nkernel = \"6.1\"\nvcpus = 3\nmemory = \"512MiB\"\nqueues = 6\n", "\nlab = 1\n", "t.toml:6: lab: is the number 1, want a table: write [lab]"},
		"key twice":            {`seed = 7`, "seed = 7\nseed = 8", "t.toml:5: not valid TOML: "},
		"syntax":               {`seed = 7`, `seed = `, "t.toml:4: not valid TOML: "},
		"other schema":         {`schema = 1`, "schema = 2\nsed = 1", `t.toml:1: schema: is the number 2, want 1, the only schema this driver reads`},
		"missing schema":       {`schema = 1`, ``, `t.toml:1: schema: is missing; write schema = 1`},
		"table in a table":     {"datapath = \"docker\"", "datapath = \"xdp\"\n[lab.x]", "t.toml:40: lab.x: unknown key, want \"provider\", \"clock\", \"endpoint\", \"accel\", \"kernel\", \"vcpus\", \"memory\", \"queues\", \"nic\", \"mtu\", \"offloads\", \"machine\", \"abandon_after\", \"directory\", \"cache\", \"hypervisor\" or \"sealed\""},
		"too many trials":      {"blocks = 2\ntrials = 4", "blocks = 100\ntrials = 1000", ""},
		"parts on the wall":    {"blocks = 2", "blocks = 2\nparts = 3", `t.toml:17: measure.parts: is about clock = "virtual", whose boots several computers share; remove it`},
		"sealed on the wall":   {`accel = "tcg"`, `sealed = "qemu"`, `t.toml:9: lab.sealed: is about sealed guests, and with clock = "wall" there are none; remove it, or write clock = "virtual"`},
		"seeds on the wall":    {"blocks = 2", "blocks = 2\nseeds = 3", `t.toml:17: measure.seeds: is about clock = "virtual", where a seed is all that differs between boots; write blocks`},
		"stop beside trials":   {"trials = 4", "trials = 4\nstop = { ci = 0.02, min = 5, max = 30 }", `t.toml:17: measure.trials: is there beside stop, which says how many trials; remove one of them`},
		"stop is no table":     {"trials = 4", "stop = 0.02", `t.toml:17: measure.stop: is the fraction 0.02, want a table: write stop = { ci = 0.02, min = 5, max = 30 }`},
		"stop without max":     {"trials = 4", "stop = { ci = 0.02, min = 5 }", `t.toml:17: measure.stop.max: is missing; write stop = { ci = 0.02, min = 5, max = 30 }`},
		"stop min above max":   {"trials = 4", "stop = { ci = 0.02, min = 5, max = 4 }", `t.toml:17: measure.stop.max: 4 is less than min = 5; write 5 or more`},
		"stop of one trial":    {"trials = 4", "stop = { ci = 0.02, min = 1, max = 4 }", `t.toml:17: measure.stop.min: 1 is out of range, want 2 to 1000`},
		"stop ci of zero":      {"trials = 4", "stop = { ci = 0, min = 2, max = 4 }", `t.toml:17: measure.stop.ci: 0 is out of range, want above 0 and at most 1`},
		"stop misspelt":        {"trials = 4", "stop = { ci = 0.02, min = 2, max = 4, mx = 4 }", `t.toml:17: measure.stop.mx: unknown key (did you mean "max"?)`},
		"unknown estimator":    {`"faster-half"`, `"mean"`, `t.toml:23: measure.estimator: unknown level "mean", want "median" or "faster-half" (did you mean "median"?)`},
		"load limit of zero":   {"load_limit = 1.5", "load_limit = 0.0", `t.toml:24: measure.load_limit: 0 is out of range, want above 0 and at most 1000`},
		"load limit not there": {"load_limit = 1.5", "load_limit = nan", `t.toml:24: measure.load_limit: NaN is out of range, want above 0 and at most 1000`},
		"steal in percent":     {"steal_limit = 0.05", "steal_limit = 5", `t.toml:25: measure.steal_limit: 5 is out of range, want above 0 and at most 1`},
		"quoted limit":         {"steal_limit = 0.05", `steal_limit = "5 %"`, `t.toml:25: measure.steal_limit: is the text "5 %", want a number without quotes, as in 0.05`},
		"unknown clock":        {`provider = "libvirt"`, "provider = \"libvirt\"\nclock = \"virtal\"", `t.toml:8: lab.clock: unknown level "virtal", want "wall" or "virtual" (did you mean "virtual"?)`},
		"no matrix":            {"[matrix]", "[other]", "t.toml:1: matrix: is missing; write [matrix] with scenarios, workloads and policies\nt.toml:27: other: unknown key, want \"schema\", \"name\", \"description\", \"seed\", \"lab\", \"measure\", \"policy\", \"matrix\" or \"arm\""},
	} {
		t.Run(name, e.check)
	}
}

func TestEveryProblemOfTheMatrixIsNamedWithItsLine(t *testing.T) {
	for name, e := range map[string]edit{
		"unknown scenario": {`"localhost"]`, `"local"]`, `t.toml:28: matrix.scenarios: unknown level "local", want "localhost" or "multi-host"`},
		"unknown workload": {`["TCP_RR"]`, "[\n  # the rate\n  \"TCP_RR\",\n  \"UDP\",\n]", `t.toml:32: matrix.workloads: unknown level "UDP", want "TCP_STREAM" or "TCP_RR"`},
		"level twice":      {`"multi-host", "localhost"]`, `"localhost", "localhost"]`, `t.toml:28: matrix.scenarios: "localhost" is there twice; each level once`},
		"count twice":      {`[0, 10]`, `[0, 10, 0]`, `t.toml:30: matrix.policies: 0 is there twice; each level once`},
		"negative count":   {`[0, 10]`, `[-1]`, `t.toml:30: matrix.policies: -1 is out of range, want 0 to 100000`},
		"huge count":       {`[0, 10]`, `[100001]`, `t.toml:30: matrix.policies: 100001 is out of range, want 0 to 100000`},
		"too many clients": {`[0, 10]`, "[0]\nclients = [17]", `t.toml:31: matrix.clients: 17 is out of range, want 1 to 16`},
		"no client":        {`[0, 10]`, "[0]\nclients = [0]", `t.toml:31: matrix.clients: 0 is out of range, want 1 to 16`},
		"clients no list":  {`[0, 10]`, "[0]\nclients = 4", `t.toml:31: matrix.clients: is the number 4, want a list of numbers, as in [0, 100]`},
		"clients misspelt": {`[0, 10]`, "[0]\nclient = [4]", `t.toml:31: matrix.client: unknown key (did you mean "clients"?)`},
		"count of bytes":   {"[matrix]", "count = { TCP_STREAM = 5 }\n[matrix]", `t.toml:27: measure.count.TCP_STREAM: has no transactions that could be counted, and runs for measure.duration; remove it`},
		"count of nothing": {"[matrix]", "count = { TCP_RR = 0 }\n[matrix]", `t.toml:27: measure.count.TCP_RR: 0 is out of range, want 1 to 10000000`},
		"count misspelt":   {"[matrix]", "count = { TCP_R = 5 }\n[matrix]", `t.toml:27: measure.count.TCP_R: unknown key (did you mean "TCP_RR"?)`},
		"count alone":      {"[matrix]", "count = 5\n[matrix]", `t.toml:27: measure.count: is the number 5, want the transactions of a workload, as in count = { TCP_RR = 1000 }`},
		"too many streams": {`[0, 10]`, "[0]\nstreams = [129]", `t.toml:31: matrix.streams: 129 is out of range, want 1 to 128`},
		"no streams of RR": {`[0, 10]`, "[0]\nstreams = [4]", `t.toml:31: matrix.streams: is about "TCP_STREAM", which is not in workloads; add it there, or remove streams`},
		"fewer policies":   {`[0, 10]`, "[0, 3]\nclients = [1, 4]", `t.toml:30: matrix.policies: 3 is less than clients = 4, each of which has a policy of its own; write 0, or 4 and more`},
		"datapath of two":  {`[0, 10]`, "[0]\nclients = [4, 16]", `t.toml:35: arm.datapath: "iptables" cannot have 16 clients (matrix.clients): it is a test; write clients of at most 4, or another datapath`},
		"text for count":   {`[0, 10]`, `[0, "10"]`, `t.toml:30: matrix.policies: has the text "10" in it, want whole numbers`},
		"empty list":       {`["TCP_RR"]`, `[]`, `t.toml:29: matrix.workloads: is empty, want some of "TCP_STREAM" or "TCP_RR"`},
		"no list":          {`["TCP_RR"]`, `"TCP_RR"`, `t.toml:29: matrix.workloads: is the text "TCP_RR", want a list of some of "TCP_STREAM" or "TCP_RR"`},
		"missing list":     {`workloads = ["TCP_RR"]`, ``, `t.toml:27: matrix.workloads: is missing, want a list of some of "TCP_STREAM" or "TCP_RR"`},
	} {
		t.Run(name, e.check)
	}
}

func (e edit) check(t *testing.T) {
	text := strings.Replace(good, e.old, e.new, 1)
	if text == good {
		t.Fatalf("edit of %q changes nothing", e.old)
	}
	_, err := Parse("t.toml", []byte(text), testCatalog())
	if e.want == "" {
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	if !errors.Is(err, ErrInvalid) {
		t.Fatalf("error %v does not wrap ErrInvalid", err)
	}
	if got := err.Error(); got != e.want && !(strings.HasSuffix(e.want, "TOML: ") && strings.HasPrefix(got, e.want)) {
		t.Errorf("got\n%s\nwant\n%s", got, e.want)
	}
}

func TestImpossibleCombinations(t *testing.T) {
	const tail = "[matrix]\nscenarios = [\"localhost\", \"multi-host\"]\nworkloads = [\"TCP_RR\"]\npolicies = [1]\n[[arm]]\nname = \"x\"\ndatapath = \"xdp\"\n"
	for name, c := range map[string]struct{ lab, want string }{
		"docker without an engine": {"provider = \"local\"\nendpoint = \"docker\"\n",
			`t.toml:5: lab.endpoint: "docker" needs an engine in the node, and local nodes are bare namespaces; write "netns", or provider = "libvirt"`},
		"kernel of no VM": {"provider = \"local\"\nkernel = \"6.12\"\n",
			`t.toml:5: lab.kernel: is about VMs, and the local provider has none; remove it, or write provider = "libvirt"`},
		"refused by the datapath": {"queues = 1\n",
			`t.toml:11: arm.datapath: "xdp" cannot run multi-host: native XDP wants queues >= 2`},
		"default CPU": {"vcpus = 1\n",
			`t.toml:1: measure.server_cpu: is 1 where not given, which a VM with vcpus = 1 has not; write server_cpu = 0`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse("t.toml", []byte("schema = 1\nname = \"t\"\n[lab]\n"+c.lab+tail), testCatalog())
			if err == nil || err.Error() != c.want {
				t.Errorf("got\n%v\nwant\n%s", err, c.want)
			}
		})
	}
}

// Kernels and network cards that are compared, or are not there.
func TestBootsAreChecked(t *testing.T) {
	const tail = "[[arm]]\nname = \"x\"\ndatapath = \"iptables\"\n"
	for name, c := range map[string]struct{ lab, matrix, want string }{
		"unknown kernel": {"", `kernels = ["6.1", "6.2"]`, `t.toml:6: matrix.kernels: unknown level "6.2", want "6.1" or "6.12" (did you mean "6.1"?)`},
		"kernel twice":   {"", `kernels = ["6.1", "6.1"]`, `t.toml:6: matrix.kernels: "6.1" is there twice; each level once`},
		"no kernels":     {"", `kernels = []`, `t.toml:6: matrix.kernels: is empty, want some of "6.1" or "6.12"`},
		"kernel said twice": {`kernel = "6.1"`, `kernels = ["6.12"]`,
			`t.toml:6: matrix.kernels: is there beside lab.kernel in line 4, and says both; remove one of them`},
		"kernels of no VM": {`provider = "local"`, `kernels = ["6.12"]`,
			`t.toml:6: matrix.kernels: are what VMs boot, and provider = "local" has the kernel it has; remove it, or write provider = "libvirt"`},
		"unknown card":      {`nic = "e1000"`, "", `t.toml:4: lab.nic: unknown level "e1000", want "virtio", "vmxnet3" or "e1000e" (did you mean "e1000e"?)`},
		"card of no driver": {"kernel = \"6.1\"\nnic = \"e1000e\"", "", `t.toml:5: lab.nic: kernel 6.1 has no driver for "e1000e"; write a kernel that has: 6.12`},
		"card of no VM": {"provider = \"local\"\nmtu = 1400", "",
			`t.toml:5: lab.mtu: is about VMs, and the local provider has none; remove it, or write provider = "libvirt"`},
		"card in virtual time": {"clock = \"virtual\"\noffloads = \"off\"", "",
			`t.toml:5: lab.offloads: is about a NIC, and a guest in virtual time has none; remove it, or write clock = "wall"`},
		"cards in virtual time": {`clock = "virtual"`, `nics = [{ model = "virtio" }]`,
			`t.toml:6: matrix.nics: are cards of VMs on the wall clock, and this lab has none; remove it, or write provider = "libvirt" and clock = "wall"`},
		"card without model": {"", `nics = [{ mtu = 1400 }]`, `t.toml:6: matrix.nics: has a card without model; write nics = [{ model = "virtio" }, { model = "vmxnet3" }]`},
		"card twice":         {"", `nics = [{ model = "virtio" }, { model = "virtio", queues = 4 }]`, `t.toml:6: matrix.nics: "virtio" is there twice; each card once`},
		"cards that are words": {"", `nics = ["virtio"]`,
			`t.toml:6: matrix.nics: is not a list of network cards; write nics = [{ model = "virtio" }, { model = "vmxnet3" }]`},
		"key of no card":   {"", `nics = [{ model = "virtio", speed = 1 }]`, `t.toml:6: matrix.nics.speed: unknown key, want "model", "mtu", "offloads" or "queues"`},
		"queues of e1000e": {`kernel = "6.12"`, `nics = [{ model = "e1000e", queues = 2 }]`, `t.toml:6: matrix.nics: "e1000e" has one queue in these machines, and virtio alone has more; remove queues`},
		"MTU out of range": {`mtu = 9001`, "", `t.toml:4: lab.mtu: 9001 is out of range, want 1280 to 9000`},
		"jumbo and Docker": {"endpoint = \"docker\"", `nics = [{ model = "virtio", mtu = 9000 }]`,
			`t.toml:6: matrix.nics: the engine's bridge takes at most 1500 bytes, not 9000; write endpoint = "netns", or a smaller mtu`},
		"card said twice":   {`offloads = "off"`, `nics = [{ model = "virtio" }]`, `t.toml:6: matrix.nics: is there beside nic, mtu or offloads in [lab], which are of one card; remove those`},
		"both are compared": {"", "kernels = [\"6.1\", \"6.12\"]\nnics = [{ model = \"virtio\" }, { model = \"vmxnet3\", offloads = \"off\" }]", ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse("t.toml", []byte("schema = 1\nname = \"t\"\n[lab]\n"+c.lab+"\n[matrix]\n"+c.matrix+"\nscenarios = [\"localhost\"]\nworkloads = [\"TCP_RR\"]\npolicies = [1]\n"+tail), testCatalog())
			got := ""
			if err != nil {
				got = err.Error()
			}
			if got != c.want {
				t.Errorf("got\n%s\nwant\n%s", got, c.want)
			}
		})
	}
}

// virtual is an experiment in virtual time that says as little as it can.
const virtual = `schema = 1
name = "v"
[lab]
clock = "virtual"
[measure]
seeds = 2
[matrix]
scenarios = ["localhost", "multi-host"]
workloads = ["TCP_RR", "TCP_STREAM"]
policies = [0, 10]
[[arm]]
name = "a"
datapath = "iptables"
[[arm]]
name = "b"
datapath = "docker"
`

func TestDefaultsOfVirtualTime(t *testing.T) {
	got, err := Parse("t.toml", []byte(virtual), testCatalog())
	if err != nil {
		t.Fatal(err)
	}
	if want := (Lab{Provider: "libvirt", Endpoint: "netns", Clock: "virtual", Accel: "tcg", Kernel: "6.12", VCPUs: 1, Memory: 1024}); !reflect.DeepEqual(got.Lab, want) {
		t.Errorf("lab is %+v, want %+v", got.Lab, want)
	}
	if want := (Measure{Blocks: 4, Seeds: 2, Trials: 1, Estimator: "median", Duration: time.Second, Congestion: "reno"}); !reflect.DeepEqual(got.Measure, want) {
		t.Errorf("measure is %+v, want %+v", got.Measure, want)
	}
	got, err = Parse("t.toml", []byte(strings.Replace(virtual, "seeds = 2", "", 1)), testCatalog())
	if err != nil || got.Measure.Seeds != 3 {
		t.Errorf("%d seeds where not said, error %v, want 3", got.Measure.Seeds, err)
	}
}

func TestVirtualTimeRefusesWhatItCannotHave(t *testing.T) {
	for name, c := range map[string]struct{ after, add, want string }{
		"local provider": {"[lab]", `provider = "local"`, `t.toml:5: lab.clock: "virtual" needs provider = "libvirt": only the clock of a VM can be made to count instructions; write that, or clock = "wall"`},
		"docker":         {"[lab]", `endpoint = "docker"`, `t.toml:4: lab.endpoint: "docker" needs an engine and disks, and a guest in virtual time is sealed; write "netns", or clock = "wall"`},
		"kvm":            {"[lab]", `accel = "kvm"`, `t.toml:4: lab.accel: is "kvm", and virtual time counts instructions, which only emulation can; remove it, or write "tcg"`},
		"auto":           {"[lab]", `accel = "auto"`, `t.toml:4: lab.accel: is "auto", and virtual time counts instructions, which only emulation can; remove it, or write "tcg"`},
		"tcg":            {"[lab]", `accel = "tcg"`, ""},
		"two vcpus":      {"[lab]", `vcpus = 2`, `t.toml:4: lab.vcpus: is 2, and instructions have one order on one CPU only; remove it, or write 1`},
		"queues":         {"[lab]", `queues = 4`, `t.toml:4: lab.queues: is about a NIC, and a guest in virtual time has none; remove it, or write clock = "wall"`},
		"blocks":         {"[measure]", `blocks = 3`, `t.toml:6: measure.blocks: follows from seeds in virtual time, one for each seed and scenario; write seeds`},
		"stop":           {"[measure]", `stop = { ci = 0.02, min = 5, max = 30 }`, `t.toml:6: measure.stop: is against noise, and virtual time has none; remove it, or write clock = "wall"`},
		"load limit":     {"[measure]", `load_limit = 2`, `t.toml:6: measure.load_limit: is against noise, and virtual time has none; remove it, or write clock = "wall"`},
		"steal limit":    {"[measure]", `steal_limit = 0.1`, `t.toml:6: measure.steal_limit: is against noise, and virtual time has none; remove it, or write clock = "wall"`},
		"second CPU":     {"[measure]", `server_cpu = 1`, `t.toml:6: measure.server_cpu: 1 is not a CPU of a VM with vcpus = 1, want 0 to 0`},
		"other sealing":  {"[lab]", `sealed = "xen"`, `t.toml:4: lab.sealed: unknown level "xen", want "libvirt" or "qemu"`},
		"QEMU itself":    {"[lab]", `sealed = "qemu"`, ""},
		"many parts":     {"[measure]", `parts = 4`, `t.toml:6: measure.parts: is 4, and a boot has only 3 setups to share; write at most 3`},
		"many seeds":     {"[measure]", `trials = 1001`, `t.toml:6: measure.trials: 1001 is out of range, want 1 to 1000`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse("t.toml", []byte(strings.Replace(virtual, c.after, c.after+"\n"+c.add, 1)), testCatalog())
			if got := fmt.Sprint(err); got != c.want && !(err == nil && c.want == "") {
				t.Errorf("got\n%s\nwant\n%s", got, c.want)
			}
		})
	}
}

func TestStopSaysHowManyTrials(t *testing.T) {
	s, err := Parse("t.toml", []byte(minimal+"[measure]\nblocks = 4\nstop = { ci = 0.05, min = 5, max = 30 }\n"), testCatalog())
	if err != nil {
		t.Fatal(err)
	}
	if s.Measure.Stop == nil || *s.Measure.Stop != (Stop{CI: 0.05, Min: 5, Max: 30}) || s.Measure.Trials != 8 {
		t.Errorf("stop %+v, %d trials a block, want the rule and 30/4 = 8", s.Measure.Stop, s.Measure.Trials)
	}
}

func TestAllProblemsAtOnceInOrderOfLines(t *testing.T) {
	_, err := Load(filepath.Join("testdata", "wrong.toml"), testCatalog())
	var invalid *InvalidError
	if !errors.As(err, &invalid) {
		t.Fatalf("got %v, want *InvalidError", err)
	}
	want := []struct {
		line int
		key  string
	}{{3, "sed"}, {6, "lab.provider"}, {9, "measure.trials"}, {10, "measure.duration"}, {12, "matrix.scenarios"},
		{13, "matrix.workloads"}, {14, "matrix.policies"}, {16, "arm.name"}, {18, "arm.state"}, {20, "arm.datapath"}, {21, "arm.name"}}
	if len(invalid.Problems) != len(want) {
		t.Fatalf("%d problems, want %d:\n%v", len(invalid.Problems), len(want), err)
	}
	for i, p := range invalid.Problems {
		if p.Line != want[i].line || p.Key != want[i].key {
			t.Errorf("problem %d is %q, want line %d, key %s", i, p, want[i].line, want[i].key)
		}
		if !strings.HasPrefix(p.String(), "testdata/wrong.toml:") || strings.Contains(p.String(), "\n") {
			t.Errorf("problem %q is not one line that begins with its file", p)
		}
	}
}

func TestInlineTablesKnowTheirLines(t *testing.T) {
	text := strings.Replace(minimal, "[[arm]]\nname = \"a\"\ndatapath = \"docker\"\n", "", 1)
	text = strings.Replace(text, "[matrix]", `arm = [
  { name = "a", datapath = "docker" },
  { name = "b", datapath = "dock" },
]
lab.provder = "local"
[matrix]`, 1)
	_, err := Parse("t.toml", []byte(text), testCatalog())
	want := `t.toml:5: arm.datapath: unknown level "dock", want "docker", "iptables" or "xdp" (did you mean "docker"?)
t.toml:7: lab.provder: unknown key (did you mean "provider"?)`
	if err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
}

func TestArmsAreTables(t *testing.T) {
	head, _, _ := strings.Cut(minimal, "[matrix]")
	for arm, want := range map[string]string{
		`arm = [1]`:            `t.toml:3: arm: is a list of the number 1, want tables: write [[arm]] before each`,
		`arm = 1`:              `t.toml:3: arm: is the number 1, want tables: write [[arm]] before each`,
		`arm = []`:             `t.toml:3: arm: is empty; write at least one [[arm]] with name and datapath`,
		``:                     `t.toml:1: arm: is missing; write at least one [[arm]] with name and datapath`,
		`arm = { name = "a" }`: `t.toml:3: arm: is a table, want tables: write [[arm]] before each`,
	} {
		text := head + arm + "\n[matrix]\nscenarios = [\"localhost\"]\nworkloads = [\"TCP_RR\"]\npolicies = [0]\n"
		if _, err := Parse("t.toml", []byte(text), testCatalog()); err == nil || err.Error() != want {
			t.Errorf("%s:\ngot  %v\nwant %s", arm, err, want)
		}
	}
}

func TestHugePlansAndFilesAreRefused(t *testing.T) {
	many := strings.Replace(good, "blocks = 2\ntrials = 4", "blocks = 100\ntrials = 1000", 1)
	many = strings.Replace(many, "[0, 10]", "[0, 1, 2, 3, 4, 5]", 1)
	_, err := Parse("t.toml", []byte(many), testCatalog())
	if want := "t.toml:27: matrix: makes 1400000 trials, want at most 1000000"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	_, err = Parse("t.toml", make([]byte, maxFileSize+1), testCatalog())
	if want := "t.toml: is 65537 bytes long, want at most 65536"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestHostileFilesCostLittle(t *testing.T) {
	start := cpuTime(t)
	for _, s := range []string{
		"a = " + strings.Repeat("[", 60_000),
		"a = " + strings.Repeat("{a=", 9_000) + "1" + strings.Repeat("}", 9_000),
		strings.Repeat("a.", 30_000) + "a = 1",
		"[" + strings.Repeat("a.", 30_000) + "a]",
		strings.Repeat("[[a]]\n", 10_000),
		"policies = [\n" + strings.Repeat("1,\n", 20_000) + "]",
		strings.Repeat("a", 60_000) + " = 1",
	} {
		if _, err := Parse("t.toml", []byte("schema = 1\n"+s), testCatalog()); err == nil {
			t.Errorf("%.20s... is taken for an experiment", s)
		}
	}
	if took := cpuTime(t) - start; took > 10*time.Second {
		t.Errorf("took %v", took)
	}
}

// cpuTime is how long this process has computed, which others on the same machine
// do not add to.
func cpuTime(t *testing.T) time.Duration {
	t.Helper()
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		t.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

func TestLoadNamesAMissingFile(t *testing.T) {
	_, err := Load("testdata/none.toml", testCatalog())
	if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "testdata/none.toml") {
		t.Errorf("got %v, want ErrInvalid that names the file", err)
	}
}

// FuzzParse: whatever the file holds, Parse neither panics nor lets through
// what Expand refuses.
func FuzzParse(f *testing.F) {
	for _, s := range []string{good, minimal, virtual, minimal + "[measure]\nstop = { ci = 0.02, min = 5, max = 30 }\n", "", "schema = 1", "[[arm]]\n[arm.x]\n[[arm.y]]", "arm = [{}]\nlab = []", "a.\"b c\".d = [[1], {e = [{}]}]"} {
		f.Add([]byte(s))
	}
	cat := testCatalog()
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := Parse("f.toml", data, cat)
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Fatalf("error %v does not wrap ErrInvalid", err)
			}
			return
		}
		s.Measure.Blocks, s.Measure.Trials = 1, 1 // keep it small
		if _, err := Expand(s, cat); err != nil {
			t.Fatalf("valid file does not expand: %v", err)
		}
	})
}
