package main

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"hookbed/analysis/export"
	"hookbed/driver/lab"
	"hookbed/driver/plan"
	"hookbed/images"
)

// complete gives commands and flags what a shell offers to complete their words with. A command that
// is not named here completes files.
func (a *app) complete(root *cobra.Command) {
	arguments := map[string]cobra.CompletionFunc{
		"arms": first(offered(func([]string) []string { return catalog().Offer().Names() })), "schema": first(offered(func([]string) []string { return schemas() })),
		"report": completeRuns, "compare": completeRuns, "verify": completeRuns, "pack": completeRuns, "merge": completeRuns, "open": completeRuns,
		"run": completeFile, "plan": completeFile, "trace": completeFile, "up": completeFile, "doctor": completeFile, "cost": completeFile,
		"ssh": first(offered(func([]string) []string { return nodes() })), "down": offered(func([]string) []string { return labNames() }),
		"import": first(offered(func([]string) []string { return importForms() })),
	}
	several := []string{"arms", "kernel", "kernels", "workloads", "scenarios"}
	flags := map[string]func(args []string) []string{
		"arms": func([]string) []string { return armNames() }, "kernel": kernelNames, "kernels": kernelNames, "workloads": workloadNames,
		"scenarios": func([]string) []string { return []string{plan.Localhost, plan.MultiHost} },
		"provider":  func([]string) []string { return []string{plan.ProviderLibvirt, plan.ProviderLocal} },
		"drift":     func([]string) []string { return []string{"allow", "forbid"} },
		"arm":       armsIn, "against": armsIn, "set": settingKeys, "lab": func([]string) []string { return labNames() },
	}
	perCommand := map[string]func(args []string) []string{
		"init clock": func([]string) []string { return []string{plan.ClockVirtual, plan.ClockWall} },
		"cost clock": func([]string) []string { return []string{plan.ClockWall, plan.ClockVirtual, "both"} },
	}
	for _, name := range []string{"compare", "verify"} {
		perCommand[name+" format"] = func([]string) []string { return formats() }
	}
	perCommand["report format"] = func([]string) []string { return formats(export.FormatBench) }
	for _, cmd := range commandsBelow(root) {
		name := cmd.Name()
		if f := arguments[name]; f != nil && cmd.Parent() == root {
			cmd.ValidArgsFunction = f
		}
		for flag, offer := range flags {
			completeFlag(cmd, flag, offer, slices.Contains(several, flag), flag == "set")
		}
		for key, offer := range perCommand {
			if of, flag, _ := strings.Cut(key, " "); of == name {
				completeFlag(cmd, flag, offer, false, false)
			}
		}
		if cmd.Flags().Lookup("resume") != nil {
			_ = cmd.RegisterFlagCompletionFunc("resume", completeRuns) // it has the flag, once
		}
	}
}

// commandsBelow are all commands below one.
func commandsBelow(of *cobra.Command) (out []*cobra.Command) {
	for _, c := range of.Commands() {
		out = append(append(out, c), commandsBelow(c)...)
	}
	return out
}

// completeFlag completes a flag of a command, if it has one of that name. Of several values with
// commas between it completes the last; open says that more follows a word.
func completeFlag(cmd *cobra.Command, flag string, offer func(args []string) []string, several, open bool) {
	if cmd.Flags().Lookup(flag) == nil {
		return
	}
	complete := func(_ *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
		all, before := offer(args), ""
		if i := strings.LastIndexByte(typed, ','); several && i >= 0 {
			before = typed[:i+1]
		}
		out := []cobra.Completion{}
		for _, word := range all {
			out = append(out, before+word)
		}
		directive := cobra.ShellCompDirectiveNoFileComp
		if open || several {
			directive |= cobra.ShellCompDirectiveNoSpace
		}
		return beginningWith(out, typed), directive
	}
	_ = cmd.RegisterFlagCompletionFunc(flag, complete) // it has the flag, once
}

func beginningWith(all []string, typed string) []string {
	return slices.DeleteFunc(all, func(word string) bool { return !strings.HasPrefix(word, typed) })
}

// offered completes arguments by a list. args are those before the one that is typed.
func offered(offer func(args []string) []string) cobra.CompletionFunc {
	return func(_ *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
		left := slices.DeleteFunc(slices.Clone(offer(args)), func(word string) bool { return slices.Contains(args, word) })
		return beginningWith(left, typed), cobra.ShellCompDirectiveNoFileComp
	}
}

// first completes the first argument alone.
func first(complete cobra.CompletionFunc) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return complete(cmd, args, typed)
	}
}

// completeFile completes experiments.
func completeFile(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return []cobra.Completion{"toml"}, cobra.ShellCompDirectiveFilterFileExt
}

// completeRuns completes the run directories below runs, the newest first, or any file.
func completeRuns(_ *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
	found := slices.DeleteFunc(recentRuns("runs"), func(dir string) bool { return slices.Contains(args, dir) })
	if found = beginningWith(found, typed); len(found) == 0 {
		return nil, cobra.ShellCompDirectiveDefault
	}
	return found, cobra.ShellCompDirectiveKeepOrder | cobra.ShellCompDirectiveNoFileComp
}

// armNames are what an arm can be without options.
func armNames() (out []string) {
	for _, d := range catalog().Datapaths {
		if d.Crossed && d.Impossible == "" && !slices.Contains(out, d.Filter) {
			out = append(out, d.Filter)
		}
		if d.Impossible == "" {
			out = append(out, d.Name)
		}
	}
	return out
}

// armsIn are the arms of the experiment that the command line names.
func armsIn(args []string) (out []string) {
	if len(args) == 0 || args[0] == standardInput {
		return nil
	}
	spec, err := plan.Load(args[0], catalog())
	if err != nil {
		return nil // nothing to complete with; the command itself says why
	}
	for _, a := range spec.Arms {
		out = append(out, a.Name)
	}
	return out
}

func kernelNames([]string) []string { return slices.Concat(images.Kernels(), images.Versions()) }

func workloadNames([]string) (out []string) {
	for _, w := range catalog().Workloads {
		out = append(out, w.Name)
	}
	return out
}

// settingKeys are the keys that --set can give values, each with its "=".
// Options of arms follow the names of the arms of the experiment.
func settingKeys(args []string) (out []string) {
	arms := armsIn(args)
	for _, k := range plan.Keys(catalog()) {
		key, option := strings.CutPrefix(k.Path, "arm.")
		switch {
		case option:
			for _, name := range arms {
				out = append(out, "arm."+name+"."+key+"=")
			}
		case k.Settable():
			out = append(out, k.Path+"=")
		}
	}
	return out
}

// importForms are what `driver import` reads.
func importForms() []string {
	return []string{"iptables-save", "nft", "networkpolicy", "ciliumnetworkpolicy"}
}

// labNames are the labs that are there, and nodes their nodes that one can log in to.
func labNames() (out []string) {
	for _, l := range standingLabs() {
		out = append(out, l.Name)
	}
	return out
}

func nodes() (out []string) {
	up := reachable(standingLabs())
	for _, l := range up {
		for _, n := range l.NodeNames() {
			if len(up) > 1 {
				n = l.Name + "/" + n
			}
			out = append(out, n)
		}
	}
	return out
}

func standingLabs() []lab.State {
	root, err := stateRoot()
	if err != nil {
		return nil
	}
	labs, err := lab.Labs(root)
	if err != nil {
		return nil // the command itself says why
	}
	return labs
}
