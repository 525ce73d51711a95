package lab

import (
	"strings"

	"hookbed/driver/computer"
	"hookbed/driver/plan"
	"hookbed/images"
)

// Here is this computer, whose kernel some providers' nodes share.
func Here() plan.Computer {
	c := plan.Computer{Title: "this computer", CPUs: computer.CPUs()}
	c.Congestion, c.Restricted = computer.Congestion()
	return c
}

// Sealed is a guest in virtual time. The loader already checks for its one CPU.
func Sealed() plan.Computer {
	return plan.Computer{Title: "guests in virtual time", Congestion: images.SealedCongestion()}
}

// ComputerOf is the machine whose helper reports these facts. What it does not report
// is not known.
func ComputerOf(title string, facts map[string]string) plan.Computer {
	return plan.Computer{
		Title: title, CPUs: computer.ParseList(facts["cpu.pinnable"]),
		Congestion: strings.Fields(facts["congestion.usable"]), Restricted: strings.Fields(facts["congestion.restricted"]),
	}
}

// Unfit lists what [measure] needs and the lab's machines do not have; nil if they have
// all.
func (l *Lab) Unfit(s plan.Spec) error {
	return s.Unfit(func(node string) plan.Computer { return ComputerOf("its machine", l.Facts(node)) })
}
