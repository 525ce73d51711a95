package runs

import (
	"cmp"
	"encoding/json"
	"errors"
	"strings"
)

// Accelerators of QEMU, as env.json names them.
const (
	AcceleratorKVM = "kvm"
	AcceleratorTCG = "tcg" // emulation: instructions are translated
)

// Environment is what analyses read of env.json by name; Run.Env has all of it.
// A field that the driver did not record is zero.
type Environment struct {
	// Accelerator is AcceleratorKVM or AcceleratorTCG; "" where the driver booted no
	// virtual machine, or did not record it.
	Accelerator string
}

// UnmarshalJSON reads env.json as drivers write it, {"accelerator": "tcg"}, and as
// they did before: "accel" in place of "accelerator", with the name under "used", or
// all of it under "lab". A field of another type is taken for not recorded.
func (e *Environment) UnmarshalJSON(data []byte) error {
	var file struct {
		Accelerator acceleratorName `json:"accelerator"`
		Accel       acceleratorName `json:"accel"`
		Lab         struct {
			Accel acceleratorName `json:"accel"`
		} `json:"lab"`
	}
	var other *json.UnmarshalTypeError
	if err := json.Unmarshal(data, &file); err != nil && !errors.As(err, &other) {
		return err
	}
	e.Accelerator = string(cmp.Or(file.Accelerator, file.Accel, file.Lab.Accel))
	return nil
}

// acceleratorName is the name of an accelerator, "" if a file has words for a person
// in its place: "none (existing machines)".
type acceleratorName string

// UnmarshalJSON reads a name, or an object with the name under "used".
func (a *acceleratorName) UnmarshalJSON(data []byte) error {
	var name string
	var object struct {
		Used string `json:"used"`
	}
	// Of another type than these two, it is no name.
	if json.Unmarshal(data, &name) != nil && json.Unmarshal(data, &object) == nil {
		name = object.Used
	}
	if name = strings.ToLower(strings.TrimSpace(name)); name == AcceleratorKVM || name == AcceleratorTCG {
		*a = acceleratorName(name)
	}
	return nil
}
