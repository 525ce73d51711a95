package step

import (
	"context"
	"fmt"

	"hookbed/driver/bundle"
	"hookbed/driver/guest/probe"
)

func doListen(c *call, a bundle.Listen) error {
	if _, ok := c.x.servers[a.Handle]; ok || a.Handle == "" {
		return fmt.Errorf("server handle %q is taken", a.Handle)
	}
	e, err := probe.NewEchoServer(c.ctx, a.Port, c.x.silentLimit)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	c.keepServer(a.Handle, func(context.Context) error {
		e.Close()
		return nil
	})
	return nil
}
