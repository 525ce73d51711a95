package main

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"hookbed/driver/datapath"
	"hookbed/driver/datapath/verdict"
	"hookbed/driver/plan"
	"hookbed/driver/policy"
)

// explainFlags are the flow that is asked about.
type explainFlags struct{ inventory, from, to, proto string }

func (a *app) explainPolicyCommand() *cobra.Command {
	var f explainFlags
	cmd := &cobra.Command{
		Use:   "explain-policy FILE...",
		Short: "Say which rule decides about a connection: of the policies, and of every filter",
		Long: `Explain-policy reads policies of Kubernetes or Cilium, or lists, and an inventory of pods
(docs/policies.md), and says whether a connection is admitted and by which rule, with file
and line. Then it renders the policies of the destination for every filter, and says which
rule, element or map entry decides there, or why the filter cannot hold the policies.
It touches nothing.`,
		Example: `  driver explain-policy policies.yaml --inventory pods.toml --from shop/web --to shop/db:5432
  driver explain-policy policies.yaml --inventory pods.toml --from 198.19.7.1 --to shop/db:sql
  driver explain-policy policies.yaml --inventory pods.toml --from shop/web --to shop/db:53 --proto udp --json`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return fmt.Errorf("%w: `%s` takes one file of policies or more; see `%s --help`", errUsage, cmd.CommandPath(), cmd.CommandPath())
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error { return a.explainPolicy(args, f) },
	}
	cmd.Flags().StringVar(&f.inventory, "inventory", "", "file of pods, their labels and addresses")
	cmd.Flags().StringVar(&f.from, "from", "", "source: a pod as NAMESPACE/NAME, or an address")
	cmd.Flags().StringVar(&f.to, "to", "", "destination: a pod and a port, as NAMESPACE/NAME:PORT; the port may be a name")
	cmd.Flags().StringVar(&f.proto, "proto", "tcp", "protocol: tcp, udp or sctp")
	return cmd
}

// explained is the answer.
type explained struct {
	From     netip.Addr      `json:"from"`
	To       netip.Addr      `json:"to"`
	Proto    string          `json:"proto"`
	Port     uint16          `json:"port"`
	Decision policy.Decision `json:"decision"`
	Filters  []filterAnswer  `json:"filters"`
}

// filterAnswer is what one filter does with the flow.
type filterAnswer struct {
	Filter string `json:"filter"`
	// Refused is why it cannot hold the policies; then it has no verdict.
	Refused string           `json:"refused,omitempty"`
	Verdict *verdict.Verdict `json:"verdict,omitempty"`
}

func (a *app) explainPolicy(files []string, f explainFlags) error {
	if f.inventory == "" || f.from == "" || f.to == "" {
		return fmt.Errorf("%w: give --inventory FILE, --from POD and --to POD:PORT", errUsage)
	}
	var data [][]byte
	for _, file := range files {
		d, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		data = append(data, d)
	}
	c, err := readCluster(files, data, f.inventory)
	if err != nil {
		return err
	}
	flow, server, err := f.flow(c.Inventory())
	if err != nil {
		return err
	}
	out := explained{From: flow.From, To: flow.To, Proto: f.proto, Port: flow.Port, Decision: c.Decide(flow)}
	if out.Filters, err = filterAnswers(c, server, flow); err != nil {
		return err
	}
	a.emit("explanation", out, out.print)
	for _, answer := range out.Filters {
		if answer.Verdict != nil && answer.Verdict.Allowed != out.Decision.Allowed {
			return fmt.Errorf("filter %q answers otherwise than the policies; please report this", answer.Filter)
		}
	}
	return nil
}

