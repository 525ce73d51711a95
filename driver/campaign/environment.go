package campaign

import (
	"maps"
	"os"
	"runtime"
	"strings"
	"time"

	"hookbed/driver/datapath"
	"hookbed/driver/plan"
)

// Environment is what env.json holds: the facts that the lab reports, and what only the driver has:
// its revision, the plan, the bundles, and the computer that it runs on.
func Environment(p *plan.Plan, revision string, facts map[string]any) map[string]any {
	env := map[string]any{
		"hookbed_revision": revision, "experiment": p.Spec.Name, "seed": p.Spec.Seed, "clock": p.Spec.Lab.Clock,
		"started": time.Now().UTC().Format(time.RFC3339),
	}
	if digest, err := p.Digest(); err == nil {
		env["plan_sha256"] = digest
	}
	maps.Copy(env, hostFacts())
	if digests, err := bundleDigests(p); err == nil {
		env["bundle_sha256"] = digests
	}
	maps.Copy(env, facts)
	return env
}

// hostFacts describes the computer the driver runs on.
func hostFacts() map[string]any {
	out := map[string]any{"host_cpus": runtime.NumCPU()}
	if load, err := os.ReadFile("/proc/loadavg"); err == nil {
		out["host_load"] = strings.TrimSpace(string(load))
	}
	if release, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		out["host_kernel"] = strings.TrimSpace(string(release))
	}
	info, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(info)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			out["host_cpu"] = strings.TrimSpace(value)
			break
		}
	}
	return out
}

// bundleDigests is the SHA-256 of every cell's bundle - rule sets, maps, BPF
// objects and steps - so that a number can be traced to what was applied.
func bundleDigests(p *plan.Plan) (map[string]string, error) {
	out := map[string]string{}
	for _, c := range p.Cells {
		setup, err := datapath.Render(c)
		if err != nil {
			return nil, err
		}
		b, err := Bundle(c, setup)
		if err != nil {
			return nil, err
		}
		if out[c.ID], err = b.Digest(); err != nil {
			return nil, err
		}
	}
	return out, nil
}
