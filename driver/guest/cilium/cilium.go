// Package cilium is a client of the API that Cilium's agent serves on a Unix socket
// (api/v1/openapi.yaml of Cilium 1.16 and later), as far as endpoints and their policies need it,
// and reads what the agent's programs count.
package cilium

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// States of an endpoint. Only a ready one has the policies in force that it should have:
// while it regenerates, its programs may be those of before, which let everything through.
const (
	StateReady   = "ready"
	stateWaiting = "waiting-for-identity"
)

// poll is how long to wait between two questions about the same.
const poll = 100 * time.Millisecond

// maxAnswer bounds an answer of the agent, in bytes: the policies of an endpoint are a part of it.
const maxAnswer = 64 << 20

// Client talks to one agent.
type Client struct {
	http *http.Client
	// Ended is closed when the agent's process ends; then nothing is waited for. nil never is.
	Ended <-chan struct{}
}

// New is a client of the agent that listens on a Unix socket.
func New(socket string, ended <-chan struct{}) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}
	return &Client{http: &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}, Ended: ended}
}

// answerError is an answer that says no.
type answerError struct {
	Status int
	Said   string
}

func (e *answerError) Error() string {
	return fmt.Sprintf("the agent answers %d: %s", e.Status, e.Said)
}

// do sends a request; in and out may be nil.
func (c *Client) do(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://agent/v1"+path, body)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	r, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	data, err := io.ReadAll(io.LimitReader(r.Body, maxAnswer))
	if err != nil {
		return err
	}
	if r.StatusCode/100 != 2 {
		return &answerError{r.StatusCode, string(data[:min(len(data), 400)])}
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(data, out); err != nil {
		return fmt.Errorf("read the agent's answer to %s %s: %w", method, path, err)
	}
	return nil
}

// until tries until it is done, or the context or the agent ends. The error then says what was last
// seen.
func (c *Client) until(ctx context.Context, try func() (done bool, seen string)) error {
	last := "it has not answered"
	for {
		done, seen := try()
		if done {
			return nil
		}
		if ctx.Err() == nil { // else what it saw is that it was cut short
			last = seen
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %s", ctx.Err(), last)
		case <-c.Ended:
			return fmt.Errorf("the agent has ended: %s", last)
		case <-time.After(poll):
		}
	}
}

// Health is what the agent says of itself, as far as it is read here.
type Health struct {
	Cilium struct{ State, Msg string }
	// Device is what joins endpoints; versions that know of one kind alone do not say it.
	Device  string `json:"datapath-mode"`
	Routing struct {
		Within  string `json:"intra-host-routing-mode"`
		Between string `json:"inter-host-routing-mode"`
	}
	Services struct {
		Features struct {
			SocketLB struct{ Enabled bool } `json:"socketLB"`
			HostOnly bool                   `json:"bpfSocketLBHostnsOnly"` // not for sockets of endpoints
		}
	} `json:"kube-proxy-replacement"`
}

// SocketLookup says whether services are looked up when sockets of endpoints connect.
func (h Health) SocketLookup() bool {
	return h.Services.Features.SocketLB.Enabled && !h.Services.Features.HostOnly
}

// AwaitReady waits until the agent says that it is well.
func (c *Client) AwaitReady(ctx context.Context) (h Health, err error) {
	err = c.until(ctx, func() (bool, string) {
		h = Health{}
		if err := c.do(ctx, http.MethodGet, "/healthz", nil, &h); err != nil {
			return false, "its health: " + err.Error()
		}
		return h.Cilium.State == "Ok", fmt.Sprintf("its health is %q: %s", h.Cilium.State, h.Cilium.Msg)
	})
	return h, err
}

// Router is the address by which endpoints of the agent's node leave it.
func (c *Client) Router(ctx context.Context) (string, error) {
	var got struct {
		Status struct {
			Addressing struct{ IPv4 struct{ IP string } }
		}
	}
	if err := c.do(ctx, http.MethodGet, "/config", nil, &got); err != nil {
		return "", fmt.Errorf("read the agent's configuration: %w", err)
	}
	if got.Status.Addressing.IPv4.IP == "" {
		return "", errors.New("the agent's configuration names no IPv4 address of its router")
	}
	return got.Status.Addressing.IPv4.IP, nil
}

// Request is what an endpoint is made of.
type Request struct {
	Name      string   // of the container
	Labels    []string // "k8s:app=server"
	Link      string   // the node's end of its link
	LinkIndex int
	Inner     string // the link's name in the endpoint
	MAC       string // of the endpoint's end
	HostMAC   string // of the node's end
	IPv4      string
}

// Create makes an endpoint and returns the number that the agent gives it. Its address, which is
// one of the agent's own range, is reserved first.
func (c *Client) Create(ctx context.Context, r Request) (id int, err error) {
	if err := c.do(ctx, http.MethodPost, "/ipam/"+r.IPv4+"?pool=default&owner="+r.Name, nil, nil); err != nil {
		return 0, fmt.Errorf("reserve %s: %w", r.IPv4, err)
	}
	change := map[string]any{
		"container-id": r.Name, "container-name": r.Name, "labels": r.Labels,
		"interface-name": r.Link, "interface-index": r.LinkIndex, "container-interface-name": r.Inner,
		"mac": r.MAC, "host-mac": r.HostMAC, "addressing": map[string]string{"ipv4": r.IPv4},
		"state": stateWaiting, "sync-build-endpoint": true,
	}
	if err := c.do(ctx, http.MethodPut, "/endpoint/cilium-local:0", change, nil); err != nil {
		return 0, fmt.Errorf("make endpoint %s: %w", r.Name, err)
	}
	var all []Endpoint
	if err := c.do(ctx, http.MethodGet, "/endpoint", nil, &all); err != nil {
		return 0, fmt.Errorf("list endpoints: %w", err)
	}
	for _, e := range all {
		if e.Status.External.ContainerName == r.Name {
			return e.ID, nil
		}
	}
	return 0, fmt.Errorf("the agent made endpoint %s and does not list it", r.Name)
}

// Delete removes an endpoint.
func (c *Client) Delete(ctx context.Context, id int) error {
	return c.do(ctx, http.MethodDelete, fmt.Sprintf("/endpoint/%d", id), nil, nil)
}

// Endpoint is what the agent says of one.
type Endpoint struct {
	ID     int
	Status struct {
		State    string
		External struct {
			ContainerName string `json:"container-name"`
		} `json:"external-identifiers"`
		Policy struct {
			Realized struct {
				Revision int64  `json:"policy-revision"`
				Enabled  string `json:"policy-enabled"`
			}
		}
	}
}

// Ready says whether what the endpoint should enforce is in force.
func (e Endpoint) Ready() bool { return e.Status.State == StateReady }

// Revision is that of the policies that are in force.
func (e Endpoint) Revision() int64 { return e.Status.Policy.Realized.Revision }

func (e Endpoint) String() string {
	return fmt.Sprintf("endpoint %d is %q at revision %d, enforcing %q", e.ID, e.Status.State, e.Revision(), e.Status.Policy.Realized.Enabled)
}

// Endpoint reads one.
func (c *Client) Endpoint(ctx context.Context, id int) (e Endpoint, err error) {
	if err := c.do(ctx, http.MethodGet, fmt.Sprintf("/endpoint/%d", id), nil, &e); err != nil {
		return e, fmt.Errorf("read endpoint %d: %w", id, err)
	}
	return e, nil
}

// AwaitRevision waits until an endpoint is ready with policies later than those of a revision.
// An endpoint that stays in another state has not its policies in force, whatever it says.
func (c *Client) AwaitRevision(ctx context.Context, id int, after int64) (e Endpoint, err error) {
	err = c.until(ctx, func() (bool, string) {
		if e, err = c.Endpoint(ctx, id); err != nil {
			return false, err.Error()
		}
		return e.Ready() && e.Revision() > after, e.String()
	})
	return e, err
}
