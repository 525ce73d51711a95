package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"testing"

	"hookbed/driver/datapath"
	"hookbed/driver/host"
)

// fakeEngine answers like a Docker Engine, and keeps what it is asked.
type fakeEngine struct {
	host.Host
	server *httptest.Server
	refuse int // how many starts of containers fail

	mu    sync.Mutex
	asked []string // method, path, and what matters of the body
}

func (f *fakeEngine) Forward(ctx context.Context, network, addr string) (net.Conn, error) {
	if network != "unix" || addr != socket {
		return nil, fmt.Errorf("forward to %s %s", network, addr)
	}
	return new(net.Dialer).DialContext(ctx, "tcp", f.server.Listener.Addr().String())
}

var apiVersion = regexp.MustCompile(`^/v[0-9.]+`)

func (f *fakeEngine) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	path := apiVersion.ReplaceAllString(r.URL.Path, "")
	body, _ := io.ReadAll(r.Body)
	w.Header().Set("Api-Version", "1.47")
	w.Header().Set("Content-Type", "application/json")
	if path == "/_ping" {
		return
	}
	f.asked = append(f.asked, strings.TrimSpace(r.Method+" "+path+" "+said(body)))
	switch {
	case strings.HasSuffix(path, "/create"):
		w.WriteHeader(http.StatusCreated)
		_, _ = io.WriteString(w, `{"Id": "c1"}`)
	case strings.HasSuffix(path, "/start") && f.refuse > 0:
		f.refuse--
		w.WriteHeader(http.StatusInternalServerError)
		_, _ = io.WriteString(w, `{"message": "attaching to network failed"}`)
	case strings.HasSuffix(path, "/json"):
		_, _ = io.WriteString(w, `{"Id": "c1", "State": {"Pid": 42}}`)
	default:
		w.WriteHeader(http.StatusNoContent)
	}
}

// said is what of a request's body the tests look at.
func said(body []byte) string {
	var b struct {
		Image      string
		Driver     string
		Options    map[string]string
		HostConfig struct{ NetworkMode string }
	}
	if json.Unmarshal(body, &b) != nil || b.Image+b.Driver == "" {
		return ""
	}
	if b.Driver != "" {
		return fmt.Sprint(b.Driver, " ", b.Options)
	}
	return b.Image + " on " + b.HostConfig.NetworkMode
}

func opened(t *testing.T, refuse int) (*Engine, *fakeEngine) {
	t.Helper()
	f := &fakeEngine{refuse: refuse}
	f.server = httptest.NewServer(f)
	t.Cleanup(f.server.Close)
	e, err := Open(t.Context(), datapath.NodeAt(1), f, "endpoint:1")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	return e, f
}

func TestNetworksOfEndpoints(t *testing.T) {
	e, f := opened(t, 0)
	if err := e.MakeBridge(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := e.makeOverlay(t.Context(), 1400); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"POST /networks/create bridge map[com.docker.network.bridge.enable_ip_masquerade:false com.docker.network.bridge.name:" + datapath.BridgeLink + "]",
		fmt.Sprintf("POST /networks/create overlay map[com.docker.network.driver.mtu:1400 com.docker.network.driver.overlay.vxlanid_list:%d]", datapath.SwarmVNI),
	}
	if got := strings.Join(f.asked, "\n"); got != strings.Join(want, "\n") {
		t.Errorf("asked\n%s\nwant\n%s", got, strings.Join(want, "\n"))
	}
}

func TestContainerIsStartedOnItsNetwork(t *testing.T) {
	for network, mode := range map[string]string{datapath.NetworkNone: "none", datapath.NetworkBridge: "hookbed", datapath.NetworkOverlay: "hookbed-overlay"} {
		e, f := opened(t, 0)
		id, pid, err := e.Start(t.Context(), datapath.Client, "198.19.0.2", network)
		if err != nil || id != "c1" || pid != 42 {
			t.Errorf("%s: container %q with process %d, %v", network, id, pid, err)
		}
		if want := "POST /containers/create endpoint:1 on " + mode; f.asked[0] != want {
			t.Errorf("%s: asked %s, want %s", network, f.asked[0], want)
		}
	}
}

// TestOverlayIsTriedAgain: a container that the overlay network refuses is removed, and
// another one is started; on other networks a refusal is an error.
func TestOverlayIsTriedAgain(t *testing.T) {
	e, f := opened(t, 1)
	if _, pid, err := e.Start(t.Context(), datapath.Client, "198.19.0.2", datapath.NetworkOverlay); err != nil || pid != 42 {
		t.Errorf("process %d, %v", pid, err)
	}
	var verbs []string
	for _, a := range f.asked {
		verbs = append(verbs, strings.Join(strings.Fields(a)[:2], " "))
	}
	want := "POST /containers/create, POST /containers/c1/start, DELETE /containers/c1, POST /containers/create, POST /containers/c1/start, GET /containers/c1/json"
	if got := strings.Join(verbs, ", "); got != want {
		t.Errorf("asked %s, want %s", got, want)
	}
	e, _ = opened(t, 1)
	if id, _, err := e.Start(t.Context(), datapath.Client, "198.19.0.2", datapath.NetworkBridge); err == nil || id != "c1" || !strings.Contains(err.Error(), "start client container on node1") {
		t.Errorf("container %q, %v; want an error, and the container to remove", id, err)
	}
}
