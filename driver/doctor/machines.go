package main

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

// machinesDoctor looks at the machines of an experiment's inventory.
type machinesDoctor struct {
	app   *app
	plan  *plan.Plan
	facts map[string]map[string]string // by node
}

// doctorOf are the checks for an experiment on existing machines, or on VMs of
// other computers.
func (a *app) doctorOf(file string) ([]look, error) {
	p, err := loadPlan(file)
	if err != nil {
		return nil, err
	}
	if len(p.Spec.Lab.Hypervisors) > 0 {
		return hypervisorLooks(p.Spec), nil
	}
	if p.Spec.Lab.Provider != plan.ProviderSSH {
		return nil, fmt.Errorf("%w: %s: its provider is %q, and only %q, or [[lab.hypervisor]], has computers to look at; `driver doctor` without a file looks at this one",
			errUsage, file, p.Spec.Lab.Provider, plan.ProviderSSH)
	}
	d := &machinesDoctor{app: a, plan: p, facts: map[string]map[string]string{}}
	return append(d.machineLooks(), look{"what [measure] asks", d.measure}, look{"what the arms need", d.arms}, look{"nodes, and the way between them", d.link}), nil
}

// hypervisorLooks are at each computer on whose libvirt the nodes are to run.
func hypervisorLooks(s plan.Spec) []look {
	var cards []plan.NIC
	for _, b := range s.Boots() {
		cards = append(cards, b.NIC)
	}
	var out []look
	for _, h := range s.Lab.Hypervisors {
		out = append(out, look{"hypervisor " + h.Title(), func(ctx context.Context) []check {
			return findings(lab.ExamineHypervisor(ctx, h, s.Lab.Accel, cards))
		}})
	}
	return out
}

// machineLooks are at each machine that the experiment uses.
func (d *machinesDoctor) machineLooks() []look {
	inv := d.plan.Spec.Lab.Inventory
	var out []look
	for _, m := range inv.Machines[:nodesOf(d.plan)] {
		out = append(out, look{m.Name + ", " + m.User + "@" + m.Host, func(ctx context.Context) []check {
			guest, err := helper.Path()
			if err != nil {
				return []check{{Name: "guest helper", Detail: err.Error(), Fix: "run `make build`"}}
			}
			found, facts := lab.Examine(ctx, inv, m, guest)
			if facts != nil {
				d.facts[m.Name] = facts
			}
			return findings(found)
		}})
	}
	return out
}

func findings(found []lab.Finding) []check {
	var out []check
	for _, f := range found {
		out = append(out, finding(f))
	}
	return out
}

// measure says whether the machines have the CPUs and the congestion control that
// [measure] asks of them.
func (d *machinesDoctor) measure(context.Context) []check {
	if len(d.facts) < nodesOf(d.plan) {
		return nil // a machine could not be asked, which is a failed check already
	}
	m := d.plan.Spec.Measure
	c := check{Name: "measure", OK: true, Detail: fmt.Sprintf("client_cpu = %d, server_cpu = %d, congestion = %q", m.ClientCPU, m.ServerCPU, m.Congestion)}
	err := d.plan.Spec.Unfit(func(node string) plan.Computer { return lab.ComputerOf("its machine", d.facts[node]) })
	if err != nil {
		c.OK, c.Detail, c.Fix = false, err.Error(), "write in [measure] what every machine has"
	}
	return []check{c}
}

func finding(f lab.Finding) check {
	c := check{Name: f.What, OK: f.OK, Detail: f.Detail}
	if !f.OK {
		c.Fix = f.Fix
	}
	return c
}

// arms says of each machine which arms of the experiment it can carry.
func (d *machinesDoctor) arms(context.Context) []check {
	var out []check
	for _, m := range d.plan.Spec.Lab.Inventory.Machines {
		facts, ok := d.facts[m.Name]
		if !ok {
			continue
		}
		var can, cannot []string
		for _, c := range d.plan.Cells {
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
		c := check{Name: m.Name + " arms", OK: len(cannot) == 0, Detail: "can run " + strings.Join(can, ", ")}
		if !c.OK {
			c.Detail += "; cannot run " + strings.Join(cannot, ", ")
			c.Fix = "install what is missing on the machine, or leave these arms out; they would be rows of status unsupported"
		}
		out = append(out, c)
	}
	return out
}

// link brings the lab up, as a run would, and tries the way between the machines.
func (d *machinesDoctor) link(ctx context.Context) []check {
	nodes := nodesOf(d.plan)
	if len(d.facts) < nodes {
		return nil // a machine could not be asked, which is a failed check already
	}
	c := check{Name: "nodes", Fix: "see what the message says of the machine"}
	err := d.tryLab(ctx, func(l *lab.Lab) error {
		c.OK, c.Detail = true, "each machine made and removed its node"
		if nodes < 2 {
			return nil
		}
		c = check{Name: "data link", Detail: "node1 reaches node2 over it, with whole frames", Fix: "see that both data NICs are on one network, with one MTU, and that nothing in between filters 198.18.0.0/15"}
		return l.ReachNodes(ctx)
	})
	if c.OK = err == nil; err != nil {
		c.Detail = err.Error()
	}
	if errors.Is(err, images.ErrNotCached) {
		c.Fix = buildAsRoot
	}
	return []check{c}
}

func (d *machinesDoctor) tryLab(ctx context.Context, do func(*lab.Lab) error) error {
	cfg, err := d.app.labConfig(ctx, d.plan, "")
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
