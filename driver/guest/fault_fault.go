package main

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

func subject(format string, args ...any) error {
	return &faultError{bundle.FaultSubject, fmt.Errorf(format, args...)}
}

func unsupported(format string, args ...any) error {
	return &faultError{bundle.FaultUnsupported, fmt.Errorf(format, args...)}
}

func void(format string, args ...any) error {
	return &faultError{bundle.FaultVoid, fmt.Errorf(format, args...)}
}

// lacksFeature words that this kernel does not have a feature; needs is the
// first version that can have it.
func lacksFeature(what, feature, needs string, err error) error {
	return unsupported("%s: %s needs Linux %s and its configuration, this is Linux %s: %w", what, feature, needs, kernelRelease(), err)
}

// faultOf classifies an error for a Reply.
func faultOf(err error) string {
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

// isGone reports whether an error means that the thing to be undone, or the
// namespace it was in, is no longer there.
func isGone(err error) bool {
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

// kernelRelease is that of uname -r.
func kernelRelease() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "of unknown version"
	}
	return unix.ByteSliceToString(u.Release[:])
}
