package lab

import (
	"strings"

	"hookbed/driver/computer"
	"hookbed/driver/plan"
	"hookbed/images"
)

// Here is this computer, on which the local provider's nodes are.
func Here() plan.Computer {
	c := plan.Computer{Title: "this computer", CPUs: computer.CPUs()}
	c.Congestion, c.Restricted = computer.Congestion()
	return c
}

// Sealed is a guest in virtual time. Its one CPU is what the loader knows already.
func Sealed() plan.Computer {
	return plan.Computer{Title: "guests in virtual time", Congestion: images.SealedCongestion()}
}

// ComputerOf is the machine whose helper tells these facts. What it does not tell
// is not known.
func ComputerOf(title string, facts map[string]string) plan.Computer {
	return plan.Computer{
		Title: title, CPUs: computer.ParseList(facts["cpu.pinnable"]),
		Congestion: strings.Fields(facts["congestion.usable"]), Restricted: strings.Fields(facts["congestion.restricted"]),
	}
}

// Unfit says what of [measure] the lab's machines have not; nil if they have all.
func (l *Lab) Unfit(s plan.Spec) error {
	return s.Unfit(func(node string) plan.Computer { return ComputerOf("its machine", l.Facts(node)) })
}
