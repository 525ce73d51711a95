package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"

	"hookbed/driver/bundle"
	"hookbed/driver/guest/guesttest"
)

// TestMain lets the test binary stand in for the helper, which starts itself
// anew for its namespaces, and for a server.
func TestMain(m *testing.M) {
	runtime.LockOSThread() // as main does
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "serve", "exec", "pidns", "requests", "agent":
			main()
		case "test-server":
			fmt.Fprintln(os.Stderr, guesttest.AcceptAll("tcp4", os.Args[2]))
			os.Exit(1)
		}
	}
	if os.Getuid() != 0 {
		fmt.Fprintln(os.Stderr, "the helper's tests make network namespaces and must run as root")
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{
		nil, {"fly"}, {"serve", "now"}, {"serve", "--fast"}, {"exec"}, {"exec", "b.json", "--blobs", "d", "more"},
	} {
		err := run(context.Background(), args, strings.NewReader(""), &bytes.Buffer{}, &bytes.Buffer{})
		if exitCode(err) != 2 {
			t.Errorf("guest %q: %v, want a usage error", args, err)
		}
	}
}

func TestVersion(t *testing.T) {
	var out bytes.Buffer
	if err := run(context.Background(), []string{"version"}, nil, &out, nil); err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("schema %d", bundle.Schema); !strings.Contains(out.String(), want) {
		t.Errorf("version prints %q without %q", out.String(), want)
	}
}

// TestInspect: the command prints the facts of a session and those of an agent.
func TestInspect(t *testing.T) {
	var out bytes.Buffer
	if err := run(t.Context(), []string{"inspect", "--data", "no-such-nic", "--keep", "192.0.2.1"}, nil, &out, nil); err != nil {
		t.Fatal(err)
	}
	var facts map[string]string
	if err := json.Unmarshal(out.Bytes(), &facts); err != nil {
		t.Fatal(err)
	}
	if facts["kernel.release"] == "" || facts["tool.nft"] == "" || facts["btf"] == "" || facts["nic.present"] != "false" {
		t.Errorf("facts are missing: %v", facts)
	}
}
