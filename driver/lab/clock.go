package lab

import (
	"context"
	"fmt"
	"time"

	"hookbed/driver/bundle"
	"hookbed/driver/datapath"
)

// Reading is what a node's clocks showed at some time between two readings of the
// driver's own clock: Before the request, and After the reply.
type Reading struct {
	Before, After time.Duration // of the driver's monotonic clock, since any one time
	bundle.Clock
}

// Clocks are readings by helper, under the name of the first node that it holds.
type Clocks map[string]Reading

// Clocks reads the clocks of every helper of a topology. A lab whose steps were
// executed before has none.
func (l *Lab) Clocks(ctx context.Context, t datapath.Topology) (Clocks, error) {
	out, asked := Clocks{}, map[Helper]bool{}
	for _, n := range t.Nodes {
		h, err := l.provider.Helper(n.Name)
		if err != nil {
			return nil, rigFault(err)
		}
		c, ok := h.(Clocked)
		if !ok || asked[h] {
			continue
		}
		asked[h] = true
		if out[n.Name], err = c.Clock(ctx); err != nil {
			return nil, rigFault(err)
		}
	}
	return out, nil
}

// Clock reads the clocks of the helper's machine.
func (s *session) Clock(ctx context.Context) (Reading, error) {
	r := Reading{Before: time.Since(s.started)}
	reply, err := s.call(ctx, bundle.Request{Clock: true})
	r.After = time.Since(s.started)
	if err == nil && reply.Clock == nil {
		err = rigFault(fmt.Errorf("guest helper on %s does not tell its clocks", s.where))
	}
	if err != nil {
		return r, err
	}
	r.Clock = *reply.Clock
	return r, nil
}
