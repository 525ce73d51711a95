package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"hookbed/images"
)

// binaries is where TestMain put the real driver and guest helper.
var binaries string

func TestMain(m *testing.M) {
	flag.Parse()
	// Tests mostly wait: for trials, and for what must not come.
	if p := flag.Lookup("test.parallel"); p.Value.String() == p.DefValue {
		if err := p.Value.Set(strconv.Itoa(4 * runtime.NumCPU())); err != nil {
			panic(err)
		}
	}
	code, err := withBinaries(m.Run)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// binariesEnv says where the binaries are to a process that a test starts for itself.
const binariesEnv = "HOOKBED_TEST_BINARIES"

func withBinaries(run func() int) (int, error) {
	if binaries = os.Getenv(binariesEnv); binaries != "" {
		return run(), nil
	}
	dir, err := os.MkdirTemp("", "hookbed-bin-")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	guest := filepath.Join(dir, "guest")
	build := exec.Command("go", "build", "-o", guest, "./guest")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return 1, fmt.Errorf("build the guest helper: %w\n%s", err, out)
	}
	if err := buildDriver(filepath.Join(dir, "driver"), guest); err != nil {
		return 1, err
	}
	binaries = dir
	return run(), nil
}

// buildDriver builds the driver with the guest helper that is given, in place of what
// `make build` left in the source tree; "" builds it without a helper.
func buildDriver(file, guest string) error {
	embedded, err := filepath.Abs("helper/embedded/guest")
	if err != nil {
		return err
	}
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{embedded: guest}})
	if err != nil {
		return err
	}
	work, err := os.MkdirTemp("", "hookbed-overlay-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	list := filepath.Join(work, "overlay.json")
	if err := os.WriteFile(list, overlay, 0o600); err != nil {
		return err
	}
	build := exec.Command("go", "build", "-overlay", list, "-o", file, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build the driver: %w\n%s", err, out)
	}
	return nil
}

// build-driver FILE [GUEST]: builds a driver with another guest helper, or with none.
func buildDriverWith(ts *testscript.TestScript, _ bool, args []string) {
	guest := ""
	if len(args) > 1 {
		guest = ts.MkAbs(args[1])
	}
	ts.Check(buildDriver(ts.MkAbs(args[0]), guest))
}

// TestScripts runs the command line as users do: real binaries, real
// namespaces, exit codes of the process.
func TestScripts(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Fatal("these tests make network namespaces: run them as root")
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	experiments, err := filepath.Abs("../experiments")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			env.Setenv("PATH", binaries+":"+os.Getenv("PATH"))
			env.Setenv("XDG_CACHE_HOME", cache) // the images, built once a machine
			env.Setenv("XDG_STATE_HOME", filepath.Join(env.WorkDir, "state"))
			env.Setenv("EXPERIMENTS", experiments)
			env.Setenv("BINARIES", binaries)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"build-driver": buildDriverWith, "clang": clang, "exits": exits, "helper-killed": helperKilled,
			"signalled": signalled, "trials-once": trialsOnce,
		},
	})
}

// exits CODE COMMAND...: the command ends with exactly this exit code; its
// output is kept in the files out and err.
func exits(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	code, out, errOut := execute(ts, args[1:])
	ts.Check(os.WriteFile(ts.MkAbs("out"), out, 0o644))
	ts.Check(os.WriteFile(ts.MkAbs("err"), errOut, 0o644))
	if code != want {
		ts.Fatalf("exit code %d, want %d\nstdout:\n%s\nstderr:\n%s", code, want, out, errOut)
	}
}

// clang ARGUMENT...: the pinned compiler does this, in the script's directory.
func clang(ts *testscript.TestScript, _ bool, args []string) {
	store, err := images.Open("", images.Options{Drift: "allow"})
	ts.Check(err)
	compiler, err := store.Compiler(context.Background())
	ts.Check(err)
	cmd := compiler.Command(context.Background(), args...)
	cmd.Dir = ts.MkAbs(".")
	if out, err := cmd.CombinedOutput(); err != nil {
		ts.Fatalf("compile: %v\n%s", err, out)
	}
}

func execute(ts *testscript.TestScript, argv []string) (int, []byte, []byte) {
	cmd := command(ts, argv)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		ts.Check(err)
	}
	return cmd.ProcessState.ExitCode(), out.Bytes(), errOut.Bytes()
}

