package runs

import (
	"os"
	"path/filepath"
	"testing"
)

// FuzzRun: whatever a run directory's files hold, loading it gives runs or an error.
func FuzzRun(f *testing.F) {
	const rows = "schema,run,cell,block,trial,order,status,reason,metric,unit,value,raw,arm,clock\n" +
		"2,r,c,1,1,1,ok,,rate,1/s,5,raw/c/1-1/x,a,wall\n2,r,c,1,1,1,ok,,trial_rows,1,1,sha256:00,a,wall\n"
	f.Add([]byte(rows), []byte(`{"spec": {"name": "t", "lab": {"clock": "wall"}}}`), []byte(`{"kernel_release": "6.12"}`))
	f.Add([]byte(rows[:100]), []byte(`{"cells": [null], "trials": [{}], "catalog": {}}`), []byte(`{"nodes": {"a": null}, "kernel_release": {"6.1": "x"}}`))
	f.Add([]byte(""), []byte(`null`), []byte(`[]`))
	f.Fuzz(func(t *testing.T, rows, plan, env []byte) {
		dir := t.TempDir()
		for name, data := range map[string][]byte{RowsFile: rows, PlanFile: plan, EnvFile: env} {
			if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		all, err := Load(dir)
		if err == nil && len(all) != 1 {
			t.Errorf("%d runs", len(all))
		}
		if _, err := ParsePlan(plan); err != nil {
			return
		}
		_, _ = ReadEnvironments(dir)
	})
}
