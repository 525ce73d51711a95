package doctor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"hookbed/driver/datapath"
	"hookbed/driver/helper"
	"hookbed/driver/lab"
	"hookbed/driver/plan"
	"hookbed/images"
)

// inventory is the machines of an experiment's inventory, and what was seen of them.
type inventory struct {
	Driver
	plan  *plan.Plan
	facts map[string]map[string]string // by node
}

// Machines are the checks of the machines in a plan's inventory.
func (d Driver) Machines(p *plan.Plan) []Part {
	i := &inventory{Driver: d, plan: p, facts: map[string]map[string]string{}}
	return append(i.machines(), Part{"what [measure] asks", i.measure}, Part{"what the arms need", i.arms}, Part{"nodes, and the way between them", i.link})
}

// Hypervisors are the checks of each computer on whose libvirt the nodes are to run.
func Hypervisors(s plan.Spec) []Part {
	var cards []plan.NIC
	for _, b := range s.Boots() {
		cards = append(cards, b.NIC)
	}
	var out []Part
	for _, h := range s.Lab.Hypervisors {
		out = append(out, Part{"hypervisor " + h.Title(), func(ctx context.Context) []Check {
			return findings(lab.InspectHypervisor(ctx, h, s.Lab.Accel, cards))
		}})
	}
	return out
}

// machines are the checks of each machine that the experiment uses.
func (i *inventory) machines() []Part {
	inv := i.plan.Spec.Lab.Inventory
	var out []Part
	for _, m := range inv.Machines[:i.plan.Nodes()] {
		out = append(out, Part{m.Name + ", " + m.User + "@" + m.Host, func(ctx context.Context) []Check {
			guest, err := helper.MachinePath()
			if err != nil {
				return []Check{{Name: "guest helper", Detail: err.Error(), Fix: "run `make build`"}}
			}
			found, facts := lab.Inspect(ctx, inv, m, guest)
			if facts != nil {
				i.facts[m.Name] = facts
			}
			return findings(found)
		}})
	}
	return out
}

func findings(found []lab.Finding) []Check {
	var out []Check
	for _, f := range found {
		out = append(out, finding(f))
	}
	return out
}

// measure checks that the machines have the CPUs and the congestion control that [measure] names.
func (i *inventory) measure(context.Context) []Check {
	if len(i.facts) < i.plan.Nodes() {
		return nil // a machine could not be reached, which is a failed check already
	}
	m := i.plan.Spec.Measure
	c := Check{Name: "measure", OK: true, Detail: fmt.Sprintf("client_cpu = %d, server_cpu = %d, congestion = %q", m.ClientCPU, m.ServerCPU, m.Congestion)}
	err := i.plan.Spec.Unfit(func(node string) plan.Computer { return lab.ComputerOf("its machine", i.facts[node]) })
	if err != nil {
		c.OK, c.Detail, c.Fix = false, err.Error(), "write in [measure] what every machine has"
	}
	return []Check{c}
}

func finding(f lab.Finding) Check {
	c := Check{Name: f.What, OK: f.OK, Detail: f.Detail}
	if !f.OK {
		c.Fix = f.Fix
	}
	return c
}

// arms checks for each machine which arms of the experiment it can run.
func (i *inventory) arms(context.Context) []Check {
	var out []Check
	for _, m := range i.plan.Spec.Lab.Inventory.Machines {
		facts, ok := i.facts[m.Name]
		if !ok {
			continue
		}
		var can, cannot []string
		for _, c := range i.plan.Cells {
			name := c.Get(plan.FactorArm)
			setup, err := datapath.Render(c)
			if err == nil {
				err = datapath.Check(setup, facts)
			}
			why := ""
			if err != nil {
				why = name + " (" + err.Error() + ")"
			}
			switch {
			case why != "" && !slices.Contains(cannot, why):
				cannot = append(cannot, why)
			case why == "" && !slices.Contains(can, name):
				can = append(can, name)
			}
		}
		c := Check{Name: m.Name + " arms", OK: len(cannot) == 0, Detail: "can run " + strings.Join(can, ", ")}
		if !c.OK {
			c.Detail += "; cannot run " + strings.Join(cannot, ", ")
			c.Fix = "install what is missing on the machine, or leave these arms out; they would be rows of status unsupported"
		}
		out = append(out, c)
	}
	return out
}

// link brings the lab up, as a run would, and tries the path between the machines.
func (i *inventory) link(ctx context.Context) []Check {
	nodes := i.plan.Nodes()
	if len(i.facts) < nodes {
		return nil // a machine could not be reached, which is a failed check already
	}
	c := Check{Name: "nodes", Fix: "see what the message says of the machine"}
	err := i.tryLab(ctx, func(l *lab.Lab) error {
		c.OK, c.Detail = true, "each machine made and removed its node"
		if nodes < 2 {
			return nil
		}
		c = Check{Name: "data link", Detail: "node1 reaches node2 over it, with whole frames", Fix: "see that both data NICs are on one network, with one MTU, and that nothing in between filters 198.18.0.0/15"}
		return l.ReachNodes(ctx)
	})
	if c.OK = err == nil; err != nil {
		c.Detail = err.Error()
	}
	if errors.Is(err, images.ErrNotCached) {
		c.Fix = BuildAsRoot
	}
	return []Check{c}
}

func (i *inventory) tryLab(ctx context.Context, do func(*lab.Lab) error) error {
	cfg, err := i.LabConfig(ctx, i.plan)
	if err != nil {
		return err
	}
	l, err := lab.Up(ctx, cfg)
	if err != nil {
		return err
	}
	err = do(l)
	if down := l.Close(ctx); err == nil {
		err = down
	}
	return err
}
