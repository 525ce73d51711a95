package datapathtest

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"testing"
	"time"

	"hookbed/driver/datapath"
	"hookbed/driver/plan"
	"hookbed/images"
)

var (
	guestFlag    = flag.String("guest", "", "the guest helper's binary; empty builds it")
	tableFlag    = flag.String("table", os.Getenv("HOOKBED_CONFORMANCE_TABLE"), "file to write the conformance table to")
	armsFlag     = flag.String("arms", "", "regular expression of the arms to test")
	allFlag      = flag.Bool("all", false, "every arm; otherwise those with all options at their defaults and those of fabric bridge")
	externalFlag = flag.String("peers", "", "root file system of the external filters; empty takes the image's")
	httpFlag     = flag.String("http", "", "root file system of the programs of HTTP; empty takes the image's")
	tellFlag     = flag.Bool("tell", false, "print a line for every arm that is through")
	silenceFlag  = flag.Duration("silence", 150*time.Millisecond, "how long a dropped packet must stay unanswered")
)

func TestMain(m *testing.M) {
	flag.Parse()
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "the conformance suite makes network namespaces and must run as root")
		os.Exit(1)
	}
	// Arms mostly wait for what must not come, so many can be tested at once.
	if p := flag.Lookup("test.parallel"); p.Value.String() == p.DefValue {
		if err := p.Value.Set(strconv.Itoa(8 * runtime.NumCPU())); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}

// guestBinary is the helper to test with.
func guestBinary(t *testing.T) string {
	t.Helper()
	if *guestFlag != "" {
		return *guestFlag
	}
	path := filepath.Join(t.TempDir(), "guest")
	cmd := exec.Command("go", "build", "-o", path, "hookbed/driver/guest")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the guest helper: %v\n%s", err, out)
	}
	return path
}

// externalRoot is the root file system of the external filters.
func externalRoot(t *testing.T) string {
	t.Helper()
	if *externalFlag != "" {
		return *externalFlag
	}
	store, err := images.Open("", images.Options{})
	if err != nil {
		t.Fatal(err)
	}
	set, err := store.Ensure(t.Context(), images.Want{External: true})
	if err != nil {
		t.Fatal(err)
	}
	return set.ExternalDir
}

// httpRoot is the root file system of the programs of HTTP.
func httpRoot(t *testing.T) string {
	t.Helper()
	if *httpFlag != "" {
		return *httpFlag
	}
	store, err := images.Open("", images.Options{})
	if err != nil {
		t.Fatal(err)
	}
	set, err := store.Ensure(t.Context(), images.Want{HTTP: true})
	if err != nil {
		t.Fatal(err)
	}
	return set.HTTPDir
}

// TestRequests puts every arm that judges requests to the test on this kernel.
func TestRequests(t *testing.T) {
	arms := Arms(datapath.Catalog())
	if !*allFlag {
		arms = slices.DeleteFunc(Some(arms), func(a Arm) bool {
			return !a.plain() || a.Fabric != datapath.FabricBridge || a.Scenario != plan.Localhost
		})
		for _, a := range slices.Clone(arms) {
			arms = append(arms, a.intercepted()...)
		}
	}
	only := regexp.MustCompile(*armsFlag)
	arms = slices.DeleteFunc(arms, func(a Arm) bool { return !a.judgesRequests() || !only.MatchString(a.Name()) })
	rig := Rig{Guest: guestBinary(t), Dir: t.TempDir(), HTTP: httpRoot(t), Silence: *silenceFlag}
	var report RequestReport
	t.Run("arms", func(t *testing.T) {
		for _, a := range arms {
			t.Run(a.Name(), func(t *testing.T) {
				t.Parallel()
				ConformRequests(t, rig, a, &report)
			})
		}
	})
	t.Log("\n" + report.Markdown())
}

// TestConform puts every arm to the test on this kernel.
func TestConform(t *testing.T) {
	arms := slices.DeleteFunc(Arms(datapath.Catalog()), Arm.judgesRequests)
	plain := Defaults(arms)
	if !*allFlag {
		arms = Some(arms)
	}
	only := regexp.MustCompile(*armsFlag)
	arms = slices.DeleteFunc(arms, func(a Arm) bool { return !only.MatchString(a.Name()) })
	rig := Rig{Guest: guestBinary(t), Dir: t.TempDir(), External: externalRoot(t), Silence: *silenceFlag, Report: &Report{Of: len(arms)}}
	if *tellFlag {
		rig.Report.Progress = os.Stdout
	}
	start := time.Now()
	t.Run("arms", func(t *testing.T) {
		for i, a := range arms {
			rig.Other = plain[(i+1)%len(plain)]
			rig := rig
			t.Run(a.Name(), func(t *testing.T) {
				t.Parallel()
				Conform(t, rig, a)
			})
		}
	})
	t.Logf("%d arms in %.0f s on %d CPUs; seconds by check: %s", len(arms), time.Since(start).Seconds(), runtime.NumCPU(), rig.Report.Took())
	table := rig.Report.Markdown()
	t.Log("\n" + table)
	if *tableFlag != "" {
		if err := os.WriteFile(*tableFlag, []byte(table), 0o644); err != nil {
			t.Error(err)
		}
	}
}
