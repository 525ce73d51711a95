package main

import (
	"context"
	"fmt"

	"hookbed/driver/bundle"
)

func doListen(c *call, a bundle.Listen) error {
	if _, ok := c.x.servers[a.Handle]; ok || a.Handle == "" {
		return fmt.Errorf("server handle %q is taken", a.Handle)
	}
	e, err := newEchoServer(c.ctx, a.Port, c.x.silentLimit)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	c.keepServer(a.Handle, func(context.Context) error {
		e.close()
		return nil
	})
	return nil
}
