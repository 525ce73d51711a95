package step

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"hookbed/driver/bundle"
	"hookbed/driver/guest/fault"
	"hookbed/driver/guest/probe"
	"hookbed/driver/guest/proc"
	"hookbed/driver/tail"
)

func doRequests(c *call, a bundle.Requests) error {
	var sources []string
	for _, try := range a.Tries {
		if try.From != "" {
			sources = append(sources, try.From)
		}
	}
	remove, err := c.addSources(a.Link, sources)
	defer func() { remove(c.nl) }()
	if err != nil {
		return err
	}
	got, err := c.makeRequests(a)
	if err != nil {
		return err
	}
	if len(got) != len(a.Tries) {
		return fmt.Errorf("%d of %d requests were made", len(got), len(a.Tries))
	}
	var wrong []string
	allowed, denied := 0, 0
	for i, try := range a.Tries {
		switch o := got[i]; {
		case o.Failed != "":
			wrong = append(wrong, fmt.Sprintf("%s: %s", try.What, o.Failed))
		case o.Got != try.Want:
			wrong = append(wrong, fmt.Sprintf("%s: got %s, want %s", try.What, o.Got, try.Want))
		case strings.Trim(strings.ReplaceAll(o.Got, "200", ""), " ") == "":
			allowed++
		default:
			denied++
		}
	}
	c.value("allowed", float64(allowed))
	c.value("denied", float64(denied))
	if len(wrong) > 0 {
		return fault.Subject("%s", strings.Join(wrong, "; "))
	}
	return nil
}

// requestOutcome is what came of a try (probe.Request), or why that cannot be said.
type requestOutcome struct {
	Got    string `json:"got,omitempty"`
	Failed string `json:"failed,omitempty"`
}

// requestOrder is what MakeRequests is told on its standard input.
type requestOrder struct {
	Requests bundle.Requests `json:"requests"`
	Answer   time.Duration   `json:"answer"` // how long an answer may take
}

// makeRequests makes the tries one after the other: what is denied may leave a connection
// behind, and must not hold up another.
func (c *call) makeRequests(a bundle.Requests) ([]requestOutcome, error) {
	order := requestOrder{a, c.x.answerLimit}
	if !a.InCgroup {
		return order.carryOut(c.ctx)
	}
	return c.requestInCgroup(order)
}

// carryOut makes the tries from the calling thread's namespace.
func (o requestOrder) carryOut(ctx context.Context) ([]requestOutcome, error) {
	var out []requestOutcome
	for _, try := range o.Requests.Tries {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		got, err := probe.Request(ctx, o.Requests.To, o.Requests.Port, try, o.Answer, seconds(o.Requests.Timeout))
		one := requestOutcome{Got: got}
		if err != nil {
			one = requestOutcome{Failed: err.Error()}
		}
		out = append(out, one)
	}
	return out, nil
}

// RequestsCommand is the helper's command that runs MakeRequests.
const RequestsCommand = "requests"

// requestInCgroup starts this program anew in the endpoint's cgroup: a socket is of the cgroup
// that its maker was in, and threads of one process cannot be in several.
func (c *call) requestInCgroup(order requestOrder) ([]requestOutcome, error) {
	if c.at.Cgroup == "" {
		return nil, errors.New("the endpoint has no cgroup")
	}
	in, err := json.Marshal(order)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	diagnosis := tail.NewBuffer(proc.TailLimit)
	at := &proc.Endpoint{Namespace: c.at.Namespace, Cgroup: c.at.Cgroup} // in the helper's own root
	p, err := c.x.launcher.Start(at, proc.Program{
		Argv: []string{"/proc/self/exe", RequestsCommand}, Stdin: bytes.NewReader(in), Stdout: &out, Stderr: diagnosis,
	})
	if err != nil {
		return nil, err
	}
	each := order.Answer.Seconds() + order.Requests.Timeout
	ended, err := c.await(p, float64(len(order.Requests.Tries)+1)*each)
	switch {
	case err != nil:
		return nil, err
	case p.Apart:
		return nil, fmt.Errorf("make requests in %s: %s", c.at.Cgroup, p.Note)
	case !ended:
		return nil, fault.Subject("make requests in %s: not finished in time", c.at.Cgroup)
	case p.Err != nil:
		return nil, fmt.Errorf("make requests in %s: %w: %s", c.at.Cgroup, p.Err, strings.TrimSpace(diagnosis.String()))
	}
	var got []requestOutcome
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		return nil, fmt.Errorf("read what came of requests: %w", err)
	}
	return got, nil
}

// MakeRequests makes requests that come as JSON, and writes what came of them as JSON.
func MakeRequests(ctx context.Context, in io.Reader, out io.Writer) error {
	var order requestOrder
	if err := json.NewDecoder(in).Decode(&order); err != nil {
		return fmt.Errorf("read which requests to make: %w", err)
	}
	got, err := order.carryOut(ctx)
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(got)
}
