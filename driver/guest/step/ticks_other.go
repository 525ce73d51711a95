//go:build !amd64

package step

const haveTicks = false

func ticks() uint64 { return 0 }
