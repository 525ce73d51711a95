// Package doctor checks what experiments need: this computer, the machines of an inventory, or the
// hypervisors on which nodes run. Each failure has a fix.
package doctor

import (
	"context"

	"hookbed/driver/lab"
	"hookbed/driver/plan"
	"hookbed/images"
)

// Check is the result for one thing that was checked.
type Check struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`
	// Warning is why something that is not needed does not work, and what that costs; "" if it does.
	Warning string `json:"warning,omitempty"`
	Fix     string `json:"fix,omitempty"` // what to do when not OK
}

// Part is checks that are made together.
type Part struct {
	Title string // for the person who waits for it
	Check func(context.Context) []Check
}

// Driver is what the checks need of the driver.
type Driver struct {
	Catalog   plan.Catalog
	OpenStore func() (*images.Store, error)
	// LabConfig prepares a lab for the plan, as for a run of it.
	LabConfig func(context.Context, *plan.Plan) (lab.Config, error)
	Say       func(format string, args ...any) // reports progress
}
