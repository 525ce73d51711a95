package tracing

import (
	"errors"
	"fmt"
	"strings"

	"hookbed/analysis/trace"
	"hookbed/driver/bundle"
	"hookbed/driver/callpath"
	"hookbed/driver/campaign"
	"hookbed/driver/lab"
)

// dropOf is where the packets of refused attempts end: by the trace of the attempts, and by what the
// guest's kernel recorded of others.
func dropOf(t *trace.Trace, results []byte) (*trace.Drop, error) {
	t.Client = trace.Span{} // the client of the attempts takes no time
	if err := check(t); err != nil {
		return nil, err
	}
	recorded, err := recordedDrops(results)
	if err != nil {
		return nil, err
	}
	return trace.NewDrop(t, recorded)
}

// recordedDrops are the drops that the kernel of a guest recorded in its measured trial, the most
// frequent first.
func recordedDrops(results []byte) ([]trace.Freed, error) {
	replies, err := lab.DecodeReplies(results)
	if err != nil {
		return nil, err
	}
	for _, r := range replies {
		text, ok := r.Reply.Raw[campaign.DropsFile]
		if r.Setup != measuredSetup || r.Phase != string(bundle.Run) || !ok {
			continue
		}
		drops, err := callpath.ReadDrops(strings.NewReader(text))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", campaign.DropsFile, err)
		}
		var out []trace.Freed
		for _, d := range drops.ByPlace() {
			out = append(out, trace.Freed{Packets: d.Packets, Function: d.Where, Reason: d.Reason})
		}
		return out, nil
	}
	return nil, errors.New("the guest recorded no refused attempts")
}
