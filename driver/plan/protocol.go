package plan

import (
	"slices"
	"strconv"
	"strings"
)

// oneProtocol refuses workloads of several protocols: they share one set of
// policies, which names one.
func (l *loader) oneProtocol(t *table, workloads []string) {
	path := joinPath(t.path, "workloads")
	for i, name := range workloads {
		first, _ := l.cat.workload(workloads[0])
		if w, _ := l.cat.workload(name); w.Protocol != first.Protocol {
			t.doc.problem(max(t.doc.lines[element(path, i)], t.at("workloads")), shown(path),
				"%q is a workload of %s and %q one of %s, and the policies of an experiment name one protocol; write an experiment for each",
				name, protocolText(w.Protocol), first.Name, protocolText(first.Protocol))
			return
		}
	}
}

// protocols refuses a workload whose protocol an arm's policies cannot name.
func (l *loader) protocols(t *table, key string, entry DatapathEntry, s Spec) {
	if entry.NoPolicies {
		return
	}
	for _, name := range s.Workloads {
		w, _ := l.cat.workload(name)
		if slices.Contains(entry.Protocols, w.Protocol) {
			continue
		}
		var able []string
		for _, other := range l.cat.Workloads {
			if slices.Contains(entry.Protocols, other.Protocol) {
				able = append(able, strconv.Quote(other.Name))
			}
		}
		fix := "remove the arm"
		if len(able) > 0 {
			fix = "write workloads of " + strings.Join(able, ", ") + ", or remove the arm"
		}
		t.problem(key, "%q has policies about %s, and %q (matrix.workloads in %s) is a workload of %s, which they would never see; %s",
			t.keys[key], protocolsText(entry.Protocols), name, l.doc.line(l.doc.lines["matrix.workloads"]), protocolText(w.Protocol), fix)
		return
	}
}

func protocolsText(names []string) string {
	var out []string
	for _, name := range names {
		out = append(out, protocolText(name))
	}
	if len(out) == 0 {
		return protocolText("")
	}
	return strings.Join(out, " and ")
}

// protocolText is a protocol as people write it.
func protocolText(name string) string {
	if name == "" {
		return "no protocol that the catalog says"
	}
	return strings.ToUpper(name)
}
