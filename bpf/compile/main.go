// Command compile makes the committed objects of package bpf from their C files with the
// compiler that images/locks/compiler.lock pins, never with one of this computer's. It is
// what `go generate` runs, in the package's directory.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"hookbed/images"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "compile:", err)
		os.Exit(1)
	}
}

// run compiles NAME.bpf.c to NAME_bpfel.o, and writes NAME_bpfel.go, for each name.
func run(ctx context.Context, names []string, stderr io.Writer) error {
	if len(names) == 0 {
		return errors.New("no program is named (usage: go run ./compile NAME)")
	}
	say := func(msg string) { fmt.Fprintln(stderr, "compile:", msg) }
	// Other packages than the compiler's own may be newer than the lock says: its files
	// are checked one by one, and a test compares the objects.
	store, err := images.Open("", images.Options{Drift: "allow", Log: say})
	if err != nil {
		return err
	}
	compiler, err := store.Compiler(ctx)
	if err != nil {
		return err
	}
	for _, d := range compiler.Drift {
		say(fmt.Sprintf("package %s is %s, not %s as locked", d.Package, d.Used, d.Locked))
	}
	for _, name := range names {
		if err := generate(ctx, compiler, name, stderr); err != nil {
			return fmt.Errorf("compile %s.bpf.c: %w", name, err)
		}
	}
	return nil
}

// flags are the same on every computer. bpf2go keeps the checkout's path out of the debug
// information, so that the same compiler and headers give the same bytes.
func flags() []string { return []string{"-O2", "-g", "-Wall", "-Werror", "-mcpu=v3"} }

// generate runs bpf2go, and strips the object of what only a debugger needs.
func generate(ctx context.Context, c images.Compiler, name string, stderr io.Writer) error {
	// bpf2go splits the compiler's command at spaces.
	cc := slices.Concat([]string{"env"}, c.Environment(), c.Clang())
	if slices.ContainsFunc(cc, func(arg string) bool { return len(strings.Fields(arg)) != 1 }) {
		return fmt.Errorf("the path %s has a space: set XDG_CACHE_HOME to a directory without", c.Dir)
	}
	argv := append([]string{"go", "run", "github.com/cilium/ebpf/cmd/bpf2go", "-cc", strings.Join(cc, " "), "-no-strip",
		"-target", "bpfel", "-no-global-types", name, name + ".bpf.c", "--"}, flags()...)
	if err := call(ctx, argv, slices.DeleteFunc(os.Environ(), misleads), stderr); err != nil {
		return err
	}
	return call(ctx, append(c.Strip(), "-g", name+"_bpfel.o"), c.Environment(), stderr)
}

// misleads says whether a variable changes what bpf2go or the compiler does.
func misleads(variable string) bool {
	name, _, _ := strings.Cut(variable, "=")
	return name == "V" || name == "CPATH" || name == "COMPILER_PATH" || strings.HasSuffix(name, "_INCLUDE_PATH") ||
		slices.ContainsFunc([]string{"BPF2GO_", "CCC_", "CLANG_", "LD_"}, func(p string) bool { return strings.HasPrefix(name, p) })
}

// call runs a program that ends with this one.
func call(ctx context.Context, argv, env []string, stderr io.Writer) error {
	// The parent-death signal is sent when the thread ends.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env, cmd.Stdout, cmd.Stderr = env, stderr, stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("run %s: %w", argv[0], err)
	}
	return nil
}
