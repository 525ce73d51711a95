package tracing

import (
	"bytes"
	"debug/elf"
	"maps"
	"path"
	"slices"
	"strings"

	"hookbed/analysis/trace"
	"hookbed/driver/bundle"
	"hookbed/driver/campaign"
	"hookbed/driver/datapath"
	"hookbed/driver/plan"
	"hookbed/driver/reduce"
)

// helperName is how functions of the guest helper are called in traces.
const helperName = "helper"

// endsOf are the programs at the two ends of a cell's workload, by their names: what the workload
// starts is the server, and what it waits for the client.
func endsOf(cell plan.Cell) (client, server string, err error) {
	setup, err := datapath.Render(cell)
	if err != nil {
		return "", "", err
	}
	b, err := campaign.Bundle(cell, setup)
	if err != nil {
		return "", "", err
	}
	for _, s := range b.Steps {
		if s.Phase != bundle.Run {
			continue
		}
		switch do := first(s).(type) {
		case bundle.Start:
			server = path.Base(do.Argv[0])
		case bundle.Exec:
			client = path.Base(do.Argv[0])
		}
	}
	return client, server, nil
}

// first is what a step does, or the first of what it does at once.
func first(s bundle.Step) bundle.Action {
	if do, ok := s.Do.(bundle.Parallel); ok && len(do.Steps) > 0 {
		return do.Steps[0].Do
	}
	return s.Do
}

// programs are the guest's ELF files that run in a workload, as the reducer wants them: the guest
// helper, the programs at both ends, and libraries, sorted by path. A library that no program names
// may be opened by any. helper is the helper's path.
func programs(files map[string][]byte, helper, client, server string) []reduce.Program {
	runs := func(p string) bool {
		return p == helper || !library(p) && (path.Base(p) == client || path.Base(p) == server)
	}
	users := map[string][]string{} // of libraries: the programs that run and load them
	others := map[string]bool{}    // libraries that only other programs load
	for _, p := range slices.Sorted(maps.Keys(files)) {
		if library(p) {
			continue
		}
		for _, lib := range libraries(files, p) {
			others[lib] = true
			if runs(p) {
				users[lib] = append(users[lib], path.Base(p))
			}
		}
	}
	var out []reduce.Program
	for _, p := range slices.Sorted(maps.Keys(files)) {
		name := path.Base(p)
		r := reduce.Program{Name: name, File: bytes.NewReader(files[p])}
		switch {
		case library(p) && len(users[p]) == 0 && others[p], !library(p) && !runs(p):
			continue
		case p == helper:
			r.Name, r.Role = helperName, trace.RoleHelper
		case library(p) && len(users[p]) == 1:
			r.Of = users[p][0]
		case library(p):
			r.Shared = true
		case client == server && name == client:
			r.Role = reduce.Ends
		case name == client:
			r.Role = trace.RoleClient
		case name == server:
			r.Role = trace.RoleServer
		}
		out = append(out, r)
	}
	return out
}

// library says whether a path is that of a shared library or of the loader.
func library(p string) bool {
	name := path.Base(p)
	return strings.HasSuffix(name, ".so") || strings.Contains(name, ".so.")
}

// libraries are the paths of what a program loads, and of what that loads.
func libraries(files map[string][]byte, program string) (out []string) {
	seen := map[string]bool{}
	for todo := []string{program}; len(todo) > 0; todo = todo[1:] {
		e, err := elf.NewFile(bytes.NewReader(files[todo[0]]))
		if err != nil {
			continue // the reducer says what is wrong with it
		}
		names, _ := e.ImportedLibraries() // a static program loads none
		for _, s := range e.Progs {
			if s.Type == elf.PT_INTERP {
				loader := make([]byte, s.Filesz)
				if n, _ := s.ReadAt(loader, 0); n > 0 {
					names = append(names, path.Base(strings.TrimRight(string(loader), "\x00")))
				}
			}
		}
		for _, p := range slices.Sorted(maps.Keys(files)) {
			if slices.Contains(names, path.Base(p)) && !seen[p] {
				seen[p] = true
				out, todo = append(out, p), append(todo, p)
			}
		}
	}
	return out
}
