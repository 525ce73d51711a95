package callpath

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"hookbed/analysis/durable"
	"hookbed/analysis/trace"
	"hookbed/driver/plan"
)

// Files of a recording.
const (
	metaFile = "ftrace.json"
	pathFile = "path.md"
	dropFile = "drop.md"
	rawFile  = "%s.txt.gz" // of Recording.Raw
)

// What the tracer said is named by what it recorded and by node.
const (
	rawCalls = "function_graph-"
	rawDrops = "kfree_skb-"
)

// Write makes the files of a recording in the directory dir/CELL: ftrace.json always; path.md where
// calls were recorded; drop.md where something was denied; and what the tracer said of each node.
func Write(dir string, rec Recording) error {
	dir = filepath.Join(dir, rec.Cell)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("write recording: %w", err)
	}
	meta, err := json.MarshalIndent(rec, "", "  ")
	if err != nil {
		return fmt.Errorf("encode recording: %w", err)
	}
	files := map[string][]byte{metaFile: append(meta, '\n')}
	if len(rec.Path.Calls) > 0 {
		files[pathFile] = rendered(rec.writePath)
	}
	if rec.Drops != nil {
		files[dropFile] = rendered(rec.writeDrops)
	}
	for name, text := range rec.Raw {
		files[fmt.Sprintf(rawFile, name)] = rendered(func(w io.Writer) { pack(w, text) })
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := durable.WriteFile(filepath.Join(dir, name), files[name], 0o644); err != nil {
			return err
		}
	}
	return nil
}

func rendered(write func(io.Writer)) []byte {
	var b bytes.Buffer
	write(&b)
	return b.Bytes()
}

// pack compresses a text; writing to memory does not fail.
func pack(w io.Writer, text string) {
	z := gzip.NewWriter(w)
	_, _ = io.WriteString(z, text)
	_ = z.Close()
}

// title names the cell.
func (rec Recording) title() string { return plan.Cell{Factors: rec.Factors}.Title() }

func (rec Recording) writePath(w io.Writer) {
	facts := []string{
		fmt.Sprintf("Linux %s, on the wall clock, by function_graph in %s.", rec.Kernel, map[string]string{"instance": "a tracing instance of its own", "top-level": "the top-level buffer"}[rec.Calls.Buffer]),
		fmt.Sprintf("%d calls, work in softirqs in the context of client and server among them. Interrupts that move no packets are left out.", rec.Calls.Functions),
		fmt.Sprintf("The %ss were compared thread by thread, without what the scheduler does below schedule and try_to_wake_up: on the wall clock that depends on what else has run.", rec.Calls.Unit),
	}
	if rec.Calls.Lost > 0 {
		facts = append(facts, fmt.Sprintf("The buffer had no room for %d entries, the oldest: what the programs did before these %ss.", rec.Calls.Lost, rec.Calls.Unit))
	}
	switch {
	case rec.Instructions != nil && rec.Instructions.PerPacket > 0:
		facts = append(facts, fmt.Sprintf("Not from this recording: without a tracer, client and server execute %.0f instructions in the kernel for a packet (`wall`: by the CPU's counter).", rec.Instructions.PerPacket))
	case rec.Instructions != nil:
		facts = append(facts, fmt.Sprintf("Not from this recording: without a tracer, client and server execute %.0f instructions in the kernel for a %s (`wall`: by the CPU's counter).", rec.Instructions.PerTransaction, rec.Calls.Unit))
	case rec.WhyNot != "":
		facts = append(facts, strings.ToUpper(rec.WhyNot[:1])+rec.WhyNot[1:]+".")
	}
	facts = append(facts, fmt.Sprintf("Cell %s: %s.", rec.Cell, factorList(rec.Factors)))
	_ = trace.WriteOrder(w, trace.Order{Title: rec.title(), Unit: rec.Calls.Unit, Facts: facts, Path: rec.Path, Stages: trace.StageOf}) // to memory
}

// factorList is "arm=docker, clock=wall".
func factorList(factors map[string]string) string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(factors)) {
		parts = append(parts, k+"="+factors[k])
	}
	return strings.Join(parts, ", ")
}

func (rec Recording) writeDrops(w io.Writer) {
	fmt.Fprintf(w, "# %s: what is dropped, and where\n\n", rec.title())
	fmt.Fprintf(w, "Linux %s, on the wall clock, by the event skb:kfree_skb, while the enforcement was proven. Denied: %s.\n", rec.Kernel, strings.Join(rec.Drops.Denied, "; "))
	switch {
	case len(rec.Drops.Drops) == 0:
		fmt.Fprint(w, "\nNo packet was dropped by kfree_skb: those that were denied ended before they were a socket buffer, or as one that was consumed.\n")
		return
	case !rec.Drops.Reasons:
		fmt.Fprint(w, "\nThis kernel has no reasons: they came with Linux 5.17.\n")
	}
	fmt.Fprint(w, "\n| reason | function | packets |\n| --- | --- | --: |\n")
	for _, d := range rec.Drops.ByPlace() {
		fmt.Fprintf(w, "| %s | `%s` | %d |\n", orDash(d.Reason), d.Where, d.Packets)
	}
	for _, d := range rec.Drops.Drops {
		fmt.Fprintf(w, "\n## %s in `%s`\n\n```\n", orDash(d.Reason), d.Where)
		for i, name := range d.Stack {
			fmt.Fprintf(w, "%s%s\n", strings.Repeat("  ", i), name)
		}
		fmt.Fprint(w, "```\n")
	}
}

func orDash(reason string) string {
	if reason == "" {
		return "(no reason)"
	}
	return reason
}
