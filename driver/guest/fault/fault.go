// Package fault says whose fault an error is: of what is measured, of this kernel, of a
// measurement that must not be used, or else of the testbed itself.
package fault

import (
	"errors"
	"fmt"
	"os"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"hookbed/driver/bundle"
)

// faultError says whose fault an error is; see the Fault constants of package
// bundle. An error without one is the rig's.
type faultError struct {
	fault string
	err   error
}

func (e *faultError) Error() string { return e.err.Error() }
func (e *faultError) Unwrap() error { return e.err }

// Subject is an error of the datapath or workload that is measured.
func Subject(format string, args ...any) error {
	return &faultError{bundle.FaultSubject, fmt.Errorf(format, args...)}
}

// Unsupported is an error of something that this kernel or its tools cannot do.
func Unsupported(format string, args ...any) error {
	return &faultError{bundle.FaultUnsupported, fmt.Errorf(format, args...)}
}

// Void is an error of a measurement that must not be used.
func Void(format string, args ...any) error {
	return &faultError{bundle.FaultVoid, fmt.Errorf(format, args...)}
}

// LacksFeature words that this kernel does not have a feature; needs is the
// first version that can have it.
func LacksFeature(what, feature, needs string, err error) error {
	return Unsupported("%s: %s needs Linux %s and its configuration, this is Linux %s: %w", what, feature, needs, KernelRelease(), err)
}

// Of classifies an error for a Reply.
func Of(err error) string {
	var fe *faultError
	switch {
	case errors.As(err, &fe):
		return fe.fault
	case errors.Is(err, ebpf.ErrNotSupported):
		return bundle.FaultUnsupported
	default:
		return bundle.FaultRig
	}
}

// IsGone reports whether an error means that the thing to be undone, or the
// namespace it was in, is no longer there.
func IsGone(err error) bool {
	var noLink netlink.LinkNotFoundError
	if errors.As(err, &noLink) {
		return true
	}
	for _, e := range []error{unix.ENODEV, unix.ENOENT, unix.ESRCH, unix.ENXIO, unix.EADDRNOTAVAIL, os.ErrNotExist, os.ErrClosed} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// KernelRelease is that of uname -r.
func KernelRelease() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "of unknown version"
	}
	return unix.ByteSliceToString(u.Release[:])
}