// flow resolves pods, the port and the protocol.
func (f explainFlags) flow(in *policy.Inventory) (out policy.Flow, server *policy.Pod, err error) {
	proto, ok := map[string]uint8{"tcp": policy.ProtoTCP, "udp": policy.ProtoUDP, "sctp": policy.ProtoSCTP}[strings.ToLower(f.proto)]
	if !ok {
		return out, nil, fmt.Errorf("%w: --proto %q, want tcp, udp or sctp", errUsage, f.proto)
	}
	at := strings.LastIndex(f.to, ":")
	if at < 0 {
		return out, nil, fmt.Errorf("%w: --to %q has no port; write POD:PORT", errUsage, f.to)
	}
	if server, err = in.Pod(f.to[:at]); err != nil {
		return out, nil, err
	}
	number, err := strconv.ParseUint(f.to[at+1:], 10, 16)
	port := uint16(number)
	if err != nil {
		port = server.Ports[f.to[at+1:]]
	}
	if port == 0 {
		return out, nil, fmt.Errorf("%w: --to %q: %q is neither 1 to %d nor the name of a port of %s", errUsage, f.to, f.to[at+1:], policy.LastPort, server.Name)
	}
	sources := []netip.Addr{}
	if addr, err := netip.ParseAddr(f.from); err == nil {
		sources = append(sources, addr)
	} else {
		pod, err := in.Pod(f.from)
		if err != nil {
			return out, nil, err
		}
		sources = pod.Addresses
	}
	for _, from := range sources {
		for _, to := range server.Addresses {
			if from.Is6() == to.Is6() {
				return policy.Flow{From: from, To: to, Proto: proto, Port: port}, server, nil
			}
		}
	}
	return out, nil, fmt.Errorf("%w: --from %s and --to %s have no addresses of one family", errUsage, f.from, f.to)
}

// filterAnswers renders the policies of a pod for every filter.
func filterAnswers(c *policy.Cluster, server *policy.Pod, flow policy.Flow) (out []filterAnswer, err error) {
	own := plan.InPlace(c, "", server.Name, int(flow.Port))
	for _, d := range datapath.Catalog() {
		if !d.Crossed || !d.Base || d.Impossible != "" || d.NoPolicies {
			continue
		}
		setup, err := datapath.Render(datapath.OwnCell(d, own, flow.From.Is6()))
		if errors.Is(err, datapath.ErrCannotHold) {
			_, why, _ := strings.Cut(err.Error(), datapath.ErrCannotHold.Error()+": ")
			out = append(out, filterAnswer{Filter: d.Filter, Refused: why})
			continue
		}
		if err != nil {
			return nil, err
		}
		read, err := verdict.Read(setup.Files, setup.Apply)
		if err != nil {
			return nil, fmt.Errorf("filter %q: %w", d.Filter, err)
		}
		v := read.Decide(verdict.Flow{From: flow.From, Proto: flow.Proto, Port: flow.Port})
		out = append(out, filterAnswer{Filter: d.Filter, Verdict: &v})
	}
	return out, nil
}

func (e explained) print(w io.Writer) {
	d := e.Decision
	fmt.Fprintf(w, "%s -> %s %s %d: %s\n", e.From, e.To, e.Proto, e.Port, allowedText(d.Allowed))
	if d.Direction != "" {
		fmt.Fprintf(w, "  %s of %s, %s: %s\n", d.Direction, d.Policy, d.At, d.Why)
	} else {
		fmt.Fprintf(w, "  %s\n", d.Why)
	}
	for _, h := range d.HTTP {
		fmt.Fprintf(w, "  requests: %s %s %s\n", h.Method, h.Path, h.Host)
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "\nfilter\tanswer\tdecided by")
	for _, f := range e.Filters {
		if f.Verdict == nil {
			fmt.Fprintf(tw, "%s\trefused\t%s\n", f.Filter, f.Refused)
			continue
		}
		fmt.Fprintf(tw, "%s\t%s\t%s  %s\n", f.Filter, allowedText(f.Verdict.Allowed), f.Verdict.Where, f.Verdict.Text)
	}
	_ = tw.Flush() // what w is given is the caller's to check
}

func allowedText(allowed bool) string {
	if allowed {
		return "allowed"
	}
	return "denied"
}