func command(ts *testscript.TestScript, argv []string) *exec.Cmd {
	name := argv[0]
	if name == "driver" {
		name = filepath.Join(binaries, name)
	}
	cmd := exec.Command(name, argv[1:]...)
	cmd.Dir = ts.MkAbs(".")
	for _, k := range []string{"PATH", "XDG_CACHE_HOME", "XDG_STATE_HOME", "HOME"} {
		cmd.Env = append(cmd.Env, k+"="+ts.Getenv(k))
	}
	return cmd
}

// signalled SIGNAL ROWSFILE LINES WANTCODE COMMAND...: starts the command,
// sends it the signal once the file has that many lines, and checks how it
// ends (WANTCODE -1: killed by the signal).
func signalled(ts *testscript.TestScript, _ bool, args []string) {
	signals := map[string]syscall.Signal{"INT": syscall.SIGINT, "TERM": syscall.SIGTERM, "KILL": syscall.SIGKILL}
	lines, err := strconv.Atoi(args[2])
	ts.Check(err)
	want, err := strconv.Atoi(args[3])
	ts.Check(err)
	cmd := command(ts, args[4:])
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	ts.Check(cmd.Start())
	deadline := time.Now().Add(15 * time.Minute)
	for countLines(ts.MkAbs(args[1])) < lines && time.Now().Before(deadline) {
		time.Sleep(20 * time.Millisecond)
	}
	ts.Check(cmd.Process.Signal(signals[args[0]]))
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != want {
		ts.Fatalf("after SIG%s exit code %d, want %d\n%s", args[0], code, want, out.Bytes())
	}
}

// helper-killed GLOB WANTCODE COMMAND...: starts the driver, kills its guest helper
// once a file matches, and checks how the driver ends. Its output is kept in the
// files out and err.
func helperKilled(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[1])
	ts.Check(err)
	cmd := command(ts, args[2:])
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	ts.Check(cmd.Start())
	deadline := time.Now().Add(5 * time.Minute)
	for time.Now().Before(deadline) {
		if found, _ := filepath.Glob(ts.MkAbs(args[0])); len(found) > 0 {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	helper := childOf(cmd.Process.Pid)
	if helper != 0 {
		ts.Check(syscall.Kill(helper, syscall.SIGKILL))
	}
	_ = cmd.Wait()
	ts.Check(os.WriteFile(ts.MkAbs("out"), out.Bytes(), 0o644))
	ts.Check(os.WriteFile(ts.MkAbs("err"), errOut.Bytes(), 0o644))
	if code := cmd.ProcessState.ExitCode(); code != want || helper == 0 {
		ts.Fatalf("after SIGKILL to helper %d exit code %d, want %d\n%s%s", helper, code, want, out.Bytes(), errOut.Bytes())
	}
}

// childOf is the process that another one started, 0 if there is none.
func childOf(parent int) int {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		data, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		pid, _, _ := strings.Cut(string(data), " ")
		_, rest, _ := strings.Cut(string(data[bytes.LastIndexByte(data, ')')+1:]), " ")
		f := strings.Fields(rest) // state, parent, ... (proc_pid_stat(5))
		if len(f) > 1 && f[1] == strconv.Itoa(parent) {
			n, _ := strconv.Atoi(pid)
			return n
		}
	}
	return 0
}

func countLines(path string) int {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	return bytes.Count(data, []byte("\n"))
}

// trials-once ROWSFILE N: rows.csv holds exactly N trials, each in rows that
// all say ok.
func trialsOnce(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[1])
	ts.Check(err)
	seen, err := trialsIn(ts.MkAbs(args[0]))
	ts.Check(err)
	if len(seen) != want {
		ts.Fatalf("%d trials in %s, want %d", len(seen), args[0], want)
	}
}

// trialsIn reads which trials rows.csv has and fails on a metric that a trial
// has twice, or a status other than ok.
func trialsIn(path string) (map[string]bool, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	trials, metrics := map[string]bool{}, map[string]bool{}
	for i, line := range strings.Split(strings.TrimSpace(string(data)), "\n") {
		f := strings.Split(line, ",")
		if i == 0 {
			continue
		}
		if len(f) < 10 || f[6] != "ok" {
			return nil, fmt.Errorf("%s:%d: not an ok row: %s", path, i+1, line)
		}
		trial := strings.Join(f[2:6], "/")
		if metrics[trial+f[8]] {
			return nil, fmt.Errorf("%s:%d: trial %s has metric %s twice", path, i+1, trial, f[8])
		}
		trials[trial], metrics[trial+f[8]] = true, true
	}
	return trials, nil
}
