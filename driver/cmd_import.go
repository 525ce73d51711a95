package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"hookbed/analysis/durable"
	"hookbed/driver/policy"
	"hookbed/driver/policy/imports"
)

// errLeft is the error of an import that carries only a part.
var errLeft = errors.New("not carried")

// importFlags are those of all forms of import.
type importFlags struct {
	out, inventory, pod, chain string
	partial                    bool
}

func (a *app) importCommand() *cobra.Command {
	var f importFlags
	cmd := &cobra.Command{
		Use:   "import FORM FILE",
		Short: "Turn rules of iptables or nft, or policies about one pod, into a list of policies",
		Long: `Import writes a list of policies, a line "source,port,protocol,action" for each, which
[[policy]] of an experiment and the scripts of a custom filter read (docs/policies.md).

FORM is iptables-save or nft, for the output of iptables-save and of ` + "`nft list ruleset`" + `: the
rules of one chain, in their order. What a rule denies is taken out of what those behind
it admit, exactly. Or it is networkpolicy or ciliumnetworkpolicy, for what the policies
of a file admit at one pod of an inventory.

What a list cannot carry is named with its line, and the exit code is 2; --partial writes
the rest.`,
		Example: `  driver import iptables-save rules.txt --out policies.csv
  driver import nft rules.nft --out policies.csv
  driver import networkpolicy policies.yaml --inventory pods.toml --pod shop/db --partial`,
		Args: exactly(2, "a form and a file"),
		RunE: func(_ *cobra.Command, args []string) error { return a.importFile(args[0], args[1], f) },
	}
	cmd.Flags().StringVarP(&f.out, "out", "o", "", "write to this file (default: standard output)")
	cmd.Flags().StringVar(&f.chain, "chain", "", "the chain to read (default: INPUT, or nft's first with a hook of input)")
	cmd.Flags().StringVar(&f.inventory, "inventory", "", "file of pods, their labels and addresses")
	cmd.Flags().StringVar(&f.pod, "pod", "", "the pod whose ingress is listed, as NAMESPACE/NAME")
	cmd.Flags().BoolVar(&f.partial, "partial", false, "write what can be carried, although something cannot")
	return cmd
}

func (a *app) importFile(form, file string, f importFlags) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var r imports.Result
	switch form {
	case "iptables-save":
		r, err = imports.Iptables(file, data, f.chain)
	case "nft":
		r, err = imports.Nft(file, data, f.chain)
	case "networkpolicy", "ciliumnetworkpolicy":
		r, err = importPod(file, data, f)
	default:
		return fmt.Errorf("%w: unknown form %q, want iptables-save, nft, networkpolicy or ciliumnetworkpolicy", errUsage, form)
	}
	if err != nil {
		return err
	}
	for _, n := range r.Notes {
		a.say("note: %s", n)
	}
	for _, l := range r.Left {
		a.say("not carried: %s", l)
	}
	if len(r.Left) > 0 && !f.partial {
		return fmt.Errorf("%w: %d of what %s has; nothing is written, --partial writes the rest", errLeft, len(r.Left), file)
	}
	list := policy.WriteList(r.Entries)
	if f.out != "" {
		if err := durable.WriteFile(f.out, list, 0o644); err != nil {
			return err
		}
		a.say("%d policies written to %s", len(r.Entries), f.out)
		return nil
	}
	_, err = a.out.Write(list)
	return err
}

// importPod lists what the policies of a file admit at a pod.
func importPod(file string, data []byte, f importFlags) (imports.Result, error) {
	if f.inventory == "" || f.pod == "" {
		return imports.Result{}, fmt.Errorf("%w: policies are about pods: give --inventory FILE and --pod NAMESPACE/NAME", errUsage)
	}
	c, err := readCluster([]string{file}, [][]byte{data}, f.inventory)
	if err != nil {
		return imports.Result{}, err
	}
	pod, err := c.Inventory().Pod(f.pod)
	if err != nil {
		return imports.Result{}, err
	}
	return imports.Pod(c, pod), nil
}

// readCluster reads policies and the inventory that they are about.
func readCluster(files []string, data [][]byte, inventory string) (*policy.Cluster, error) {
	var sets []*policy.Set
	for i, file := range files {
		s, err := policy.Read(file, data[i])
		if err != nil {
			return nil, err
		}
		sets = append(sets, s)
	}
	text, err := os.ReadFile(inventory)
	if err != nil {
		return nil, err
	}
	in, err := policy.ReadInventory(inventory, text)
	if err != nil {
		return nil, err
	}
	return policy.NewCluster(policy.Join(sets...), in)
}
